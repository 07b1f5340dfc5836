"""The pages about other libraries run as they are printed, with tiny models in place of those of the hub."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from samples.sentence_models import make_sentence_transformer
from samples.tiny_models import make_model

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^<!-- test: ecosystem ([\w ]*)-->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLAIN, SENTENCES = "bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"


def sections() -> dict[str, list[tuple[str, str]]]:
    """The blocks of each section of each page, after those before the first section: libraries and code."""
    found = {}
    for path in sorted(DOCS.rglob("*.md")):
        start, *parts = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for part in parts:
            if blocks := BLOCK.findall(part):
                found[f"{path.stem}: {part.partition(chr(10))[0]}"] = BLOCK.findall(start) + blocks
    return found


SECTIONS = sections()


def test_every_library_has_a_section():
    libraries = {one for blocks in SECTIONS.values() for named, _ in blocks for one in named.split()}
    assert libraries == {"fastapi", "mteb", "onnxruntime", "onnxscript", "peft", "sentence_transformers", "setfit"}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_runs(name, library, tmp_path, monkeypatch):
    for libraries, _ in SECTIONS[name]:
        for one in libraries.split():
            library(one)
    models = {
        PLAIN: make_model(tmp_path / "bert"),
        SENTENCES: make_sentence_transformer(tmp_path / "sentences", max_seq_length=160),
    }
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for index, (_, code) in enumerate(SECTIONS[name]):
        for model, folder in models.items():
            code = code.replace(f'"{model}"', repr(str(folder)))
        exec(compile(code, f"{name}, block {index}", "exec"), names)
    assert len(names) > 2
