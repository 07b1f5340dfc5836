"""What a task's data consists of, counted from the data itself (Super Tickets, Table 9)."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from winning_tickets.data.glue import SERVER_FILES, read_tests
from winning_tickets.data.loading import load_task
from winning_tickets.data.metrics import compute
from winning_tickets.data.mtdnn import load_defined
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.data.task_files import load_definitions
from winning_tickets.data.user_files import load_files
from winning_tickets.runs.errors import UsageError

Key = tuple[str, ...]


def cards(
    tasks: Sequence[str] = (),
    *,
    data_dir: str | None = None,
    task_file: str | None = None,
    files: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Count what is in the data of tasks, or of files."""
    if files is not None and (tasks or task_file):
        raise UsageError("Give --tasks or files of your own, not both.")
    if not tasks and task_file is None and files is None:
        raise UsageError("Nothing was asked for; give --tasks rte,mrpc, a --task-file, or --train-file with another.")
    if files is not None:
        found = [card(load_files(**files))]
    elif task_file is not None:
        definitions = load_definitions(task_file, tasks or None)
        found = [card(load_defined(definition, task_file, data_dir)) for definition in definitions]
    else:
        found = [card(load_task(name, data_dir), _tests(name, data_dir)) for name in tasks]
    return {"kind": "cards", "cards": found}


def card(data: TaskData, test: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The numbers of one task."""
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
        "majority": _majority(data),
        "in_train": {name: _in_train(data.train, split) for name, split in data.validation.items()},
    }


def _tests(name: str, data_dir: str | None) -> dict[str, int] | None:
    """Sizes of the test sets; None where they are not at hand, as in many copies of GLUE."""
    from winning_tickets.data.tasks import get_task

    if data_dir is None or name not in SERVER_FILES:
        return None
    try:
        return {key: len(test.indices) for key, test in read_tests(get_task(name), Path(data_dir)).items()}
    except UsageError:
        return None


def _split(task: Task, split: Split) -> dict[str, Any]:
    words = [sum(map(_words, texts)) for texts in zip(*split.texts, strict=True)]
    keys = _keys(split)
    return {
        "examples": len(split),
        "labels": _label_counts(task, split),
        "scores": _spread(split.labels) if task.is_regression else None,
        "words": _spread(words),
        "repeated": len(keys) - len(set(keys)),
    }


def _words(text: Any) -> int:
    """Of a text, or of a list of words."""
    return len(text.split() if isinstance(text, str) else text)


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "min": min(values),
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "max": max(values),
    }


def _label_counts(task: Task, split: Split) -> dict[str, int] | None:
    """How often each class is there: examples, words where each has one, or texts that are of it; None without."""
    if not task.labels:
        return None
    counts = Counter(_classes(task, split))
    return {name: counts[index] for index, name in enumerate(task.labels)}


def _classes(task: Task, split: Split) -> Iterator[int]:
    for label in split.labels:
        if task.kind == "classification":
            yield int(label)
        elif task.kind == "tokens":
            yield from label
        else:
            yield from (index for index, one in enumerate(label) if one)


def _majority(data: TaskData) -> dict[str, Any] | None:
    """Of one class an example; the class that is most frequent in training, the first one of several."""
    task = data.task
    if task.kind != "classification":
        return None
    counts = Counter(data.train.labels)
    best = min(counts, key=lambda label: (-counts[label], label))
    scores = {
        name: compute(task, np.full(len(split), best), np.array(split.labels))[0]
        for name, split in data.validation.items()
    }
    return {"label": task.labels[best], "scores": scores}


def _keys(split: Split) -> list[Key]:
    """What is compared of each example: its texts without differences of case and of spaces."""
    return [tuple(map(_normal, texts)) for texts in zip(*split.texts, strict=True)]


def _normal(text: Any) -> str:
    return " ".join(text.split() if isinstance(text, str) else text).casefold()


def _in_train(train: Split, other: Split) -> dict[str, int]:
    """Examples whose texts were trained on, and those of them that never had this label there."""
    seen: dict[Key, list[Any]] = {}
    for key, label in zip(_keys(train), train.labels, strict=True):
        seen.setdefault(key, []).append(label)
    found = [(seen[key], label) for key, label in zip(_keys(other), other.labels, strict=True) if key in seen]
    return {"examples": len(found), "other_label": sum(label not in labels for labels, label in found)}
