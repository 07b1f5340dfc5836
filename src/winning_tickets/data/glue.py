"""Releases as published: the TSV files of GLUE with their quirks (no header in CoLA, no quoting), SNLI, SciTail."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from winning_tickets.data.readers import read_utf8, split_lines
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import parse_json

FILES = {
    "train": "train.tsv",
    "validation": "dev.tsv",
    "validation_matched": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
}


@dataclass(frozen=True)
class Layout:
    """Files of a task and their columns.

    Attributes:
        texts: columns of the texts, in the task's order.
        label: column of the label.
        header: the columns where the files have no header line.
        files: names by split; `.tsv`, or `.jsonl` with one object a line.
    """

    texts: tuple[str, ...]
    label: str
    header: tuple[str, ...] | None = None
    files: dict[str, str] = field(default_factory=lambda: FILES)


LAYOUTS: dict[str, Layout] = {
    "cola": Layout(("sentence",), "label", header=("source", "label", "original label", "sentence")),
    "sst2": Layout(("sentence",), "label"),
    "mrpc": Layout(("#1 String", "#2 String"), "Quality"),
    "stsb": Layout(("sentence1", "sentence2"), "score"),
    "qqp": Layout(("question1", "question2"), "is_duplicate"),
    "mnli": Layout(("sentence1", "sentence2"), "gold_label"),
    "qnli": Layout(("question", "sentence"), "label"),
    "rte": Layout(("sentence1", "sentence2"), "label"),
    "wnli": Layout(("sentence1", "sentence2"), "label"),
    "snli": Layout(
        ("sentence1", "sentence2"),
        "gold_label",
        files={"train": "snli_1.0_train.jsonl", "validation": "snli_1.0_dev.jsonl"},
    ),
    "scitail": Layout(
        ("premise", "hypothesis"),
        "label",
        header=("premise", "hypothesis", "label"),
        files={"train": "scitail_1.0_train.tsv", "validation": "scitail_1.0_dev.tsv"},
    ),
}
_UNLABELLED = ("-1", "-")
_MAX_SCORE = 5.0


def described(task: Task) -> str:
    """What a local release of a task looks like, in words."""
    layout = LAYOUTS.get(task.name)
    if layout is None:
        return "the official release"
    if layout.files is FILES:
        return f"a GLUE download (a folder with {task.folder}/ in it)"
    return f"the official release (a folder with {layout.files['train']} in it)"


def read_folder(task: Task, data_dir: Path) -> TaskData:
    """A task's examples from a GLUE download, or from its own release.

    Args:
        task: one with a layout.
        data_dir: the folder that holds `CoLA/`, `SST-2/` ... (in any case), or the task's own folder.

    Raises:
        UsageError: the folder or a file is missing.
        ContentError: columns, rows or labels are not those of the task; file and line are named.
    """
    folder = _find(task, data_dir)
    splits, unlabelled = {}, {}
    for split in ("train", *task.validation_splits):
        splits[split], unlabelled[split] = _read(task, folder / LAYOUTS[task.name].files[split])
    return TaskData.of(task, splits.pop("train"), splits, "folder", unlabelled)


def folders_of(task: Task, data_dir: Path, file: str) -> list[Path]:
    """Where a task's files may be: its folder in a GLUE download, in any case, or else a folder with this file in it.

    Raises:
        UsageError: there is no such folder as `data_dir`.
    """
    if not data_dir.is_dir():
        raise UsageError(
            f"There is no folder {data_dir}; --data-dir takes a GLUE download (CoLA/, SST-2/ ...) or a copy of the "
            "hub's repository."
        )
    folder = str(task.folder).lower()
    names = {folder, folder.replace("-", ""), task.name}
    inside = [path for path in sorted(data_dir.iterdir()) if path.is_dir() and path.name.lower() in names]
    return inside or ([data_dir] if (data_dir / file).is_file() else [])


def _find(task: Task, data_dir: Path) -> Path:
    folder, files = str(task.folder), LAYOUTS[task.name].files
    candidates = folders_of(task, data_dir, files["train"])
    if not candidates:
        there = ", ".join(sorted(path.name for path in data_dir.iterdir())) or "nothing"
        raise UsageError(
            f"{data_dir} has no folder {folder} for the task {task.name}, and no {files['train']} or Parquet files of "
            f"its own; found {there}."
        )
    wanted = [files[split] for split in ("train", *task.validation_splits)]
    missing = [name for name in wanted if not (candidates[0] / name).is_file()]
    if missing:
        found = ", ".join(path.name for path in sorted(candidates[0].iterdir())) or "nothing"
        raise UsageError(f"{candidates[0]} lacks {' and '.join(missing)} of the task {task.name}; found {found}.")
    return candidates[0]


def _read(task: Task, path: Path) -> tuple[Split, int]:
    """The labelled rows of a file, and how many have no label."""
    layout = LAYOUTS[task.name]
    lines = split_lines(read_utf8(path))
    if not lines:
        raise ContentError(f"{path} is empty.")
    texts: tuple[list[str], ...] = tuple([] for _ in layout.texts)
    labels: list[float] = []
    unlabelled = 0
    for number, cells in (_jsonl if path.suffix == ".jsonl" else _tsv)(layout, lines, path):
        label = cells[-1].strip()
        if label in _UNLABELLED:
            unlabelled += 1
            continue
        labels.append(_label(task, label, f"{path}, line {number}"))
        for column, cell in zip(texts, cells, strict=False):
            column.append(cell)
    if not labels:
        raise ContentError(f"{path} holds no labelled row.")
    return Split(texts, labels if task.is_regression else [int(label) for label in labels]), unlabelled


def _tsv(layout: Layout, lines: list[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number, texts and, last, the label of each row."""
    return tsv_cells(lines, path, [*layout.texts, layout.label], layout.header)


def tsv_cells(
    lines: list[str], path: Path, wanted: list[str], header_of: tuple[str, ...] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Line number and wanted cells of each row of a TSV file as GLUE has them.

    Args:
        lines: of the file.
        path: for messages.
        wanted: names of columns.
        header_of: the columns where the file has no header line.

    Raises:
        ContentError: columns are missing, or a row has more or fewer than the others.
    """
    header = list(header_of or lines[0].split("\t"))
    first = 0 if header_of else 1
    places = _places(wanted, header, path)
    for number, line in enumerate(lines[first:], start=first + 1):
        if not line.strip():
            continue
        cells = line.split("\t")  # quotes are ordinary characters in these files
        if len(cells) != len(header):
            raise ContentError(
                f"{path}, line {number}: found {len(cells)} columns, expected {len(header)} "
                f"({', '.join(header)}). Repair or delete that line."
            )
        yield number, [cells[place] for place in places]


def _jsonl(layout: Layout, lines: list[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number, texts and, last, the label of each object."""
    wanted = [*layout.texts, layout.label]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ContentError(f"{path}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in wanted):
            raise ContentError(f"{path}, line {number}: expected an object with the texts {', '.join(wanted)}.")
        yield number, [row[name] for name in wanted]


def _places(wanted: list[str], header: list[str], path: Path) -> list[int]:
    missing = [name for name in wanted if name not in header]
    if missing:
        raise ContentError(
            f"{path} lacks the columns {', '.join(missing)}: found {', '.join(header)}, expected {', '.join(wanted)}."
        )
    return [header.index(name) for name in wanted]


def _label(task: Task, text: str, where: str) -> float:
    if task.is_regression:
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not 0 <= score <= _MAX_SCORE:
            raise ContentError(f"{where}: label {text!r} is not a score from 0 to {_MAX_SCORE:g}.")
        return score
    if text in task.labels:
        return task.labels.index(text)
    if text in map(str, range(len(task.labels))):
        return int(text)
    allowed = [*map(str, range(len(task.labels))), *task.labels]
    raise ContentError(f"{where}: label {text!r} is not a label of {task.name}; allowed: {', '.join(allowed)}.")


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
    found = {name: _read_test_rows(folders[0] / file, columns) for name, file in wanted.items()}
    if task.name == "mnli":
        paths = [data_dir / file for file in _DIAGNOSTIC_FILES if (data_dir / file).is_file()]
        if paths:
            found[DIAGNOSTIC] = _read_test_rows(paths[0], columns)
    return found


def _read_test_rows(path: Path, columns: Sequence[str]) -> TestSet:
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
