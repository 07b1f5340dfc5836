"""pydocs: enough text, the same everywhere, nothing leaking between splits."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from winning_tickets.data import pydocs
from winning_tickets.data.pydocs import (
    MAX_PASSAGES,
    MIN_WORDS,
    Passage,
    passages_of,
    pydocs_corpus,
    pydocs_info,
    pydocs_task,
)
from winning_tickets.runs.errors import ContentError

SOURCE = '''
"""The module itself, described in a handful of words only."""

import os

if os.name == "posix":
    class Window:
        """Short."""

        def open(self):
            """Open it and let in as much air as one can breathe."""
            def inner():
                """A function within a method has a docstring of its own."""
else:
    def shut(): "Shut it so that the noise of the street stays outside."
'''


@pytest.fixture
def fake_stdlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of our own, to be read around the cache."""
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    return tmp_path


def test_enough_text() -> None:
    info = pydocs_info()
    assert info["words"] >= 150_000
    assert re.fullmatch("[0-9a-f]{32}", info["text_hash"])
    assert re.fullmatch(r"3\.\d+\.\d+.*", info["python_version"])
    assert info["words"] == sum(
        len(text.split()) for split in ("train", "validation") for text in pydocs_corpus("all", split)
    )
    assert set(info["modules"]) | set(info["missing"]) >= set(pydocs.MODULES)


def test_parts_and_splits_partition_the_text() -> None:
    parts = {(p, s): pydocs_corpus(p, s) for p in ("docstrings", "topics") for s in ("train", "validation")}
    everything = [text for texts in parts.values() for text in texts]
    assert len(everything) == len(set(everything)) == pydocs_info()["passages"]
    for split in ("train", "validation"):
        assert set(pydocs_corpus("all", split)) == {*parts["docstrings", split], *parts["topics", split]}
    share = len(pydocs_corpus("all", "validation")) / len(everything)
    assert 0.05 < share < 0.15
    assert min(len(text.split()) for text in everything) >= MIN_WORDS
    assert not any("\n" in text or ">>>" in text for text in everything)


def test_no_object_is_in_both_splits() -> None:
    splits: dict[str, set[str]] = {}
    for passage in pydocs.stdlib_text().passages:
        splits.setdefault(passage.owner, set()).add(passage.split)
    assert max(map(len, splits.values())) == 1


def test_a_beginning_of_the_corpus_mixes_modules() -> None:
    """Evaluation of the first tokens alone must not mean the first module alone."""
    owners = {passage.text: passage.module for passage in pydocs.stdlib_text().passages}
    assert len({owners[text] for text in pydocs_corpus("all", "validation")[:200]}) >= 10


def test_task() -> None:
    data = pydocs_task()
    train, validation = data.train, data.validation["validation"]
    assert data.source == "built in"
    assert len(data.task.labels) >= 12
    assert (data.task.learning_rate, data.task.batch_size, data.task.max_length) == (1e-4, 16, 64)
    for split, limit in ((train, MAX_PASSAGES["train"]), (validation, MAX_PASSAGES["validation"])):
        counts = Counter(split.labels)
        assert set(counts) == set(range(len(data.task.labels)))
        assert max(counts.values()) <= limit
        assert max(counts.values()) / len(split) < 0.15
    assert not set(train.texts[0]) & set(validation.texts[0])
    assert len(train) >= 1500
    assert len(validation) >= 200


def test_task_does_not_name_its_answer() -> None:
    data = pydocs_task()
    for split in (data.train, *data.validation.values()):
        for text, label in zip(split.texts[0], split.labels, strict=True):
            assert not re.search(rf"\b{data.task.labels[label]}\b", text, re.IGNORECASE)


def test_task_splits_are_those_of_the_corpus() -> None:
    """A ticket searched on the training corpus has not seen the task's validation passages."""
    validation = {pydocs._without_name(text, "xml") for text in pydocs_corpus("docstrings", "validation")}
    data = pydocs_task()
    xml = data.task.labels.index("xml")
    texts = zip(data.validation["validation"].texts[0], data.validation["validation"].labels, strict=True)
    assert {text for text, label in texts if label == xml} <= validation


def test_source_is_read_without_being_run(fake_stdlib: Path) -> None:
    (fake_stdlib / "pydoc_data").mkdir()
    topics = "topics = {'b': 'Words about the second topic, eight of them here.', 'a': 'Too short.'}"
    (fake_stdlib / "pydoc_data" / "topics.py").write_text(topics)
    (fake_stdlib / "shlex.py").write_text(SOURCE + "raise SystemExit")
    (fake_stdlib / "xml" / "test").mkdir(parents=True)
    (fake_stdlib / "xml" / "__init__.py").write_text('"""A package says what it is for in its file."""')
    (fake_stdlib / "xml" / "dom.py").write_text('def f(): """A function of a submodule of a package, that is."""')
    (fake_stdlib / "xml" / "test" / "a.py").write_text('"""Tests are left out of the text of a package."""')
    found = pydocs.stdlib_text.__wrapped__()
    assert found.modules == ("shlex", "xml")
    assert "asyncio" in found.missing
    assert found.passages == (
        Passage("Words about the second topic, eight of them here.", "topics", "topics.b"),
        Passage("The module itself, described in a handful of words only.", "shlex", "shlex"),
        Passage("Open it and let in as much air as one can breathe.", "shlex", "shlex.Window"),
        Passage("A function within a method has a docstring of its own.", "shlex", "shlex.Window"),
        Passage("Shut it so that the noise of the street stays outside.", "shlex", "shlex.shut"),
        Passage("A package says what it is for in its file.", "xml", "xml"),
        Passage("A function of a submodule of a package, that is.", "xml", "xml.dom.f"),
    )


def test_no_source_files(fake_stdlib: Path) -> None:
    with pytest.raises(ContentError, match="no source files of its standard library"):
        pydocs.stdlib_text.__wrapped__()


@pytest.mark.parametrize(
    ("docstring", "passages"),
    [
        ("Return it.", []),
        ("One two three four five\n    six seven eight.", ["One two three four five six seven eight."]),
        (
            "Head.\n\nOne two three four five six seven.\n\nTail.",
            ["Head. One two three four five six seven. Tail."],
        ),
        (
            "One two three four five six seven eight.\n\n>>> f()\n1\n\na b ::= c\n\n-- || --",
            ["One two three four five six seven eight."],
        ),
    ],
)
def test_passages_of(docstring: str, passages: list[str]) -> None:
    assert passages_of(docstring) == passages
