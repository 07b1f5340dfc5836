"""What can be said of data before a run reads it: the files and columns are there, and how many examples there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from winning_tickets.data import glue, hub
from winning_tickets.data.corpora import SplitName, check_corpus
from winning_tickets.data.examples import check_columns
from winning_tickets.data.hub import HubPart
from winning_tickets.data.loading import find_data, refuse_folder
from winning_tickets.data.readers import FORMATS
from winning_tickets.data.records import Kind, Task, TaskData
from winning_tickets.data.tasks import get_task
from winning_tickets.data.user_files import load_files
from winning_tickets.runs.hub import is_cached

WHOLE_BYTES = 32 << 20  # files of users up to this size are read as a whole


@dataclass(frozen=True)
class Outlook:
    """A task's data as far as it is known before a run; None for what is not."""

    task: Task | None
    train: int | None = None
    validation: int | None = None
    remarks: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()  # what was not looked at, and why


def outlook_of_task(name: str, data_dir: str | None) -> Outlook:
    """Check the files of a known task in a folder, by their first rows; the hub is not asked."""
    task = get_task(name)
    if name == "pydocs":
        refuse_folder(name, data_dir)
        return Outlook(task)
    if data_dir is None:
        repository = str(task.hub[0]) if task.hub else ""
        where = "the local cache of the hub" if is_cached(repository, "dataset") else "the hub"
        return Outlook(task, unchecked=(f"the data of {name}, which the run gets from {where} ({repository})",))
    folder = Path(data_dir).expanduser()
    find_data(task, folder)
    if copy := hub.find_copy(task, folder):
        counts = {split: sum(map(_count_parquet, paths)) for split, paths in copy.items()}
        for paths in copy.values():
            check_columns(_columns_of(paths[0]), (*task.text_columns, task.label_column), paths[0])
    elif name in glue.LAYOUTS:
        glue.check_columns_of_files(task, folder)
        counts = glue.count_rows(task, folder)
    else:
        return Outlook(task)
    return Outlook(task, counts.pop("train"), sum(counts.values()))


def _count_parquet(path: str) -> int:
    import pyarrow.parquet

    return int(pyarrow.parquet.read_metadata(path).num_rows)


def _columns_of(path: str) -> list[str]:
    import pyarrow.parquet

    return list(pyarrow.parquet.read_schema(path).names)


def outlook_of_files(
    train: str,
    validation: str,
    text_columns: Sequence[str] | None,
    label_column: str = "label",
    *,
    metric: str | None = None,
    kind: Kind | None = None,
    drop_unlabelled: bool = False,
) -> Outlook:
    """Read files of users as the run will; of large ones only the first rows, and splits of the hub not at all."""
    paths = {Path(train), Path(validation)}
    if any(HubPart.parse(path.as_posix()) is not None for path in paths):
        return Outlook(None, unchecked=(f"{train} and {validation}, which the run gets from the hub",))
    if all(not path.is_file() or path.stat().st_size <= WHOLE_BYTES for path in paths):
        data: TaskData = load_files(
            train,
            validation,
            text_columns,
            label_column=label_column,
            metric=metric,
            kind=kind,
            drop_unlabelled=drop_unlabelled,
        )
        return Outlook(data.task, len(data.train), len(data.validation["validation"]), data.remarks)
    for path in paths:
        for where, row in islice(FORMATS[path.suffix.lower()](path), 1) if path.suffix.lower() in FORMATS else ():
            check_columns(row, (*(text_columns or ()), label_column), where)
    return Outlook(None, unchecked=(f"the rows of {train} and {validation} after the first, as the files are large",))


def unchecked_corpus(corpus: str | None, split: SplitName, data_dir: str | None) -> tuple[str, ...]:
    """Check that a corpus is there and begins with text; return what was not looked at, such as texts of the hub."""
    if corpus is None:
        return ()
    if corpus.startswith("task:"):
        return outlook_of_task(corpus.removeprefix("task:"), data_dir).unchecked
    return () if check_corpus(corpus, split, data_dir) else (f"the corpus {corpus}, which the run gets from the hub",)
