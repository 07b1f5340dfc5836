"""Text of users in any encoding is read, or refused by its name with advice that works."""

from __future__ import annotations

import codecs
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from winning_tickets.config import load_config_file
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.readers import conll_rows, csv_rows, jsonl_rows, read_lines, tsv_rows
from winning_tickets.data.squad import read_articles
from winning_tickets.data.task_files import load_definitions
from winning_tickets.data.user_files import load_files
from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.files import read_json
from winning_tickets.runs.text import read_text
from winning_tickets.studies.load import load_study

LATIN = "text,label\ngood café,yes\nbad naïve,no\n" * 30
MARKED = {
    "utf-8-sig": b"",
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
_SQUAD = {"data": [{"paragraphs": [{"context": "über 5", "qas": [
    {"question": "né?", "answers": [{"text": "5", "answer_start": 5}]}]}]}]}  # fmt: skip
DOORS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a.txt": ("é one\ntwo\n", lambda path: list(read_lines(path))),
    "b.txt": ("é one\ntwo\n", lambda path: load_corpus(str(path), "train").fingerprint),
    "a.csv": ("text,label\né,a\nb,c\n", lambda path: list(csv_rows(path))),
    "a.tsv": ("text\tlabel\né\ta\nb\tc\n", lambda path: list(tsv_rows(path))),
    "a.jsonl": ('{"text": "é"}\n{"text": "b"}\n', lambda path: list(jsonl_rows(path))),
    "a.conll": ("é A\nb O\n\nc O\n", lambda path: list(conll_rows(path, "words", "label"))),
    "a.json": (json.dumps(_SQUAD, ensure_ascii=False), read_articles),
    "c.json": ('{"a": "é"}', lambda path: read_json(path, "result")),
    "a.yaml": ("corpus: é\n", load_config_file),
    "t.yaml": ("t: {train_file: é.csv, validation_file: b.csv}", lambda path: load_definitions(path)),
}


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize("encoding", MARKED)
def test_every_reader_takes_text_with_a_byte_order_mark(tmp_path: Path, name: str, encoding: str) -> None:
    content, read = DOORS[name]
    (tmp_path / name).write_bytes(content.encode())
    expected = read(tmp_path / name)
    (tmp_path / name).write_bytes(MARKED[encoding] + content.encode(encoding))
    assert read(tmp_path / name) == expected


@pytest.mark.parametrize("encoding", list(MARKED)[1:])
@pytest.mark.parametrize("text", [LATIN, "привет мир\nжизнь\n" * 20, "你好世界今天天气很好。\n再见\n" * 20])
def test_text_without_a_mark_is_named_and_the_advice_works(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "my text.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(
        ContentError, match=rf"is {encoding[:6].upper()} without a byte-order mark\. Convert it:"
    ) as seen:
        list(read_lines(path))
    command = str(seen.value).partition("Convert it: ")[2]
    subprocess.run(command, shell=True, check=True)
    assert read_text(tmp_path / "my text-utf8.txt") == text


@pytest.mark.parametrize("encoding", ["cp1252", "latin1"])
def test_western_text_is_converted_by_the_advice(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes(LATIN.encode(encoding))
    message = r"is not UTF-8: byte 0xe9 at offset 19\. Convert it; as Windows-1252 that place reads 'good café,yes'"
    with pytest.raises(ContentError, match=message) as seen:
        list(csv_rows(tmp_path / "a.csv"))
    subprocess.run(str(seen.value).rpartition(": ")[2], shell=True, check=True)
    assert read_text(tmp_path / "a-utf8.csv") == LATIN


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            LATIN.encode("utf-16").decode("latin1").encode(),
            "no text: .* converted as if it were Latin-1; give",
        ),
        (LATIN.encode("utf-16-be").decode("latin1").encode(), "converted from an encoding that it did not have"),
        (("привет мир\n" * 20).encode("cp1251"), r"Convert it from its own encoding \(cp1251, cp932"),
        (("你好世界\n" * 20).encode("gb18030"), "Convert it from its own encoding"),
        ("größe ".encode() * 9 + b"\xff\n", "The rest of it is UTF-8, so that place is damaged"),
        ("größe ".encode() * 9 + "é".encode()[:1], "ends inside a character, so it was cut off"),
        (codecs.BOM_UTF16_LE + b"a\0b", "begins with the mark of UTF-16, and cannot be decoded"),
        (bytes(range(32)) * 20, r"no text: 8\d% of its bytes are control characters"),
        (b"\0" * 100, "no text: 100% of its bytes"),
        (b"PK\x03\x04 and more", "it is a ZIP archive, as xlsx and docx files are"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ContentError, match=message):
        load_corpus(str(path), "train")


def test_a_stray_control_character_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\ngo\0od,a\n\x1b[31mred\x1b[0m,b\n")
    assert len(load_files(path, path, None).train) == 2


def test_a_study_in_utf16(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: s\nstages: {}\n", encoding="utf-16-le")
    with pytest.raises(ContentError, match="UTF-16 without"):
        load_study(path)
