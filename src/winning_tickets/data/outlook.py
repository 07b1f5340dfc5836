"""What can be said of data before a run reads it: the files and columns are there, and how many examples there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from winning_tickets.data import glue
from winning_tickets.data.corpora import SplitName, check_corpus
from winning_tickets.data.examples import check_columns
from winning_tickets.data.hub import HubPart
from winning_tickets.data.loading import find_data, refuse_folder
from winning_tickets.data.readers import FORMATS
from winning_tickets.data.records import Task
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
    copy, release = find_data(task, Path(data_dir).expanduser())
    if copy:
        from pyarrow import parquet

        counts = {split: sum(parquet.read_metadata(path).num_rows for path in paths) for split, paths in copy.items()}
        for path, *_ in copy.values():
            check_columns(parquet.read_schema(path).names, (*task.text_columns, task.label_column), path)
    elif name in glue.LAYOUTS:
        glue.check_columns_of_files(task, release)
        counts = glue.count_rows(task, release)
    else:
        return Outlook(task)
    return Outlook(task, counts.pop("train"), sum(counts.values()))


def outlook_of_files(
    train_file: str | Path,
    validation_file: str | Path,
    text_columns: Sequence[str] | None,
    label_column: str = "label",
    **options: Any,  # further arguments of `load_files`
) -> Outlook:
    """Read files of users as the run will; of large ones only the first rows, and splits of the hub not at all."""
    paths, both = {Path(train_file), Path(validation_file)}, f"{train_file} and {validation_file}"
    if any(HubPart.parse(path.as_posix()) is not None for path in paths):
        return Outlook(None, unchecked=(f"{both}, which the run gets from the hub",))
    if all(not path.is_file() or path.stat().st_size <= WHOLE_BYTES for path in paths):
        data = load_files(train_file, validation_file, text_columns, label_column, **options)
        return Outlook(data.task, len(data.train), len(data.validation["validation"]), data.remarks)
    for path in paths:
        for where, row in islice(FORMATS[path.suffix.lower()](path), 1) if path.suffix.lower() in FORMATS else ():
            check_columns(row, (*(text_columns or ()), label_column), where)
    return Outlook(None, unchecked=(f"the rows of {both} after the first, as the files are large",))


def unchecked_corpus(corpus: str | None, split: SplitName, data_dir: str | None) -> tuple[str, ...]:
    """Check that a corpus is there and begins with text; return what was not looked at, such as texts of the hub."""
    if corpus is None:
        return ()
    if corpus.startswith("task:"):
        return outlook_of_task(corpus.removeprefix("task:"), data_dir).unchecked
    return () if check_corpus(corpus, split, data_dir) else (f"the corpus {corpus}, which the run gets from the hub",)
