"""The token cache: made once, memory-mapped, rebuilt when damaged, safe under races."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samples.tiny import tiny_tokenizer
from winning_tickets.data import token_cache
from winning_tickets.data.corpora import CorpusText
from winning_tickets.data.readers import fingerprint
from winning_tickets.data.token_cache import cache_root, clean_cache, list_cache_entries, tokenize, tokenizer_hash
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError

LINES = ["the cat sat on the mat .", "\u200d", "a dog [SEP] barked", "the end " * 400]


def corpus_of(lines: list[str]) -> CorpusText:
    return CorpusText("made up", "train", lines, fingerprint(lines))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WINNING_TICKETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer(LINES)


def test_root_is_looked_up_when_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: Path) -> None:
    assert cache_root() == root
    monkeypatch.delenv("WINNING_TICKETS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "winning-tickets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "winning-tickets"


def test_lines_come_back_without_special_tokens(tokenizer: Any) -> None:
    stream = tokenize(corpus_of(LINES), tokenizer)
    assert isinstance(stream.tokens, np.memmap)
    assert stream.tokens.dtype == np.uint16
    assert stream.n_lines == len(LINES)
    for index, line in enumerate(LINES):
        found = stream.tokens[stream.offsets[index] : stream.offsets[index + 1]].tolist()
        assert found == tokenizer.convert_tokens_to_ids(tokenizer.tokenize(line))
    assert stream.offsets.tolist()[:2] == [0, 7]
    assert stream.n_tokens == stream.offsets[-1] > 800
    with pytest.raises(ValueError, match="read-only"):
        stream.tokens[0] = 1


def test_many_lines_go_through_in_parts(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.array(tokenize(corpus_of(LINES), tokenizer).tokens)
    clean_cache()
    monkeypatch.setattr(token_cache, "_LINES_AT_A_TIME", 1)
    assert np.array_equal(tokenize(corpus_of(LINES), tokenizer).tokens, whole)


def test_long_lines_go_through_one_by_one(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "_CHARACTERS_AT_A_TIME", 26)
    assert list(token_cache._some_at_a_time(LINES)) == [LINES[:3], LINES[3:]]
    assert list(token_cache._some_at_a_time([])) == []


def test_special_words_of_the_text_stay_as_the_tokenizer_has_them(tokenizer: Any) -> None:
    """Truncation and padding of an earlier call are not for the corpus."""
    tokenizer("the cat sat", truncation=True, max_length=2, padding="max_length")
    stream = tokenize(corpus_of(LINES[2:3]), tokenizer)
    assert stream.tokens.tolist() == tokenizer.convert_tokens_to_ids(["a", "dog", "[SEP]", "barked"])


def test_a_text_that_changes_while_it_is_read(tokenizer: Any, root: Path) -> None:
    corpus = CorpusText("a.txt", "train", LINES, fingerprint(LINES[:2]))
    with pytest.raises(ContentError, match=r"^The corpus a\.txt \(train\) changed while it was read; start again\.$"):
        tokenize(corpus, tokenizer)
    assert list((root / "tokens").iterdir()) == []


def test_offsets_are_an_ordinary_array_in_a_file(tokenizer: Any) -> None:
    stream = tokenize(corpus_of(LINES), tokenizer)
    assert isinstance(stream.offsets, np.memmap)
    assert stream.offsets.dtype == np.int64
    expected = np.cumsum([0, *(len(tokenizer.tokenize(line)) for line in LINES)])
    assert np.array_equal(np.load(stream.path / "offsets.npy"), expected)


def test_large_vocabularies_need_four_bytes() -> None:
    words = [f"w{index}" for index in range(70_000)]
    tokenizer = tiny_tokenizer([" ".join(words)])
    stream = tokenize(corpus_of(words[-2:]), tokenizer)
    assert stream.tokens.dtype == np.uint32
    assert stream.tokens.tolist() == tokenizer.convert_tokens_to_ids(words[-2:])


def test_second_time_reads_the_cache(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tokenize(corpus_of(LINES), tokenizer)
    monkeypatch.setattr(token_cache, "_tokenized", None)
    second = tokenize(corpus_of(LINES), tokenizer)
    assert first.path == second.path
    assert np.array_equal(first.tokens, second.tokens)


def test_key_follows_text_and_tokenizer(tokenizer: Any) -> None:
    other = tiny_tokenizer([*LINES, "more"])
    keys = {tokenize(corpus_of(text), t).path for text in (LINES, LINES[:1]) for t in (tokenizer, other)}
    assert len(keys) == 4


def test_tokenizer_hash_ignores_the_last_call(tokenizer: Any) -> None:
    before = tokenizer_hash(tokenizer)
    tokenizer("the cat sat", truncation=True, max_length=2, padding="max_length")
    assert tokenizer.backend_tokenizer.truncation is not None
    assert tokenizer_hash(tokenizer) == before
    assert tokenizer_hash(tiny_tokenizer(LINES, mask_token=None)) != before


def test_slow_tokenizers_are_refused() -> None:
    with pytest.raises(UsageError, match="object is not a fast tokenizer"):
        tokenizer_hash(object())


def cut(path: Path) -> None:
    (path / "tokens.bin").write_bytes((path / "tokens.bin").read_bytes()[:-2])


def flip(path: Path) -> None:
    content = bytearray((path / "tokens.bin").read_bytes())
    content[10] ^= 1
    (path / "tokens.bin").write_bytes(content)


def shift(path: Path) -> None:
    offsets = np.load(path / "offsets.npy")
    offsets[1] += 1
    np.save(path / "offsets.npy", offsets)


def entry(value: Any) -> Callable[[Path], None]:
    return lambda path: (path / "entry.json").write_text(json.dumps(value)) and None


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip,
        shift,
        entry([]),
        entry({}),
        lambda path: (path / "tokens.bin").write_bytes(b""),
        lambda path: (path / "tokens.bin").unlink(),
        lambda path: (path / "offsets.npy").write_bytes(b"no array"),
        lambda path: (path / "entry.json").write_text("{"),
        lambda path: (path / "entry.json").write_text("[" * 100_000),
    ],
)
def test_damaged_entries_are_made_again(tokenizer: Any, damage: Callable[[Path], None]) -> None:
    stream = tokenize(corpus_of(LINES), tokenizer)
    good = np.array(stream.tokens)
    damage(stream.path)
    assert token_cache._open(stream.path) is None
    again = tokenize(corpus_of(LINES), tokenizer)
    assert np.array_equal(again.tokens, good)
    assert token_cache._open(stream.path) is not None
    assert [path.name for path in stream.path.parent.iterdir()] == [stream.path.name]


def test_a_faster_process_wins(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes the same entry while this one is still writing."""
    write = token_cache._write

    def interrupted(*given: Any, end: Any) -> None:
        monkeypatch.setattr(token_cache, "_write", write)
        tokenize(corpus_of(LINES), tokenizer)
        write(*given, end=end)

    monkeypatch.setattr(token_cache, "_write", interrupted)
    stream = tokenize(corpus_of(LINES), tokenizer)
    assert stream.n_lines == len(LINES)
    assert [path.name for path in stream.path.parent.iterdir()] == [stream.path.name]


def test_a_second_launch_waits_for_the_first(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write, begun, found = token_cache._write, threading.Barrier(2), []

    def slow(*arguments: Any, end: Any) -> None:
        begun.wait()
        time.sleep(0.2)
        write(*arguments, end=end)

    def second() -> None:
        begun.wait()
        found.append(tokenize(corpus_of(LINES), tokenizer))

    monkeypatch.setattr(token_cache, "_write", slow)
    thread = threading.Thread(target=second)
    thread.start()
    first = tokenize(corpus_of(LINES), tokenizer)
    thread.join()  # a second `_write` would wait for ever
    assert [one.path.name for one in found] == [first.path.name]
    assert [path.name for path in first.path.parent.iterdir()] == [first.path.name]


def test_full_disk(tokenizer: Any, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(token_cache.np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(TrainingError, match=r"Could not write the token cache .*No space left.*WINNING_TICKETS_CACHE"):
        tokenize(corpus_of(LINES), tokenizer)
    assert list((root / "tokens").iterdir()) == []


def test_no_tokens(tokenizer: Any, root: Path) -> None:
    with pytest.raises(ContentError, match=r"made up \(train\) has no tokens"):
        tokenize(corpus_of(["\u200d"]), tokenizer)
    assert list((root / "tokens").iterdir()) == []


def test_list_and_clean(tokenizer: Any, root: Path) -> None:
    assert list_cache_entries() == []
    assert clean_cache() == 0
    old, new = (tokenize(corpus_of(lines), tokenizer) for lines in (LINES, LINES[:1]))
    long_ago = time.time() - 10 * 24 * 3600
    os.utime(old.path / "entry.json", (long_ago, long_ago))
    listed = list_cache_entries()
    assert [found["key"] for found in listed] == [new.path.name, old.path.name]
    assert listed[0] | {"bytes": 0, "last_used": 0} == {
        "key": new.path.name,
        "corpus": "made up",
        "split": "train",
        "tokenizer": "",
        "tokens": 7,
        "lines": 1,
        "bytes": 0,
        "last_used": 0,
    }
    leftover = root / "tokens" / ".x.tmp"
    leftover.mkdir()
    assert clean_cache(older_than_days=9) == listed[1]["bytes"]
    assert [found["key"] for found in list_cache_entries()] == [new.path.name]
    os.utime(leftover, (long_ago, long_ago))
    assert clean_cache() == listed[0]["bytes"]
    assert list((root / "tokens").iterdir()) == []


def test_damaged_entries_are_listed(tokenizer: Any) -> None:
    (tokenize(corpus_of(LINES), tokenizer).path / "entry.json").write_text("[" * 100_000)
    assert [(found["corpus"], found["bytes"] > 100_000) for found in list_cache_entries()] == [(None, True)]


def test_reading_counts_as_use(tokenizer: Any) -> None:
    stream = tokenize(corpus_of(LINES), tokenizer)
    os.utime(stream.path / "entry.json", (1, 1))
    tokenize(corpus_of(LINES), tokenizer)
    assert clean_cache(older_than_days=1) == 0


def test_entries_that_another_process_removes_meanwhile(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = token_cache._folders

    def removed(*, hidden: bool) -> list[Path]:
        found = original(hidden=hidden)
        for path in found:
            shutil.rmtree(path)
        return found

    for look in (list_cache_entries, clean_cache):
        (tokenize(corpus_of(LINES), tokenizer).path.parent / ".x.tmp").mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(token_cache, "_folders", removed)
            assert not look()
