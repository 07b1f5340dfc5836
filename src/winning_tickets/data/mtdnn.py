"""The data of tasks that a task file defines: MT-DNN's TSV and JSONL files, GLUE folders, the hub."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winning_tickets.data.loading import load_task
from winning_tickets.data.readers import jsonl_rows, read_utf8, split_lines
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.data.task_files import TaskDefinition, task_of
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import parse_json

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


SUFFIXES = (".tsv", ".jsonl", ".json")
"""Of MT-DNN's files, in the order in which they are looked for."""
_HUB_NAMES = {"sst": "sst2"}
"""Names of MT-DNN's definitions for tasks that have another one on the hub."""


def load_defined(definition: TaskDefinition, task_file: Path | str, data_dir: str | None = None) -> TaskData:
    """Read the examples of a task that a file defines.

    In the folder are `NAME_SPLIT.tsv`, `.jsonl` or `.json` for each split, as MT-DNN has them; or else, for a task that
    `load_task` knows by this name, a GLUE download or a copy of the hub's repository. Without any folder such a task
    is read from the hub.

    Args:
        definition: of the task.
        task_file: where it stands; its `data` is relative to this file.
        data_dir: the folder of tasks whose definition names none.

    Raises:
        UsageError: a folder or a file is missing, or the task is nowhere.
        ContentError: rows, labels or soft labels are not those of the task; file and line are named.
    """
    task = task_of(definition)
    if isinstance(definition.data, Mapping):
        found = {split: Path(task_file).parent / file for split, file in definition.data.items()}
        return _read(definition, task, found)
    folder = Path(data_dir) if data_dir is not None else None
    if definition.data is not None:
        folder = Path(task_file).parent / definition.data
    if folder is not None and not folder.is_dir():
        raise UsageError(f"There is no folder {folder}, where {_who(definition, task_file)} looks for its data.")
    if folder is not None and (files := _files(definition, folder)):
        return _read(definition, task, files)
    known = _HUB_NAMES.get(task.name, task.name)
    if known in TASKS:
        return _as_defined(task, load_task(known, folder), _who(definition, task_file))
    wanted = f"{task.name}_{definition.train_split}" + "|".join(SUFFIXES)
    if folder is None:
        raise UsageError(
            f"{_who(definition, task_file)} has no data: give it a folder with {wanted} in it as data:, or --data-dir."
        )
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise UsageError(
        f"{folder} has no {wanted}, where {_who(definition, task_file)} looks for its data; found {there}."
    )


def _who(definition: TaskDefinition, task_file: Path | str) -> str:
    return f"the task {definition.name} of {task_file}"


def _files(definition: TaskDefinition, folder: Path) -> dict[str, Path]:
    """The file of each split in MT-DNN's naming; empty where the training split has none.

    Raises:
        UsageError: the training split is there and others are not.
    """
    found = {}
    for split in (definition.train_split, *definition.validation_splits.values()):
        paths = [folder / f"{definition.name}_{split}{suffix}" for suffix in SUFFIXES]
        there = [path for path in paths if path.is_file()]
        if there:
            found[split] = there[0]
        elif definition.train_split in found:
            raise UsageError(
                f"{folder} has {found[definition.train_split].name} and no {paths[0].name}, nor .jsonl or .json."
            )
        else:
            return {}
    return found


def _read(definition: TaskDefinition, task: Task, files: Mapping[str, Path]) -> TaskData:
    train_file = files[definition.train_split]
    train = read_split(definition, task, train_file)
    validation = {}
    for ours, theirs in definition.validation_splits.items():
        found = read_split(definition, task, files[theirs])
        _check_seen(task, train, train_file, found, files[theirs])
        validation[ours] = dataclasses.replace(found.split, soft=None)  # nothing is distilled from a validation set
    if task.kind == "span":
        from winning_tickets.data.squad import check_answers

        check_answers(train.split, str(train_file))
    return TaskData.of(task, train.split, validation, "files")


def _check_seen(task: Task, train: Read, train_file: Path, found: Read, file: Path) -> None:
    """Make sure that every class to evaluate on occurs among those that are trained on."""
    if not task.labels:
        return
    seen = set(_flat(train.split.labels))
    for line, labels in zip(found.lines, found.split.labels, strict=True):
        for label in _flat([labels]):
            if label not in seen:
                raise ContentError(
                    f"{file}, line {line}: label {task.labels[label]!r} never occurs in {train_file}, so it cannot be "
                    "learnt. Add training examples, or leave these rows out."
                )


def _flat(labels: list[Any]) -> list[int]:
    return [one for label in labels for one in (label if isinstance(label, list) else [label])]


def _as_defined(task: Task, data: TaskData, who: str) -> TaskData:
    """The examples of a known task under a definition of the user's: its classes by name, its metrics and settings."""
    known = data.task
    if known.kind != task.kind or len(known.text_columns) != len(task.text_columns):
        raise UsageError(
            f"{who} is {task.kind} of {len(task.text_columns)} text(s), and the data of {known.name} are {known.kind} "
            f"of {len(known.text_columns)}."
        )
    places = list(range(len(known.labels)))
    if known.labels and task.labels != tuple(map(str, range(len(known.labels)))):
        if set(known.labels) != set(task.labels):
            raise ContentError(
                f"{who} has the labels {', '.join(task.labels)}, and the data of {known.name} have "
                f"{', '.join(known.labels)}."
            )
        places = [task.labels.index(name) for name in known.labels]
    task = dataclasses.replace(task, validation_splits=known.validation_splits)

    def renumbered(split: Split) -> Split:
        return Split(split.texts, [places[label] for label in split.labels] if known.labels else split.labels)

    validation = {name: renumbered(split) for name, split in data.validation.items()}
    return TaskData.of(task, renumbered(data.train), validation, data.source, data.unlabelled)
