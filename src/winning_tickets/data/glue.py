"""GLUE downloads: folders of TSV files with their quirks (no header in CoLA, byte-order mark in MRPC, no quoting)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from winning_tickets.data.tasks import Split, Task, TaskData
from winning_tickets.data.textfiles import read_utf8, split_lines
from winning_tickets.errors import ContentError, UsageError


@dataclass(frozen=True)
class Layout:
    """Columns of a task's TSV files.

    Attributes:
        texts: columns of the texts, in the task's order.
        label: column of the label.
        header: the columns where the files have no header line.
    """

    texts: tuple[str, ...]
    label: str
    header: tuple[str, ...] | None = None


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
}
FILES = {
    "train": "train.tsv",
    "validation": "dev.tsv",
    "validation_matched": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
}
_UNLABELLED = ("-1", "-")
_MAX_SCORE = 5.0


def read_folder(task: Task, data_dir: Path) -> TaskData:
    """A task's examples from a GLUE download.

    Args:
        task: one with a folder.
        data_dir: the folder that holds `CoLA/`, `SST-2/` ... (in any case), or the task's own folder.

    Raises:
        UsageError: the folder or a file is missing.
        ContentError: columns, rows or labels are not those of the task; file and line are named.
    """
    folder = _find(task, data_dir)
    splits = {split: _read(task, folder / FILES[split]) for split in ("train", *task.validation_splits)}
    return TaskData.of(task, splits.pop("train"), splits, "folder")


def _find(task: Task, data_dir: Path) -> Path:
    if not data_dir.is_dir():
        raise UsageError(f"There is no folder {data_dir}; --data-dir takes a GLUE download (CoLA/, SST-2/ ...).")
    folder = str(task.folder)
    names = {folder.lower(), folder.lower().replace("-", ""), task.name}
    inside = sorted(data_dir.iterdir())
    candidates = [path for path in inside if path.is_dir() and path.name.lower() in names]
    if not candidates and (data_dir / FILES["train"]).is_file():
        candidates = [data_dir]
    there = ", ".join(path.name for path in inside) or "nothing"
    if not candidates:
        raise UsageError(
            f"{data_dir} has no folder {folder} for the task {task.name}, and no {FILES['train']} of its own; "
            f"found {there}."
        )
    wanted = [FILES[split] for split in ("train", *task.validation_splits)]
    missing = [name for name in wanted if not (candidates[0] / name).is_file()]
    if missing:
        found = ", ".join(path.name for path in sorted(candidates[0].iterdir())) or "nothing"
        raise UsageError(f"{candidates[0]} lacks {' and '.join(missing)} of the task {task.name}; found {found}.")
    return candidates[0]


def _read(task: Task, path: Path) -> Split:
    layout = LAYOUTS[task.name]
    lines = split_lines(read_utf8(path))
    if not lines:
        raise ContentError(f"{path} is empty.")
    header = list(layout.header or lines[0].split("\t"))
    first = 0 if layout.header else 1
    places = _places(layout, header, path)
    texts: tuple[list[str], ...] = tuple([] for _ in layout.texts)
    labels: list[float] = []
    for number, line in enumerate(lines[first:], start=first + 1):
        if not line.strip():
            continue
        cells = line.split("\t")  # quotes are ordinary characters in these files
        if len(cells) != len(header):
            raise ContentError(
                f"{path}, line {number}: found {len(cells)} columns, expected {len(header)} "
                f"({', '.join(header)}). Repair or delete that line."
            )
        label = cells[places[-1]].strip()
        if label in _UNLABELLED:
            continue
        labels.append(_label(task, label, f"{path}, line {number}"))
        for column, place in zip(texts, places, strict=False):
            column.append(cells[place])
    if not labels:
        raise ContentError(f"{path} holds no labelled row.")
    return Split(texts, labels if task.is_regression else [int(label) for label in labels])


def _places(layout: Layout, header: list[str], path: Path) -> list[int]:
    """Positions of the text columns and, last, of the label."""
    wanted = [*layout.texts, layout.label]
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
