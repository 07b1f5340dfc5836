"""Data sets of the Hugging Face hub, and local copies of their repositories, through `datasets.load_dataset`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winning_tickets.data.examples import build_split, check_answers, check_columns, known_label_reader
from winning_tickets.data.glue import describe_release
from winning_tickets.data.readers import fingerprint
from winning_tickets.data.records import Task, TaskData
from winning_tickets.data.rows import Row, rows_of
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.hub import hub_is_away, is_cached, newest_revision

Files = dict[str, list[str]]  # Parquet files by name of the split
_TEXTS_IN_TURN = 50
_END = 1 << 20  # bytes at the end of a Parquet file that are hashed
TEXT = "text"  # column of the texts, unless another one is named
_ONLY_CONFIGURATION = ("plain_text", "data")  # folders that hold the files of a repository with a single configuration


def load_hub(name: str, config: str | None, what: str, instead: str) -> Any:
    """Load all splits of a configuration of a hub data set, from the hub or its local cache."""
    # In messages, `what` is the use of the data set, and `instead` a sentence on what to do without a network.
    import datasets

    try:
        if not is_cached(name, "dataset") and (reason := hub_is_away(name, "dataset")) is not None:
            raise ValueError(f"it {reason}")  # at once, not after retries for every file
        return datasets.load_dataset(name, config)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        named = name if config is None else f"{name} ({config})"
        raise UsageError(
            f"Could not load the data set {named} for {what} from the Hugging Face hub: {str(error).rstrip('.')}. "
            f"Check the network; or, where there is one, run: hf download {name} --repo-type dataset --local-dir DIR, "
            f"and give --data-dir DIR. {instead}"
        ) from error


_PART = re.compile(r"(\w[\w.-]*/[\w.-]+)(?:/([\w.-]+))?:([\w.-]+)")


@dataclass(frozen=True)
class HubPart:
    """A part of a data set of the hub: a column of its text, or a split, such as `org/name/config:part`."""

    name: str
    config: str | None
    part: str

    @classmethod
    def parse(cls, text: str) -> HubPart | None:
        """Return the part that a text names; None for anything else, such as a file that exists."""
        found = _PART.fullmatch(text)
        if found is None or Path(text).exists() or Path(text.rpartition(":")[0]).is_file():  # a column of a file here
            return None
        return cls(*found.groups())

    @classmethod
    def splits_of(cls, task: str | None) -> tuple[HubPart, HubPart] | None:
        """Return the training and validation splits of a data set `org/name` or `org/name/config`; None for others."""
        parts = [cls.parse(f"{task}:{split}") for split in ("train", "validation")]
        return None if parts[0] is None or parts[1] is None else (parts[0], parts[1])

    def __str__(self) -> str:
        return f"{self.name}{'/' + self.config if self.config else ''}:{self.part}"


def read_hub_split(part: HubPart) -> list[Row]:
    """Return the rows of a split, with the names of classes in place of their numbers."""
    found = load_hub(part.name, part.config, str(part), "--train-file takes csv, tsv, jsonl and parquet files too.")
    if part.part not in found:
        raise UsageError(f"The data set {part.name} has no split {part.part!r}; found {', '.join(found)}.")
    return rows_of(found[part.part], str(part))


Texts = Callable[[], Iterator[str]]
"""Yields the texts of a data set from the first one."""


def stream_hub(name: str, config: str | None, column: str, split: str, *, what: str) -> tuple[Texts, str, bool]:
    """Return the texts of a split of the hub, which are fetched as they are read, and the identity of the data.

    The identity holds the name and the revision. The last value says whether all texts are of the split; without a
    validation split, those of `train` and `validation` are both the texts of `train`.
    """
    import datasets

    revision, reason = newest_revision(name, "dataset")
    if revision is None:
        raise UsageError(
            f"{what}: {name} {reason}; give --corpus (in a study --set corpus=) a folder with its Parquet files, from: "
            f"hf download {name} --repo-type dataset --include '{config + '/' if config else ''}*' --local-dir DIR."
        )
    try:
        splits = datasets.load_dataset(name, config, streaming=True, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(f"{what}: could not load {name}: {str(error).rstrip('.')}.") from error
    whole = split == "test" or "validation" in splits
    chosen = split if whole else "train"
    if chosen not in splits:
        raise UsageError(f"{what}: {name} has no split {chosen!r}; found {', '.join(splits)}.")
    identity = " ".join(filter(None, (name, config, revision, column if column != TEXT else "")))
    return lambda: _in_turn(splits[chosen], column), identity, whole


def stream_parquet(files: list[str], column: str = TEXT) -> tuple[Texts, str]:
    """Return the texts of Parquet files, read a part at a time, and a hash of the files' sizes and ends."""
    import datasets

    ends = []
    for path in map(Path, files):
        with path.open("rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(0, size - _END))  # the footer is there, with the places and extremes of all columns
            ends += [str(size), handle.read().hex()]
    try:
        found = datasets.load_dataset("parquet", data_files={"train": files}, split="train", streaming=True)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _unreadable(files, error) from error
    return lambda: _in_turn(found, column), fingerprint(ends)


def _in_turn(found: Any, column: str) -> Iterator[str]:
    """Yield the texts of all files in turn, so that the first ones are a sample of all of them."""
    import datasets

    parts = [found.shard(found.num_shards, index) for index in range(found.num_shards)]
    try:
        streams = [part.select_columns(column).iter(_TEXTS_IN_TURN) for part in parts]
        while streams:
            blocks = [next(stream, None) for stream in streams]
            yield from (text for block in blocks if block is not None for text in block[column] if text)
            streams = [stream for stream, block in zip(streams, blocks, strict=True) if block is not None]
    except (OSError, ValueError, RuntimeError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise ContentError(f"Could not read the column {column!r} of {found.info.builder_name}: {error}") from error


def find_files(
    data_dir: Path, config: str | None, splits: Iterable[str], may_lack: Callable[[str], bool] = lambda split: False
) -> Files:
    """Find the Parquet files of these splits in a copy of a hub repository, or in a configuration's folder of it."""
    # The result is empty if the folder is not such a copy; `config` is None if the data set has one configuration only.
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
        raise _unreadable(next(iter(files.values())), error) from error


def _unreadable(files: list[str], error: Exception) -> ContentError:
    cause = str(error.__cause__ or error).rstrip(".")
    return ContentError(
        f"Could not read the Parquet files in {Path(files[0]).parent}: {cause}. A cloned repository may hold pointers "
        "instead of files (git lfs pull fetches them); else download it again."
    )


def read_copy(task: Task, files: Files) -> TaskData:
    """Read a task from the Parquet files of a local copy of its repository."""
    return _read(task, load_parquet(files), str(Path(files["train"][0]).parent), "folder")


def read_hub(task: Task) -> TaskData:
    """Read a task from the hub."""
    assert task.hub is not None
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
            where, rows, task.text_columns, task.label_column, read_label=known_label_reader(task), texts_are="any"
        )
    if task.kind == "span":
        check_answers(splits["train"], source)
    return TaskData.of(task, splits.pop("train"), splits, kind, unlabelled=unlabeled)
