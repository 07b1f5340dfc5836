"""pydocs: a corpus and a task made of the text that every Python installation carries."""

from __future__ import annotations

import re
import sys
from collections import Counter
from functools import cache
from typing import Any, Literal

from winning_tickets.data.fingerprint import fingerprint
from winning_tickets.data.stdlib_text import Passage, stdlib_text
from winning_tickets.data.tasks import TASKS, Split, TaskData
from winning_tickets.errors import unknown

PARTS = ("all", "docstrings", "topics")
MAX_PASSAGES = {"train": 120, "validation": 30}
"""Of one label, so that none dominates."""


def pydocs_corpus(part: str = "all", split: Literal["train", "validation"] = "train") -> list[str]:
    """Passages of the built-in corpus; those of one object stay together, objects are in a mixed but fixed order.

    Args:
        part: `all`, `docstrings` or `topics` (what Python's `help()` says about the language).
        split: one object in ten is for validation.

    Raises:
        UsageError: no such part.
        ContentError: this Python came without the source files of its standard library.
    """
    if part not in PARTS:
        raise unknown("part of pydocs", part, PARTS)
    return list(_corpus(part, split))


@cache
def _corpus(part: str, split: str) -> tuple[str, ...]:
    chosen = [
        passage
        for passage in stdlib_text().passages
        if passage.split == split and (part == "all" or (passage.module == "topics") == (part == "topics"))
    ]
    return tuple(passage.text for passage in sorted(chosen, key=lambda passage: passage.place))


@cache
def pydocs_task() -> TaskData:
    """The built-in task: which module a docstring passage documents, with the module's name masked out.

    Whatever belongs to one top-level object is in one split, the one it has in the corpus too. Each label has at most
    `MAX_PASSAGES`.

    Raises:
        ContentError: this Python came without the source files of its standard library.
    """
    task = TASKS["pydocs"]
    columns: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "validation": ([], [])}
    counts: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    for passage in sorted(stdlib_text().passages, key=lambda passage: passage.place):
        label = _label(passage)
        text = _without_name(passage.text, label)
        full = counts[label, passage.split] >= MAX_PASSAGES[passage.split]
        if label not in task.labels or full or text in seen:
            continue
        seen.add(text)
        counts[label, passage.split] += 1
        texts, labels = columns[passage.split]
        texts.append(text)
        labels.append(task.labels.index(label))
    train, validation = (Split((texts,), labels) for texts, labels in columns.values())
    return TaskData.of(task, train, {"validation": validation}, "built in")


def _label(passage: Passage) -> str:
    """`_pydecimal` and `_pyio` are the readable sources of `decimal` and `io`."""
    return passage.module.removeprefix("_py")


def _without_name(text: str, label: str) -> str:
    """Replace the module's own name by `it`, in capitals too: to most encoders JSON and json are one word."""
    return re.sub(rf"\b(_py)?{label}\b", "it", text, flags=re.IGNORECASE)


@cache
def _info() -> dict[str, Any]:
    found = stdlib_text()
    data = pydocs_task()
    return {
        "python_version": sys.version.split()[0],
        "text_hash": fingerprint(passage.text for passage in found.passages),
        "words": sum(len(passage.text.split()) for passage in found.passages),
        "passages": len(found.passages),
        "labels": list(data.task.labels),
        "train_examples": len(data.train),
        "validation_examples": len(data.validation["validation"]),
        "modules": list(found.modules),
        "missing": list(found.missing),
    }


def pydocs_info() -> dict[str, Any]:
    """What the built-in text is on this machine: it depends on the version of Python.

    Returns:
        `python_version`, `text_hash` (xxh3-128), `words`, `passages`, `labels`, `train_examples`,
        `validation_examples`, `modules` that were read and those `missing`.

    Raises:
        ContentError: this Python came without the source files of its standard library.
    """
    return dict(_info())
