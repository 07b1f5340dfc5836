"""The test sets of GLUE, which have no labels: what the server asks to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from winning_tickets.data.glue import LAYOUTS, folders_of, tsv_cells
from winning_tickets.data.tasks import Task
from winning_tickets.data.textfiles import read_utf8, split_lines
from winning_tickets.errors import ContentError, UsageError

DIAGNOSTIC = "AX"
SERVER_FILES: dict[str, dict[str, str]] = {
    "cola": {"CoLA": "test.tsv"},
    "sst2": {"SST-2": "test.tsv"},
    "mrpc": {"MRPC": "test.tsv"},
    "stsb": {"STS-B": "test.tsv"},
    "qqp": {"QQP": "test.tsv"},
    "mnli": {"MNLI-m": "test_matched.tsv", "MNLI-mm": "test_mismatched.tsv"},
    "qnli": {"QNLI": "test.tsv"},
    "rte": {"RTE": "test.tsv"},
    "wnli": {"WNLI": "test.tsv"},
}
"""For each task the server's names of its test sets, and their files in a GLUE download."""
_DIAGNOSTIC_FILES = ("diagnostic/diagnostic.tsv", "AX/AX.tsv", "AX/diagnostic.tsv", "MNLI/diagnostic.tsv")
_INDEX = ("index", "id")


@dataclass(frozen=True)
class TestSet:
    """Texts to predict.

    Attributes:
        indices: the server's number of each row.
        texts: one list a text column.
    """

    __test__ = False  # its name alone does not make it a test

    indices: list[int]
    texts: tuple[list[str], ...]


def read_tests(task: Task, data_dir: Path) -> dict[str, TestSet]:
    """The test sets of a task by the server's names; of MNLI the diagnostic set too, where it is at hand.

    Args:
        task: one of GLUE.
        data_dir: a GLUE download, or the task's own folder in it.

    Raises:
        UsageError: a folder or file is missing.
        ContentError: columns or rows are not those of the task; file and line are named.
    """
    wanted = SERVER_FILES[task.name]
    folders = folders_of(task, data_dir, next(iter(wanted.values())))
    missing = [file for file in wanted.values() if not folders or not (folders[0] / file).is_file()]
    if missing:
        place = folders[0] if folders else data_dir / str(task.folder)
        raise UsageError(
            f"{place} has no {' and '.join(missing)}, the test set of the task {task.name}. The download of GLUE has "
            "it; copies for training often leave it out."
        )
    columns = LAYOUTS[task.name].texts
    found = {name: _read(folders[0] / file, columns) for name, file in wanted.items()}
    if task.name == "mnli":
        paths = [data_dir / file for file in _DIAGNOSTIC_FILES if (data_dir / file).is_file()]
        if paths:
            found[DIAGNOSTIC] = _read(paths[0], columns)
    return found


def _read(path: Path, columns: Sequence[str]) -> TestSet:
    lines = split_lines(read_utf8(path))
    if not lines:
        raise ContentError(f"{path} is empty.")
    header = lines[0].split("\t")
    index = next((name for name in _INDEX if name in header), _INDEX[0])
    indices: list[int] = []
    texts: tuple[list[str], ...] = tuple([] for _ in columns)
    for line, (number, *cells) in tsv_cells(lines, path, [index, *columns]):
        if not (number.strip().isdecimal() and len(number) < 20):
            raise ContentError(f"{path}, line {line}: {index} must be a whole number, found {number!r}.")
        indices.append(int(number))
        for column, cell in zip(texts, cells, strict=True):
            column.append(cell)
    if not indices:
        raise ContentError(f"{path} holds no row.")
    if len(set(indices)) < len(indices):
        raise ContentError(
            f"{path}: the column {index} has a number twice, so the server could not tell the rows apart."
        )
    return TestSet(indices, texts)
