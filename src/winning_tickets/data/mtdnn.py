"""Read the data of the tasks of a task file: MT-DNN's TSV and JSON Lines, SQuAD's JSON, GLUE folders, the hub."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from winning_tickets.data import examples
from winning_tickets.data.examples import LabelReader
from winning_tickets.data.loading import load_task
from winning_tickets.data.readers import jsonl_rows, read_rows, tsv_rows
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.data.rows import Row
from winning_tickets.data.task_files import Definition, FilesDefinition, TaskDefinition, task_of
from winning_tickets.data.tasks import TASKS
from winning_tickets.data.user_files import load_files
from winning_tickets.runs.errors import ContentError, UsageError, shown
from winning_tickets.runs.files import parse_json

_TEXTS = ("premise", "hypothesis")
_SUM_TOLERANCE = 1e-3  # largest difference from 1 of the sum of probabilities
_SUFFIXES = (".tsv", ".jsonl", ".json")  # suffixes of data files, in the order in which they are looked for
_HUB_NAMES = {"sst": "sst2"}  # MT-DNN's names of tasks that have other names on the hub


def load_defined_task(definition: Definition, task_file: Path | str, data_dir: str | None = None) -> TaskData:
    """Read the examples of a task that a task file defines."""
    if isinstance(definition, FilesDefinition):
        return _read_own_files(definition, Path(task_file).parent)
    # The folder has `NAME_SPLIT.tsv`, `.jsonl` or `.json` for each split. A task that `load_task` knows by this name is
    # also read from a GLUE download, a copy of the hub's repository or, without any folder, from the hub.
    # The `data` of the definition is relative to the task file; without `data`, the folder is `data_dir`.
    task = task_of(definition)
    who = f"the task {definition.name} of {task_file}"
    splits = (definition.train_split, *definition.validation_splits.values())
    if isinstance(definition.data, Mapping):
        files = {split: Path(task_file).parent / definition.data[split] for split in splits}
        return _read(definition, task, files)

    folder = Path(data_dir) if data_dir is not None else None
    if definition.data is not None:
        folder = Path(task_file).parent / definition.data
    if folder is not None and not folder.is_dir():
        raise UsageError(f"There is no folder {folder}, where {who} looks for its data.")
    # First look for the task's own files, then for the data of the known task with this name.
    if folder is not None and (files := _find_files(folder, definition.name, splits)):
        return _read(definition, task, files)
    known = _HUB_NAMES.get(task.name, task.name)
    if known in TASKS:
        return _as_defined(task, load_task(known, folder), who)

    wanted = f"{task.name}_{definition.train_split}" + "|".join(_SUFFIXES)
    if folder is None:
        raise UsageError(f"{who} has no data: give it a folder with {wanted} in it as data:, or --data-dir.")
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise UsageError(f"{folder} has no {wanted}, where {who} looks for its data; found {there}.")


def _read_own_files(definition: FilesDefinition, here: Path) -> TaskData:
    data = load_files(
        here / definition.train_file,
        here / definition.validation_file,
        definition.text_columns,
        label_column=definition.label_column,
        metric=definition.metric,
        kind=definition.kind,
        task_name=definition.name,
        drop_unlabelled=definition.drop_unlabelled,
    )
    own: dict[str, Any] = {"head_dropout": definition.dropout_p, "train_size": definition.train_size}
    own["weight"] = definition.weight
    own |= {} if definition.learning_rate is None else {"learning_rate": definition.learning_rate}
    return dataclasses.replace(data, task=dataclasses.replace(data.task, **own))


def _find_files(folder: Path, name: str, splits: tuple[str, ...]) -> dict[str, Path]:
    """Find the file of each split; return none if there is no file of the training split, which comes first."""
    found: dict[str, Path] = {}
    for split in splits:
        paths = [folder / f"{name}_{split}{suffix}" for suffix in _SUFFIXES]
        there = [path for path in paths if path.is_file()]
        if not there and not found:
            return {}
        if not there:
            raise UsageError(f"{folder} has {found[splits[0]].name} and no {paths[0].name}, nor .jsonl or .json.")
        found[split] = there[0]
    return found


def _read(definition: TaskDefinition, task: Task, files: Mapping[str, Path]) -> TaskData:
    train_file = files[definition.train_split]
    if task.kind == "span":
        from winning_tickets.data.squad import read_articles

        train = read_articles(train_file)
        examples.check_answers(train, str(train_file))
        validation = {ours: read_articles(files[theirs]) for ours, theirs in definition.validation_splits.items()}
        return TaskData.of(task, train, validation, "files")

    read_label = _label_reader(definition, task)
    train = _read_split(task, train_file, read_label)
    seen = {label for labels in train.labels for label in (labels if isinstance(labels, list) else [labels])}

    def read_seen(found: Any, where: str) -> Any:
        """Read a label of a validation split; a class that is never trained on is refused."""
        label = read_label(found, where)
        for one in label if isinstance(label, list) else [label]:
            if task.labels and one not in seen:
                raise ContentError(
                    f"{where}: label {task.labels[one]!r} never occurs in {train_file}, so it cannot be learned. Add "
                    "training examples, or leave these rows out."
                )
        return label

    validation = {
        # Soft labels of a validation split are not used.
        ours: dataclasses.replace(_read_split(task, files[theirs], read_seen), soft=None)
        for ours, theirs in definition.validation_splits.items()
    }
    return TaskData.of(task, train, validation, "files")


def _read_split(task: Task, path: Path, read_label: LabelReader) -> Split:
    columns = _TEXTS[: len(task.text_columns)]
    soft = task.kind in ("classification", "regression")
    header = ["uid", "label", *columns]
    formats = dict.fromkeys(_SUFFIXES, partial(_checked_objects, task))
    formats[".tsv"] = partial(tsv_rows, header=header, extra=examples.SOFT if soft else None)
    rows = read_rows(path, formats)
    if task.kind == "tokens":
        rows = [
            (where, row | {name: _as_list(row[name]) for name in ("label", *columns) if name in row})
            for where, row in rows
        ]
    read_soft = partial(_read_soft, task)
    return examples.build_split(
        str(path), rows, columns, "label", read_label, "words" if task.kind == "tokens" else "not blank", read_soft
    )[0]


def _checked_objects(task: Task, path: Path) -> Iterator[Row]:
    for where, row in jsonl_rows(path):
        if "token_id" in row and _TEXTS[0] not in row:
            raise ContentError(
                f"{where}: it holds tokens of one tokenizer (token_id) and no text; give the TSV that it was made from."
            )
        if examples.SOFT in row and task.kind == "tokens":
            raise ContentError(f"{where}: {examples.SOFT} needs one class or score per text, not {task.kind}.")
        yield where, row


def _as_list(cell: Any) -> Any:
    """Return the list that a cell of a TSV file holds as a Python literal; return any other cell unchanged."""
    try:
        value = ast.literal_eval(cell) if isinstance(cell, str) else None  # literals only: nothing is run
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell
    if not isinstance(value, list | tuple):
        return cell
    # A literal may hold half of a surrogate pair, which is not a character.
    broken = any(isinstance(item, str) and not examples.is_text(item) for item in value)
    return cell if broken else list(value)


def _label_reader(definition: TaskDefinition, task: Task) -> LabelReader:
    if task.is_regression:
        return examples.read_score
    read_class = examples.class_reader(task.labels, f"a label of {task.name}", definition.labels or task.labels)
    if task.kind == "tokens":
        return lambda found, where: [read_class(label, where) for label in examples.read_word_labels(found, where)]
    return read_class


def _read_soft(task: Task, found: Any, where: str) -> tuple[float, ...]:
    """Return soft labels from a JSON list, or from numbers with spaces or commas between them."""
    value = found
    if isinstance(found, str):
        text = found.strip()
        try:
            value = parse_json(text) if text.startswith("[") else text.replace(",", " ").split()
        except ValueError:
            value = None
    values = value if isinstance(value, list) else [value]
    numbers = [number for number in map(examples.as_number, values) if number is not None]
    width = len(task.labels) or 1
    if len(numbers) < len(values):
        raise ContentError(f"{where}: soft labels must be numbers, found {shown(found)}.")
    if len(numbers) != width:
        raise ContentError(
            f"{where}: found {len(numbers)} soft labels ({str(found)[:60]}), and {task.name} needs {width}, "
            + ("one for each class." if task.labels else "a score.")
        )
    if task.labels and task.soft_form == "probabilities":
        written = ", ".join(f"{number:g}" for number in numbers)
        if min(numbers) < 0 or abs(math.fsum(numbers) - 1) > _SUM_TOLERANCE:
            raise ContentError(
                f"{where}: soft labels {written} are not probabilities, which sum to 1. If they are logits, write "
                "soft_labels: logits in the task file."
            )
        if task.soft_loss == "symmetric-kl" and min(numbers) == 0:
            raise ContentError(
                f"{where}: soft labels {written}: the symmetric KL of a probability of 0 is infinite; use kd_loss: "
                "KlCriterion, or smooth them."
            )
    return tuple(numbers)


def _as_defined(task: Task, data: TaskData, who: str) -> TaskData:
    """Return the examples of a known task under a user's definition, whose classes are matched by name."""
    known = data.task
    if known.kind != task.kind or len(known.text_columns) != len(task.text_columns):
        raise UsageError(
            f"{who} is {task.kind} of {len(task.text_columns)} text(s), and the data of {known.name} are {known.kind} "
            f"of {len(known.text_columns)}."
        )
    places = list(range(len(known.labels)))
    if known.labels and task.labels != tuple(map(str, places)):
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
