"""Data sets of the Hugging Face hub, and local copies of their repositories, through `datasets.load_dataset`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from winning_tickets.data.examples import build_split, check_answers, check_columns, known_label_reader
from winning_tickets.data.glue import describe_release
from winning_tickets.data.records import Task, TaskData
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.hub import hub_is_away, is_cached

Files = dict[str, list[str]]  # Parquet files by name of the split
_ONLY_CONFIGURATION = ("plain_text", "data")  # folders that hold the files of a repository with a single configuration


def load_hub(name: str, config: str | None, what: str, instead: str) -> Any:
    """Load all splits of a configuration of a hub data set, from the hub or its local cache."""
    # For messages `what` is its use, and `instead` a sentence on what else the user can do without a network.
    import datasets

    try:
        if not is_cached(name, "dataset") and (reason := hub_is_away(name, "dataset")) is not None:
            raise ValueError(f"it {reason}")  # at once, and not after the retries of every file
        return datasets.load_dataset(name, config)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        named = name if config is None else f"{name} ({config})"
        raise UsageError(
            f"Could not load the data set {named} for {what} from the Hugging Face hub: {str(error).rstrip('.')}. "
            f"Check the network; or, where there is one, run: hf download {name} --repo-type dataset --local-dir DIR, "
            f"and give --data-dir DIR. {instead}"
        ) from error


def find_files(
    data_dir: Path, config: str | None, splits: Iterable[str], may_lack: Callable[[str], bool] = lambda split: False
) -> Files:
    """Find the Parquet files of these splits in a copy of a hub repository, or in a configuration's folder of it."""
    # The result is empty where the folder is something else; `config` is None where the data set has only one.
    for folder in (data_dir / name for name in ((config,) if config else _ONLY_CONFIGURATION) + ("",)):
        found = {split: [*folder.glob(f"{split}.parquet"), *folder.glob(f"{split}-*.parquet")] for split in splits}
        if not any(found.values()):
            continue
        found = {split: files for split, files in found.items() if files or not may_lack(split)}
        if missing := [f"{split}-*.parquet" for split, files in found.items() if not files]:
            there = ", ".join(sorted(path.name for path in folder.iterdir()))
            raise UsageError(f"{folder} lacks {' and '.join(missing)}; found {there}.")
        return {split: sorted(map(str, files)) for split, files in found.items()}
    return {}


def load_parquet(files: Files) -> Any:
    """Load the splits of a local copy from the files that `find_files` found."""
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


def read_copy(task: Task, data_dir: Path) -> TaskData | None:
    """Read a task from a local copy of its repository; None where the folder is something else."""
    files = find_files(data_dir, task.hub[1] if task.hub else None, ("train", *task.validation_splits), task.may_lack)
    return _read(task, load_parquet(files), str(Path(files["train"][0]).parent), "folder") if files else None


def read_hub(task: Task) -> TaskData:
    """Read a task from the hub."""
    if task.hub is None:
        raise UsageError(f"The task {task.name} is not on the Hugging Face hub.")
    found = load_hub(*task.hub, f"the task {task.name}", f"--data-dir takes {describe_release(task)} too.")
    return _read(task, found, f"The data set {task.hub[0]}", "hub")


def _read(task: Task, found: Mapping[str, Any], source: str, kind: Any) -> TaskData:
    splits, unlabeled = {}, {}
    wanted = (*task.text_columns, task.label_column)
    for name in ("train", *task.validation_splits):
        if name not in found and kind == "folder" and task.may_lack(name):
            continue
        if name not in found:
            raise ContentError(f"{source} has no split {name!r}; found {', '.join(found)}.")
        where = f"{source}, split {name!r}"
        check_columns(found[name].column_names, wanted, where)
        # Whole columns: reading a data set row by row takes many times longer.
        cells = zip(*(list(found[name][column]) for column in wanted), strict=True)
        rows = ((f"{where}, row {i}", dict(zip(wanted, row, strict=True))) for i, row in enumerate(cells))
        splits[name], unlabeled[name] = build_split(
            where, rows, task.text_columns, task.label_column, known_label_reader(task), "any"
        )
    if task.kind == "span":
        check_answers(splits["train"], source)
    return TaskData.of(task, splits.pop("train"), splits, kind, unlabeled)
