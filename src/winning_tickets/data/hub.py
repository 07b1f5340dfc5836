"""Data sets of the Hugging Face hub, and local copies of their repositories, through `datasets.load_dataset`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.data.squad import answers_of, check_answers
from winning_tickets.runs.errors import ContentError, UsageError

Files = dict[str, list[str]]
"""Parquet files by name of the split."""

_ONLY_CONFIGURATION = ("plain_text", "data")
"""Folders that hold the files of a repository with a single configuration."""
_UNLABELLED = -1


def load_hub(name: str, config: str | None, what: str, instead: str) -> Any:
    """All splits of a hub data set, from the hub or its local cache.

    Args:
        name: hub id, or a local folder in one of the formats that `datasets` reads.
        config: configuration of the data set.
        what: what it is for, in messages.
        instead: what else the user can do without a network, a whole sentence.

    Raises:
        UsageError: the hub cannot be reached and the data set is not in the cache, or there is no such data set.
    """
    import datasets

    try:
        return datasets.load_dataset(name, config)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        named = name if config is None else f"{name} ({config})"
        raise UsageError(
            f"Could not load the data set {named} for {what} from the Hugging Face hub: {str(error).rstrip('.')}. "
            f"Check the network; or, where there is one, run: hf download {name} --repo-type dataset --local-dir DIR, "
            f"and give --data-dir DIR. {instead}"
        ) from error


def find_files(data_dir: Path, config: str | None, splits: Iterable[str]) -> Files:
    """The Parquet files of a local copy of a hub repository; empty where it is something else.

    Args:
        data_dir: the copy (as `git clone` or `hf download --local-dir` make it), or the configuration's folder in it.
        config: configuration of the data set; None where it has only one.
        splits: names of the splits that are needed.

    Raises:
        UsageError: some of the splits are there and others are not.
    """
    for folder in (data_dir / name for name in ((config,) if config else _ONLY_CONFIGURATION) + ("",)):
        found = {split: [*folder.glob(f"{split}.parquet"), *folder.glob(f"{split}-*.parquet")] for split in splits}
        if not any(found.values()):
            continue
        if missing := [f"{split}-*.parquet" for split, files in found.items() if not files]:
            there = ", ".join(sorted(path.name for path in folder.iterdir()))
            raise UsageError(f"{folder} lacks {' and '.join(missing)}; found {there}.")
        return {split: sorted(map(str, files)) for split, files in found.items()}
    return {}


def load_files(files: Files) -> Any:
    """The splits of a local copy.

    Args:
        files: what `find_files` found.

    Raises:
        ContentError: a file is not Parquet, or damaged.
    """
    import datasets

    try:
        return datasets.load_dataset("parquet", data_files=files)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        folder = Path(next(iter(files.values()))[0]).parent
        cause = str(error.__cause__ or error).rstrip(".")
        raise ContentError(
            f"Could not read the Parquet files in {folder}: {cause}. A cloned repository may hold pointers instead of "
            "files (git lfs pull fetches them); else download it again."
        ) from error


def find_parquet(task: Task, data_dir: Path) -> Files:
    """The Parquet files of a task in a local copy of its repository; empty where it is something else.

    Raises:
        UsageError: some of its splits are missing.
    """
    config = task.hub[1] if task.hub else None
    return find_files(data_dir, config, ("train", *task.validation_splits))


def read_parquet(task: Task, files: Files) -> TaskData:
    """A task's examples from a local copy of its repository.

    Args:
        task: what to read.
        files: what `find_parquet` found.

    Raises:
        ContentError: a file is damaged, or columns or labels are not those of the task.
    """
    return _read(task, load_files(files), str(Path(files["train"][0]).parent), "folder")


def read_hub(task: Task) -> TaskData:
    """A task's examples from the hub; rows with label -1 (no label) are left out and counted.

    Raises:
        UsageError: the hub cannot be reached.
        ContentError: splits, columns or labels are not those of the task.
    """
    if task.hub is None:
        raise UsageError(f"The task {task.name} is not on the Hugging Face hub.")
    from winning_tickets.data.glue import described

    found = load_hub(*task.hub, f"the task {task.name}", f"--data-dir takes {described(task)} too.")
    return _read(task, found, f"The data set {task.hub[0]}", "hub")


def _read(task: Task, found: Mapping[str, Any], where: str, source: Any) -> TaskData:
    splits, unlabelled = {}, {}
    for name in ("train", *task.validation_splits):
        splits[name], unlabelled[name] = _split(task, found, name, where)
    if task.kind == "span":
        check_answers(splits["train"], where)
    return TaskData.of(task, splits.pop("train"), splits, source, unlabelled)


def _split(task: Task, found: Mapping[str, Any], name: str, where: str) -> tuple[Split, int]:
    """The labelled rows of a split, and how many have no label."""
    if name not in found:
        raise ContentError(f"{where} has no split {name!r}; found {', '.join(found)}.")
    rows = found[name]
    wanted = (*task.text_columns, task.label_column)
    missing = [column for column in wanted if column not in rows.column_names]
    if missing:
        raise ContentError(
            f"{where}, split {name!r}, lacks the columns {', '.join(missing)}; found {', '.join(rows.column_names)}, "
            f"expected {', '.join(wanted)}."
        )
    labels = list(rows[task.label_column])
    keep = [index for index, label in enumerate(labels) if label != _UNLABELLED]
    if not keep:
        raise ContentError(f"{where}, split {name!r}, holds no labelled row.")
    columns = []
    for text in task.text_columns:
        column = list(rows[text])
        if empty := [index for index in keep if not isinstance(column[index], str)]:
            raise ContentError(
                f"{where}, split {name!r}, row {empty[0]}: column {text!r} must be a text, found {column[empty[0]]!r}."
            )
        columns.append([column[index] for index in keep])
    checked = [_label(task, labels[index], f"{where}, split {name!r}, row {index}") for index in keep]
    return Split(tuple(columns), checked), len(labels) - len(keep)


def _label(task: Task, found: Any, where: str) -> Any:
    """A score, the answers to a question, or the class by number or by name."""
    if task.kind == "span":
        return answers_of(found, where)
    if task.is_regression:
        return float(found)
    if isinstance(found, str) and found in task.labels:
        return task.labels.index(found)
    if found not in range(len(task.labels)):
        raise ContentError(f"{where}: label {found!r} is outside 0-{len(task.labels) - 1} ({', '.join(task.labels)}).")
    return int(found)
