"""Rows of MT-DNN's files: `uid label premise [hypothesis] [soft labels]` in TSV, or objects with these keys."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winning_tickets.config.task_file import TaskDefinition
from winning_tickets.data.rows import jsonl_rows
from winning_tickets.data.tasks import Split, Task
from winning_tickets.data.textfiles import read_utf8, split_lines
from winning_tickets.errors import ContentError, UsageError
from winning_tickets.files import parse_json

SOFT = "softlabel"
"""Key of soft labels in JSONL; in TSV they are one more column."""
_SUM_TOLERANCE = 1e-3
"""How far from 1 the sum of written probabilities may be."""
_TEXT_KEYS = ("premise", "hypothesis")


@dataclass(frozen=True)
class Read:
    """Examples of a file.

    Attributes:
        split: the examples.
        lines: the line number of each.
    """

    split: Split
    lines: list[int]


@dataclass(frozen=True)
class _Row:
    """One example: where it stands, its label, its texts and its soft labels as written."""

    line: int
    label: Any
    texts: list[Any]
    soft: Any


def read_split(definition: TaskDefinition, task: Task, path: Path) -> Read:
    """Read one file of a task.

    Args:
        definition: of the task.
        task: its record.
        path: `.tsv` without a header, `.jsonl` or `.json` with an object a line; of spans the JSON of SQuAD v1.1.

    Raises:
        UsageError: no such file, or of another kind.
        ContentError: rows, labels or soft labels are not those of the task; file and line are named.
    """
    if task.kind == "span":
        from winning_tickets.data.squad import read_json

        split = read_json(path)
        return Read(split, [1] * len(split))
    readers = {".tsv": _tsv, ".jsonl": _jsonl, ".json": _jsonl}
    if path.suffix.lower() not in readers:
        raise UsageError(f"{path} is not one of {', '.join(readers)}, which the task {task.name} is read from.")
    rows = list(readers[path.suffix.lower()](task, path))
    if not rows:
        raise ContentError(f"{path} is empty: it holds no example.")
    texts: tuple[list[Any], ...] = tuple([] for _ in task.text_columns)
    labels, soft = [], []
    for row in rows:
        where = f"{path}, line {row.line}"
        for column, text in zip(texts, _texts(task, row, where), strict=True):
            column.append(text)
        labels.append(_label(definition, task, row, where))
        if row.soft is not None:
            soft.append(_soft(task, row.soft, where))
        if len(soft) not in (0, len(labels)):
            raise ContentError(f"{where}: some rows have soft labels and others have none; all or none must.")
    return Read(Split(texts, labels, soft or None), [row.line for row in rows])


def _tsv(task: Task, path: Path) -> Iterator[_Row]:
    columns = ["uid", "label", *_TEXT_KEYS[: len(task.text_columns)]]
    width = None
    for line, text in enumerate(split_lines(read_utf8(path)), start=1):
        if not text.strip():
            continue
        cells = text.split("\t")  # quotes are ordinary characters
        width = width or len(cells)
        allowed = (len(columns), len(columns) + 1) if _may_be_soft(task) else (len(columns),)
        if width not in allowed or len(cells) != width:
            wanted = " ".join(columns) + (
                f", and perhaps soft labels{'' if width in allowed else ' behind them'}" if len(allowed) > 1 else ""
            )
            same = "" if width == len(cells) else f" (the first line has {width})"
            raise ContentError(f"{path}, line {line}: found {len(cells)} columns{same}, expected {wanted}.")
        soft = cells[-1] if width > len(columns) else None
        yield _Row(line, cells[1], list(cells[2 : len(columns)]), soft)


def _jsonl(task: Task, path: Path) -> Iterator[_Row]:
    keys = _TEXT_KEYS[: len(task.text_columns)]
    for line, row in jsonl_rows(path, read_utf8(path)):
        where = f"{path}, line {line}"
        if "token_id" in row and keys[0] not in row:
            raise ContentError(
                f"{where}: it holds tokens of one tokenizer (token_id) and no text; give the TSV that it was made from."
            )
        if missing := [key for key in ("label", *keys) if key not in row]:
            raise ContentError(
                f"{where}, lacks {', '.join(missing)}: found {', '.join(row) or 'nothing'}, expected uid, label, "
                f"{', '.join(keys)}."
            )
        if SOFT in row and not _may_be_soft(task):
            raise ContentError(f"{where}: {SOFT} goes with one class or one score a text, not with {task.kind}.")
        yield _Row(line, row["label"], [row[key] for key in keys], row.get(SOFT))


def _may_be_soft(task: Task) -> bool:
    return task.kind in ("classification", "regression")


def _texts(task: Task, row: _Row, where: str) -> list[Any]:
    if task.kind == "tokens":
        words = _listed(row.texts[0], "premise", where)
        if not words or not all(isinstance(word, str) and word.strip() and _is_text(word) for word in words):
            raise ContentError(f"{where}: premise must be a list of words, found {str(row.texts[0])[:60]!r}.")
        return [words]
    for key, text in zip(_TEXT_KEYS, row.texts, strict=False):
        if not isinstance(text, str) or not text.strip():
            raise ContentError(f"{where}: the {key} must be a text, found {text!r}.")
    return row.texts


def _is_text(word: str) -> bool:
    """Whether UTF-8 can hold it: literals of Python may have half of a surrogate pair, which is no character."""
    return not any("\ud800" <= character <= "\udfff" for character in word)


def _listed(found: Any, key: str, where: str) -> list[Any]:
    """A list, which TSV holds as Python or JSON writes it."""
    value = found
    if isinstance(found, str):
        try:
            value = ast.literal_eval(found)  # literals only: nothing is run
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
    if not isinstance(value, list | tuple):
        raise ContentError(f"{where}: {key} must be a list such as ['a', 'b'], found {str(found)[:60]!r}.")
    return list(value)


def _label(definition: TaskDefinition, task: Task, row: _Row, where: str) -> Any:
    if task.kind == "tokens":
        labels = [_class(definition, task, label, where) for label in _listed(row.label, "label", where)]
        words = len(_listed(row.texts[0], "premise", where))
        if len(labels) != words:
            raise ContentError(f"{where}: found {words} words and {len(labels)} labels; each word needs one.")
        return labels
    if not task.is_regression:
        return _class(definition, task, row.label, where)
    score = _number(row.label)
    if score is None:
        raise ContentError(f"{where}: label {row.label!r} is not a number.")
    return score


def _class(definition: TaskDefinition, task: Task, found: Any, where: str) -> int:
    """The place of a class, by its name or else its number in the definition."""
    text = str(found).strip() if isinstance(found, str | int | float) and not isinstance(found, bool) else ""
    names = definition.labels or task.labels
    number = _number(text)
    if text not in names and number is not None and number in range(len(names)):
        text = names[int(number)]
    if text not in task.labels:
        allowed = ", ".join(task.labels)
        numbers = f", or 0 to {len(names) - 1}" if definition.labels else ""
        raise ContentError(f"{where}: label {found!r} is not a label of {task.name}; allowed: {allowed}{numbers}.")
    return task.labels.index(text)


def _number(found: Any) -> float | None:
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        return None
    try:
        value = float(found)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _soft(task: Task, found: Any, where: str) -> tuple[float, ...]:
    """Soft labels as numbers: a JSON list, or numbers with blanks or commas between them; one number for a score."""
    width = len(task.labels) or 1
    value = found
    if isinstance(found, str):
        text = found.strip()
        try:
            value = parse_json(text) if text.startswith("[") else text.replace(",", " ").split()
        except ValueError:
            value = None
    values = value if isinstance(value, list) else [value]
    numbers = [number for number in map(_number, values) if number is not None]
    if len(numbers) < len(values):
        raise ContentError(f"{where}: soft labels must be numbers, found {str(found)[:60]!r}.")
    if len(numbers) != width:
        raise ContentError(
            f"{where}: found {len(numbers)} soft labels ({str(found)[:60]}), and {task.name} needs {width}, "
            + ("one for each class." if task.labels else "a score.")
        )
    if task.labels and task.soft_form == "probabilities":
        _check_probabilities(task, numbers, where)
    return tuple(numbers)


def _check_probabilities(task: Task, numbers: list[float], where: str) -> None:
    shown = ", ".join(f"{number:g}" for number in numbers)
    if min(numbers) < 0 or abs(math.fsum(numbers) - 1) > _SUM_TOLERANCE:
        raise ContentError(
            f"{where}: soft labels {shown} are not probabilities, which sum to 1. If they are logits, write "
            "soft_labels: logits in the task file."
        )
    if task.soft_loss == "symmetric-kl" and min(numbers) == 0:
        raise ContentError(
            f"{where}: soft labels {shown}: the symmetric KL of a probability of 0 is infinite; use kd_loss: "
            "KlCriterion, or smooth them."
        )
