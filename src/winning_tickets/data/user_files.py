"""The user's own task files: classes, scores or sets of classes of one or two texts; words and spans elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from winning_tickets.data.readers import Row, read_rows
from winning_tickets.data.records import METRICS, METRICS_OF, Kind, Split, Task, TaskData
from winning_tickets.runs.errors import ContentError, UsageError, unknown

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

KIND_BY_SUFFIX: dict[str, Kind] = {".json": "span", ".conll": "tokens"}
"""Kinds of tasks that the format of their files tells."""
SEPARATOR = "|"
"""Between the classes of one text, in files without lists."""


def load_files(
    train_file: str | Path,
    validation_file: str | Path,
    text_columns: Sequence[str] | None,
    label_column: str = "label",
    metric: str | None = None,
    kind: Kind | None = None,
) -> TaskData:
    """Read a task from two files of the same columns.

    Unless `kind` says what they are, labels are classes (sorted, those of the training file), or scores where they are
    numbers with a fractional part or the metric is a correlation.

    Args:
        train_file: `.csv` (with quoting), `.tsv` (without) or `.jsonl`; `.conll` for words; SQuAD's `.json` for spans.
        validation_file: another one.
        text_columns: one or two; None looks for well-known names, see `WELL_KNOWN`.
        label_column: the column of the label.
        metric: primary metric; None means accuracy, pearson for scores, micro_f1 for sets of classes.
        kind: what is predicted; None looks at the files.

    Raises:
        UsageError: a file is missing or of another kind, an unknown metric, text columns that cannot be told.
        ContentError: missing columns, ragged rows, empty texts, labels outside the set; file and line are named.
    """
    train, validation = Path(train_file), Path(validation_file)
    if kind is not None and kind not in METRICS_OF:
        raise unknown("kind", kind, METRICS_OF)
    if kind is None and metric not in METRICS_OF["regression"]:
        kind = KIND_BY_SUFFIX.get(train.suffix.lower())
    known = METRICS if kind is None else METRICS_OF[kind]
    if metric is not None and metric not in known:
        raise unknown("metric", metric, known)
    if kind == "span":
        return _spans(train, validation, text_columns, label_column, metric)
    if kind == "tokens":
        from winning_tickets.data.token_labels import load_words

        return load_words(train, validation, text_columns, label_column, metric)
    if text_columns is not None and len(text_columns) not in (1, 2):
        raise UsageError(f"--text-columns takes one or two columns, found {len(text_columns)}.")
    rows = {path: read_rows(path) for path in (train, validation)}
    columns = tuple(text_columns) if text_columns else _infer(train, rows[train], label_column)
    texts = {path: _texts(path, rows[path], columns, label_column) for path in rows}
    if kind == "multilabel":
        sets = {path: _label_sets(path, rows[path], label_column) for path in rows}
        classes = _sorted({name for _, found in sets[train] for name in found})
        if not classes:
            raise ContentError(f"{train} has no label in the column {label_column!r}.")
        splits = {path: Split(texts[path], _indicators(path, sets[path], classes)) for path in rows}
    else:
        labels = {path: _labels(path, rows[path], label_column) for path in rows}
        if kind is None:
            scores = metric in METRICS_OF["regression"] or (metric is None and _fractional(labels[train]))
            kind = "regression" if scores else "classification"
        classes = () if kind == "regression" else _classes(train, labels[train])
        splits = {path: Split(texts[path], _encode(path, labels[path], classes)) for path in rows}
    task = Task("local", columns, classes, _metrics(metric, kind), kind, label_column)
    return TaskData.of(task, splits[train], {"validation": splits[validation]}, "files")


def _metrics(metric: str | None, kind: Kind) -> tuple[str, ...]:
    """The primary metric, and those that are told beside it."""
    if kind == "classification":
        return ("accuracy",) if metric in (None, "accuracy") else (str(metric), "accuracy")
    names = METRICS_OF[kind]
    return names if metric is None else (metric, *(name for name in names if name != metric))


def _spans(
    train: Path, validation: Path, text_columns: Sequence[str] | None, label_column: str, metric: str | None
) -> TaskData:
    from winning_tickets.data.squad import read_files

    if text_columns is not None or label_column != "label":
        raise UsageError(
            "--text-columns and --label-column go with rows; the JSON of SQuAD v1.1 has its own names "
            "(question, context, answers)."
        )
    data = read_files(train, validation)
    return replace(data, task=replace(data.task, metrics=_metrics(metric, "span")))


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
                + (" For lists there are --kind multilabel and --kind tokens." if isinstance(label, list) else "")
            )
        found.append((number, str(label).strip()))
    return found


def _label_sets(path: Path, rows: list[Row], label_column: str) -> list[tuple[int, set[str]]]:
    """Line numbers and the classes of each text: a list, or one text with `SEPARATOR` between them."""
    found = []
    for number, row in rows:
        labels = row[label_column]
        if isinstance(labels, str):
            labels = labels.split(SEPARATOR) if labels.strip() else []
        names = [str(label).strip() for label in labels if isinstance(label, str | int)] if type(labels) is list else []
        if type(labels) is not list or len(names) < len(labels) or not all(names):
            raise ContentError(
                f"{path}, line {number}: column {label_column!r} must be a list of classes, or classes with "
                f"{SEPARATOR!r} between them, found {row[label_column]!r}."
            )
        found.append((number, set(names)))
    return found


def _indicators(path: Path, sets: list[tuple[int, set[str]]], classes: tuple[str, ...]) -> list[tuple[float, ...]]:
    """For each text 1.0 at its classes, 0.0 elsewhere."""
    for number, names in sets:
        if others := sorted(names.difference(classes)):
            allowed = ", ".join(classes)
            raise ContentError(
                f"{path}, line {number}: label {others[0]!r} is not in the training file; allowed: {allowed}."
            )
    return [tuple(float(name in names) for name in classes) for _, names in sets]


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
    return _sorted(names)


def _sorted(names: set[str]) -> tuple[str, ...]:
    numeric = all(re.fullmatch(r"-?\d{1,300}", text) for text in names)
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
