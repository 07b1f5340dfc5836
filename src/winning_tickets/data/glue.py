"""Releases as published: GLUE (TSV without quoting, CoLA without a header), SNLI and SciTail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from winning_tickets.data.examples import build_split, check_columns, known_label_reader
from winning_tickets.data.readers import jsonl_rows, read_lines, tsv_rows
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.data.rows import Row
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import ContentError, UsageError

FILES = {
    "train": "train.tsv",
    "validation": "dev.tsv",
    "validation_matched": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
}


@dataclass(frozen=True)
class GlueLayout:
    """Files of a task and their columns."""

    texts: tuple[str, ...]  # in the order of the task
    label: str
    header: tuple[str, ...] | None = None  # the columns of files without a header line
    files: dict[str, str] = field(default_factory=lambda: FILES)  # by split; `.tsv`, or `.jsonl` with one object a line

    def splits(self, task: Task) -> tuple[str, ...]:
        """Return the splits with labels; GLUE's test sets have none."""
        return ("train", *task.validation_splits, *(("test",) if "test" in self.files else ()))


LAYOUTS: dict[str, GlueLayout] = {
    "cola": GlueLayout(("sentence",), "label", header=("source", "label", "original label", "sentence")),
    "sst2": GlueLayout(("sentence",), "label"),
    "mrpc": GlueLayout(("#1 String", "#2 String"), "Quality"),
    "stsb": GlueLayout(("sentence1", "sentence2"), "score"),
    "qqp": GlueLayout(("question1", "question2"), "is_duplicate"),
    "mnli": GlueLayout(("sentence1", "sentence2"), "gold_label"),
    "qnli": GlueLayout(("question", "sentence"), "label"),
    "rte": GlueLayout(("sentence1", "sentence2"), "label"),
    "wnli": GlueLayout(("sentence1", "sentence2"), "label"),
    "snli": GlueLayout(
        ("sentence1", "sentence2"),
        "gold_label",
        files={"train": "snli_1.0_train.jsonl", "validation": "snli_1.0_dev.jsonl", "test": "snli_1.0_test.jsonl"},
    ),
    "scitail": GlueLayout(
        ("premise", "hypothesis"),
        "label",
        header=("premise", "hypothesis", "label"),
        files={"train": "scitail_1.0_train.tsv", "validation": "scitail_1.0_dev.tsv", "test": "scitail_1.0_test.tsv"},
    ),
}


def describe_release(task: Task) -> str:
    """Describe a local release of a task in words."""
    layout = LAYOUTS.get(task.name)
    if layout is None:
        return "the official release"
    if layout.files is FILES:
        return f"a GLUE download (a folder with {task.folder}/ in it)"
    return f"the official release (a folder with {layout.files['train']} in it)"


def read_release(task: Task, files: Mapping[str, Path]) -> TaskData:
    """Read a task from the files of a GLUE download or of its own release, by split."""
    splits, unlabeled = {}, {}
    for split, file in files.items():
        splits[split], unlabeled[split] = _read_split(task, file)
    return TaskData.of(task, splits.pop("train"), splits, "folder", unlabelled=unlabeled)


def files_of(task: Task, data_dir: Path) -> dict[str, Path]:
    """Return the files of a task in a GLUE download, in its own release or in its folder in one of them, by split."""
    # Files may be absent.
    names = {split: LAYOUTS[task.name].files[split] for split in ("train", *task.validation_splits)}
    folders = folders_of(task, data_dir, names["train"])
    if not folders:
        there = ", ".join(sorted(path.name for path in data_dir.iterdir())) or "nothing"
        raise UsageError(
            f"{data_dir} has no folder {task.folder} for the task {task.name}, and no {names['train']} or Parquet "
            f"files of its own; found {there}."
        )
    return {split: folders[0] / name for split, name in names.items()}


def find_release(task: Task, data_dir: Path) -> dict[str, Path]:
    """Return the files of a task, by split; refuse a folder that lacks one."""
    paths = files_of(task, data_dir)
    paths = {split: path for split, path in paths.items() if not task.may_lack(split) or path.is_file()}
    if missing := [path.name for path in paths.values() if not path.is_file()]:
        folder = paths["train"].parent
        found = ", ".join(path.name for path in sorted(folder.iterdir())) or "nothing"
        raise UsageError(f"{folder} lacks {' and '.join(missing)} of the task {task.name}; found {found}.")
    return paths


def count_rows(task: Task, files: Mapping[str, Path]) -> dict[str, int]:
    """Count the rows of those files that are there, with or without labels, by split."""
    headers = LAYOUTS[task.name].header is None
    return {
        split: sum(1 for line in read_lines(path) if line.strip()) - (headers and path.suffix == ".tsv")
        for split, path in files.items()
        if path.is_file()
    }


def _read_split(task: Task, path: Path) -> tuple[Split, int]:
    layout = LAYOUTS[task.name]
    return build_split(
        str(path), _rows(task, path), layout.texts, layout.label, read_label=known_label_reader(task), texts_are="any"
    )


def _rows(task: Task, path: Path) -> Iterator[Row]:
    return jsonl_rows(path) if path.suffix == ".jsonl" else tsv_rows(path, LAYOUTS[task.name].header)


def folders_of(task: Task, data_dir: Path, file: str) -> list[Path]:
    """List the folders of a task in a GLUE download, in upper or lower case; else `data_dir` if it holds this file."""
    if not data_dir.is_dir():
        raise UsageError(
            f"There is no folder {data_dir}; --data-dir takes a GLUE download (CoLA/, SST-2/ ...) or a copy of the "
            "hub's repository."
        )
    names = _folder_names(task)
    inside = [path for path in sorted(data_dir.iterdir()) if path.is_dir() and path.name.lower() in names]
    others = {name for other in LAYOUTS for name in _folder_names(TASKS[other])} - names
    own = data_dir.resolve().name.lower() not in others and (data_dir / file).is_file()
    return inside or ([data_dir] if own else [])


def _folder_names(task: Task) -> set[str]:
    folder = str(task.folder).lower()
    return {folder, folder.replace("-", ""), task.name}


def check_columns_of_files(task: Task, files: Mapping[str, Path]) -> None:
    """Refuse files that cannot be read or lack a column; only their first rows are read."""
    layout = LAYOUTS[task.name]
    for path in files.values():
        for where, row in islice(_rows(task, path), 1):
            check_columns(row, (*layout.texts, layout.label), where)


DIAGNOSTIC = "AX"
SERVER_FILES: dict[str, dict[str, str]] = {
    **{name: {str(TASKS[name].folder): "test.tsv"} for name, layout in LAYOUTS.items() if layout.files is FILES},
    "mnli": {"MNLI-m": "test_matched.tsv", "MNLI-mm": "test_mismatched.tsv"},
}
"""For each task the server's names of its test sets, and their files in a GLUE download."""
_DIAGNOSTIC_FILES = ("diagnostic/diagnostic.tsv", "AX/AX.tsv", "AX/diagnostic.tsv", "MNLI/diagnostic.tsv")
_INDEX = ("index", "id")


def count_tests(task: Task, data_dir: Path) -> dict[str, int] | None:
    """Count the examples of the test sets (for SNLI and SciTail those with labels); None if a test set is absent."""
    layout = LAYOUTS.get(task.name)
    if layout is not None and "test" in layout.files:
        places = [folder / layout.files["test"] for folder in folders_of(task, data_dir, layout.files["test"])[:1]]
        return {"test": len(_read_split(task, places[0])[0])} if places and places[0].is_file() else None
    try:
        tests = read_tests(task, data_dir) if task.name in SERVER_FILES else {}
    except UsageError:
        return None
    return {name: len(test.indices) for name, test in tests.items()} or None


@dataclass(frozen=True)
class TestSet:
    """Texts to predict."""

    __test__ = False  # otherwise pytest would collect it because of its name

    indices: list[int]  # the server's number of each row
    texts: tuple[list[str], ...]  # by text column


def read_tests(task: Task, data_dir: Path) -> dict[str, TestSet]:
    """Read the test sets of a GLUE task by the server's names; for MNLI the diagnostic set too, where it is found."""
    wanted = SERVER_FILES[task.name]
    folders = folders_of(task, data_dir, next(iter(wanted.values())))
    missing = [file for file in wanted.values() if not folders or not (folders[0] / file).is_file()]
    if missing:
        place = folders[0] if folders else data_dir / str(task.folder)
        raise UsageError(
            f"{place} has no {' and '.join(missing)}, the test set of the task {task.name}. The download of GLUE has "
            "it; copies for training often leave it out."
        )
    paths = {name: folders[0] / file for name, file in wanted.items()}
    if task.name == "mnli":
        found = [data_dir / file for file in _DIAGNOSTIC_FILES if (data_dir / file).is_file()]
        if found:
            paths[DIAGNOSTIC] = found[0]
    return {name: _read_test_set(path, LAYOUTS[task.name].texts) for name, path in paths.items()}


def _read_test_set(path: Path, columns: Sequence[str]) -> TestSet:
    rows = list(tsv_rows(path))
    index = next((name for name in _INDEX if rows and name in rows[0][1]), _INDEX[0])

    def read_index(found: Any, where: str) -> int:
        if not (found.strip().isdecimal() and len(found) < 20):
            raise ContentError(f"{where}: {index} must be a whole number, found {found!r}.")
        return int(found)

    split, _ = build_split(str(path), rows, columns, index, read_label=read_index, texts_are="any")
    if len(set(split.labels)) < len(split):
        raise ContentError(f"{path}: the column {index} has a number twice, so rows could not be told apart.")
    return TestSet(split.labels, split.texts)
