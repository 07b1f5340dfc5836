"""Counts of the data of tasks, such as examples, labels and words (Super Tickets, Table 9)."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from winning_tickets.data.glue import DIAGNOSTIC, count_tests
from winning_tickets.data.loading import load_task
from winning_tickets.data.metrics import compute_metrics
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.data.task_files import load_definitions
from winning_tickets.data.user_files import load_files
from winning_tickets.report.result import resulting
from winning_tickets.runs.errors import UsageError
from winning_tickets.studies.analysis.report.views import REPORTS

Key = tuple[str, ...]


@resulting(views=REPORTS)
def cards(
    tasks: Sequence[str] = (),
    *,
    data_dir: str | None = None,
    task_file: str | None = None,
    files: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Count the data of known tasks, of the tasks in a task file, or of the user's own files."""
    if files is not None and (tasks or task_file):
        raise UsageError("Give --tasks or files of your own, not both.")
    if not tasks and task_file is None and files is None:
        raise UsageError("Nothing was asked for; give --tasks rte,mrpc, a --task-file, or --train-file with another.")
    if files is not None:
        found = [card(load_files(**files))]
    elif task_file is not None:
        definitions = load_definitions(task_file, tasks or None)
        found = [card(one.load(name, Path(task_file).parent)) for name, one in definitions.items()]
    else:
        loaded = (load_task(name, data_dir) for name in tasks)
        found = [card(data, count_tests(data.task, Path(data_dir)) if data_dir else None) for data in loaded]
    return {"kind": "cards", "cards": found}


def card(data: TaskData, test: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the counts of one task; `test` has the sizes of its test sets."""
    task, splits = data.task, {"train": data.train, **data.validation}
    return {
        "task": task.name,
        "kind": task.kind,
        "columns": list(task.text_columns),
        "labels": list(task.labels),
        "metrics": list(task.metrics),
        "source": data.source,
        "fingerprint": data.fingerprint,
        "citation": task.citation,
        "licence": task.licence,
        "splits": [
            {"split": name, "unlabelled": data.unlabelled.get(name, 0), **_split(task, split)}
            for name, split in splits.items()
        ],
        "test": None if test is None else dict(test),
        "sizes": {
            "train": len(data.train),
            "dev": sum(map(len, data.validation.values())),
            "test": None if test is None else sum(count for name, count in test.items() if name != DIAGNOSTIC),
            "labels": len(task.labels) or 1,
        },
        "majority": _majority(data),
        "in_train": {name: _in_train(data.train, split) for name, split in data.validation.items()},
    }


def _split(task: Task, split: Split) -> dict[str, Any]:
    words = [sum(len(_split_words(text)) for text in texts) for texts in zip(*split.texts, strict=True)]
    keys = _keys(split)
    return {
        "examples": len(split),
        "labels": _label_counts(task, split),
        "scores": _spread(split.labels) if task.is_regression else None,
        "words": _spread(words),
        "repeated": len(keys) - len(set(keys)),
    }


def _split_words(text: Any) -> Sequence[str]:
    return text.split() if isinstance(text, str) else text


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    middle = {"median": statistics.median(values), "mean": statistics.fmean(values)}
    return {"min": min(values), **middle, "max": max(values)}


def _label_counts(task: Task, split: Split) -> dict[str, int] | None:
    """Return the number of examples of each class, or of words if each word has a label; None without classes."""
    if not task.labels:
        return None
    counts: Counter[int] = Counter()
    for label in split.labels:
        if task.kind == "classification":
            counts[int(label)] += 1
        else:  # a label for each word, or for each class whether the text belongs to it
            counts.update(label if task.kind == "tokens" else [index for index, one in enumerate(label) if one])
    return {name: counts[index] for index, name in enumerate(task.labels)}


def _majority(data: TaskData) -> dict[str, Any] | None:
    """Return the scores of always predicting the most frequent training class (the first of equally frequent ones)."""
    task = data.task
    if task.kind != "classification":
        return None
    counts = Counter(data.train.labels)
    best = min(counts, key=lambda label: (-counts[label], label))
    scores = {
        name: compute_metrics(task, np.full(len(split), best), np.array(split.labels))[0]
        for name, split in data.validation.items()
    }
    return {"label": task.labels[best], "scores": scores}


def _keys(split: Split) -> list[Key]:
    """Return the texts of each example, normalized in case and spaces."""
    return [
        tuple(" ".join(_split_words(text)).casefold() for text in texts) for texts in zip(*split.texts, strict=True)
    ]


def _in_train(train: Split, other: Split) -> dict[str, int]:
    """Count the examples whose texts are in the training set, and those of them that never have their label there."""
    seen: dict[Key, list[Any]] = {}
    for key, label in zip(_keys(train), train.labels, strict=True):
        seen.setdefault(key, []).append(label)
    found = [(seen[key], label) for key, label in zip(_keys(other), other.labels, strict=True) if key in seen]
    return {"examples": len(found), "other_label": sum(label not in labels for labels, label in found)}
