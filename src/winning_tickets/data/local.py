"""The user's own task files: csv, tsv or jsonl, classes or scores, one or two text columns."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from winning_tickets.data.tasks import METRICS, Split, Task, TaskData
from winning_tickets.data.textfiles import read_utf8, split_lines
from winning_tickets.errors import ContentError, UsageError, unknown

WELL_KNOWN: tuple[tuple[str, ...], ...] = (
    ("text",),
    ("sentence",),
    ("text1", "text2"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
"""Text columns that are found without being named."""

_CORRELATIONS = ("pearson", "spearman")
Row = tuple[int, dict[str, Any]]
"""Line number and cells by column."""


def load_files(
    train_file: str | Path,
    validation_file: str | Path,
    text_columns: Sequence[str] | None,
    label_column: str = "label",
    metric: str | None = None,
) -> TaskData:
    """Read a task from two files of the same columns.

    Labels are classes (sorted, those of the training file) unless they are numbers with a fractional part or the
    metric is a correlation; then they are scores.

    Args:
        train_file: `.csv` (with quoting), `.tsv` (without) or `.jsonl`.
        validation_file: another one.
        text_columns: one or two; None looks for well-known names, see `WELL_KNOWN`.
        label_column: the column of the label.
        metric: primary metric; None means accuracy, or pearson for scores.

    Raises:
        UsageError: a file is missing or of another kind, an unknown metric, text columns that cannot be told.
        ContentError: missing columns, ragged rows, empty texts, labels outside the set; file and line are named.
    """
    if metric is not None and metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    if text_columns is not None and len(text_columns) not in (1, 2):
        raise UsageError(f"--text-columns takes one or two columns, found {len(text_columns)}.")
    train, validation = Path(train_file), Path(validation_file)
    rows = {path: _rows(path) for path in (train, validation)}
    columns = tuple(text_columns) if text_columns else _infer(train, rows[train], label_column)
    texts = {path: _texts(path, rows[path], columns, label_column) for path in rows}
    labels = {path: _labels(path, rows[path], label_column) for path in rows}
    scores = metric in _CORRELATIONS or (metric is None and _fractional(labels[train]))
    classes = () if scores else _classes(train, labels[train])
    task = Task("local", columns, classes, _metrics(metric, scores), label_column)
    splits = {path: Split(texts[path], _encode(path, labels[path], classes)) for path in rows}
    return TaskData.of(task, splits[train], {"validation": splits[validation]}, "files")


def _metrics(metric: str | None, scores: bool) -> tuple[str, ...]:
    if scores:
        return ("spearman", "pearson") if metric == "spearman" else ("pearson", "spearman")
    return ("accuracy",) if metric in (None, "accuracy") else (str(metric), "accuracy")


def _infer(path: Path, rows: list[Row], label_column: str) -> tuple[str, ...]:
    found = [name for name in rows[0][1] if name != label_column]
    present = [names for names in WELL_KNOWN if set(names) <= set(found)]
    pairs = [names for names in present if len(names) == 2]
    # question + sentence are a pair, though sentence alone is well known too.
    candidates = pairs or present
    if len(candidates) != 1 or not {name for names in present for name in names} <= set(candidates[0]):
        raise UsageError(
            f"Cannot tell which columns of {path} hold the text: found {', '.join(rows[0][1])}. "
            "Name one or two with --text-columns."
        )
    return candidates[0]


def _texts(path: Path, rows: list[Row], columns: tuple[str, ...], label_column: str) -> tuple[list[str], ...]:
    wanted = (*columns, label_column)
    for number, row in rows:
        missing = [name for name in wanted if name not in row]
        if missing:
            raise ContentError(
                f"{path}, line {number}, lacks the columns {', '.join(missing)}: found {', '.join(row)}, "
                f"expected {', '.join(wanted)}."
            )
        for name in columns:
            if not isinstance(row[name], str) or not row[name].strip():
                raise ContentError(f"{path}, line {number}: column {name!r} must be a text, found {row[name]!r}.")
    return tuple([row[name] for _, row in rows] for name in columns)


def _labels(path: Path, rows: list[Row], label_column: str) -> list[tuple[int, str]]:
    """Line numbers and labels as written."""
    found = []
    for number, row in rows:
        label = row[label_column]
        if isinstance(label, list | dict) or label is None or not str(label).strip():
            raise ContentError(
                f"{path}, line {number}: column {label_column!r} must be a class or a number, found {label!r}."
            )
        found.append((number, str(label).strip()))
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _fractional(labels: list[tuple[int, str]]) -> bool:
    values = [_number(text) for _, text in labels]
    return all(value is not None for value in values) and any(value % 1 for value in values if value is not None)


def _classes(path: Path, labels: list[tuple[int, str]]) -> tuple[str, ...]:
    names = {text for _, text in labels}
    if len(names) < 2:
        raise ContentError(f"{path} has one class only ({', '.join(names)}); at least two are needed.")
    numeric = all(re.fullmatch(r"-?\d+", text) for text in names)
    return tuple(sorted(names, key=(lambda text: (int(text), text)) if numeric else str))


def _encode(path: Path, labels: list[tuple[int, str]], classes: tuple[str, ...]) -> list[int] | list[float]:
    if not classes:
        scores = []
        for number, text in labels:
            value = _number(text)
            if value is None:
                raise ContentError(f"{path}, line {number}: label {text!r} is not a number.")
            scores.append(value)
        return scores
    places = {name: index for index, name in enumerate(classes)}
    for number, text in labels:
        if text not in places:
            raise ContentError(
                f"{path}, line {number}: label {text!r} is not in the training file; allowed: {', '.join(classes)}."
            )
    return [places[text] for _, text in labels]
