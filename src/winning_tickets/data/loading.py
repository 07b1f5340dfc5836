"""Load a task by name, from the hub, a folder or files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from winning_tickets.data import glue, hub
from winning_tickets.data.pydocs import pydocs_task
from winning_tickets.data.records import Task, TaskData
from winning_tickets.data.tasks import TASKS, get_task
from winning_tickets.runs.errors import UsageError

_NEARBY = 50  # folders that are looked into


def load_task(name: str, data_dir: str | Path | None = None) -> TaskData:
    """Read the training and validation examples of a task of `TASKS`; rows without a label are left out."""
    # `data_dir` is a copy of the hub's repository (Parquet files), a GLUE download (`CoLA/`, `SST-2/` ...) or the
    # task's own release; or the task's own folder in one of them. None reads the hub.
    task = get_task(name)
    if name == "pydocs":
        refuse_folder(name, data_dir)
        return pydocs_task()
    if data_dir is None:
        return hub.read_hub(task)
    copy, release = find_data(task, Path(data_dir))
    if copy:
        return hub.read_copy(task, copy)
    if task.kind == "span":
        from winning_tickets.data.squad import read_release

        return read_release(task, release)
    return glue.read_release(task, release)


def refuse_folder(name: str, data_dir: str | Path | None) -> None:
    """Refuse a folder for a task that is built in."""
    if name == "pydocs" and data_dir is not None:
        raise UsageError("The task pydocs is built in and reads no folder; leave --data-dir out.")


def check_task_files(name: str, data_dir: str | Path) -> None:
    """Refuse a folder without the files of a task, without reading them; tasks that are not built in pass."""
    if name in TASKS and name != "pydocs":
        find_data(TASKS[name], Path(data_dir).expanduser())


def find_data(task: Task, folder: Path) -> tuple[hub.Files, dict[str, Path]]:
    """Find the files of a task in a folder, by split: of a copy of the hub's repository, or of a release.

    If they are above or below the folder, the error names the right one.
    """
    try:
        return _find(task, folder)
    except UsageError as error:
        if not folder.is_dir() or (other := _folder_nearby(task, folder)) is None:
            raise
        raise UsageError(f"{error} Give --data-dir {other}.") from error


def _find(task: Task, folder: Path) -> tuple[hub.Files, dict[str, Path]]:
    config = None if task.hub is None else task.hub[1]
    if copy := hub.find_files(folder, config, ("train", *task.validation_splits), task.may_lack):
        return copy, {}
    if task.kind == "span":
        from winning_tickets.data.squad import find_release

        return {}, find_release(task, folder)
    return {}, glue.find_release(task, folder)


def _folder_nearby(task: Task, folder: Path) -> Path | None:
    """Return the next folder above, or up to two levels below, that has the files of a task."""
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir()][:_NEARBY]
    below = [path for one in inside for path in sorted(one.iterdir()) if path.is_dir()][:_NEARBY]
    above = (folder if len(folder.parts) > 1 else folder.resolve()).parents[:2]
    for one in (*above, *inside, *below):
        with suppress(UsageError, OSError):
            _find(task, one)
            return one
    return None
