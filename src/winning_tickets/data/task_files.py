"""Task files: YAML that defines tasks of the user's own files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from winning_tickets.config.settings import LabeledKind, Settings, Size
from winning_tickets.config.yaml_files import read_yaml
from winning_tickets.data.readers import read_utf8
from winning_tickets.data.records import TaskData
from winning_tickets.data.user_files import file_arguments, load_files
from winning_tickets.runs.errors import UsageError, page, refuse, shown, unknown

TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _columns(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


class FilesDefinition(Settings):
    """A task of the user's own files; docs/how_to/task_files.md describes the keys."""

    train_file: str
    validation_file: str
    text_columns: Annotated[tuple[str, ...] | None, BeforeValidator(_columns)] = None
    label_column: str = "label"
    metric: str | None = None
    kind: LabeledKind | None = None
    drop_unlabelled: bool = False
    dropout_p: float | None = Field(None, ge=0, lt=1)
    train_size: Size | None = None
    weight: float = Field(1.0, gt=0)
    ticket: str | None = None
    learning_rate: float | None = Field(None, gt=0)

    @classmethod
    def option_of(cls, field: str, inner: str = "") -> str:
        return field  # messages name keys, because a task file has no options

    def files(self, folder: Path) -> dict[str, Any]:
        """Return the arguments of `load_files`; paths are relative to the folder of the task file."""
        return file_arguments(self, folder / self.train_file, folder / self.validation_file)

    def load(self, name: str, folder: Path) -> TaskData:
        """Read the examples of the task, whose task file is in this folder."""
        data = load_files(**self.files(folder), task_name=name)
        task = replace(data.task, head_dropout=self.dropout_p, learning_rate=self.learning_rate)
        return replace(data, task=replace(task, train_size=self.train_size, weight=self.weight))


def load_definitions(path: Path | str, names: Sequence[str] | None = None) -> dict[str, FilesDefinition]:
    """Read the tasks with these names from a task file, in this order, or all tasks.

    Raises:
        UsageError: not YAML, or not definitions of tasks; all problems are named.
    """
    content, lines = read_yaml(read_utf8(Path(path)), f"The task file {path}")
    if not isinstance(content, dict) or not content:
        raise UsageError(f"The task file {path} must map tasks to definitions. {page('how_to/task_files.md')}")
    found: dict[str, FilesDefinition] = {}
    problems: list[str] = []
    known = {str(name): fields for name, fields in content.items()}
    for name in known if names is None else names:
        where = f"{path}, line {lines[name,]}, task {name}" if name in known else str(path)
        try:
            found[name] = _definition(name, known)
        except UsageError as error:
            problems += [f"{where}: {line}" for line in error.lines]
    refuse(problems)
    return found


def _definition(name: str, known: dict[str, Any]) -> FilesDefinition:
    if name not in known:
        raise unknown("task", name, known)
    if not TASK_NAME.fullmatch(name):
        raise UsageError("The name of a task may hold letters, digits, dots, dashes and underscores only.")
    fields = known[name]
    if not isinstance(fields, dict):
        raise UsageError(f"Expected keys and values such as train_file: train.csv, found {shown(fields)}.")
    return FilesDefinition.of(**{str(key): value for key, value in fields.items()})
