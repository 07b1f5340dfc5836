"""The data of tasks that a task file defines: MT-DNN's TSV and JSONL files, GLUE folders, the hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from winning_tickets.config.task_file import TaskDefinition
from winning_tickets.data.mtdnn_rows import Read, read_split
from winning_tickets.data.task_files import task_of
from winning_tickets.data.tasks import TASKS, Split, Task, TaskData, load_task
from winning_tickets.errors import ContentError, UsageError

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
