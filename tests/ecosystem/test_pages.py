"""The pages about other libraries run as they are printed, with tiny models in place of those of the hub."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from samples.sentence_models import make_sentence_transformer
from samples.tiny_models import make_model

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^<!-- test: ecosystem ([\w ]*)-->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {path.stem: path for path in sorted(DOCS.rglob("*.md")) if BLOCK.search(path.read_text(encoding="utf-8"))}
PLAIN, SENTENCES = "bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"


def test_every_library_has_a_page():
    of_libraries = {path.stem for path in (DOCS / "how_to").glob("with_*.md")}
    assert of_libraries <= set(PAGES), "a page without a block that runs"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs(name, library, tmp_path, monkeypatch):
    blocks = BLOCK.findall(PAGES[name].read_text(encoding="utf-8"))
    for libraries, _ in blocks:
        for one in libraries.split():
            library(one)
    models = {
        PLAIN: make_model(tmp_path / "bert"),
        SENTENCES: make_sentence_transformer(tmp_path / "sentences", max_seq_length=160),
    }
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for index, (_, code) in enumerate(blocks):
        for model, folder in models.items():
            code = code.replace(f'"{model}"', repr(str(folder)))
        exec(compile(code, f"{name}.md, block {index}", "exec"), names)
    assert len(names) > 2
