"""Load a task by name, from the hub, a folder or files."""

from __future__ import annotations

from pathlib import Path

from winning_tickets.data.records import TaskData
from winning_tickets.data.tasks import TASKS, get_task
from winning_tickets.runs.errors import UsageError


def load_task(name: str, data_dir: str | Path | None = None) -> TaskData:
    """Read the training and validation examples of a task of `TASKS`; rows without a label are left out."""
    # `data_dir` is a copy of the hub's repository (Parquet files), a GLUE download (`CoLA/`, `SST-2/` ...) or the
    # task's own release; or the task's own folder in one of them. None reads the hub.
    task = get_task(name)
    if name == "pydocs":
        from winning_tickets.data.pydocs import pydocs_task

        if data_dir is not None:
            raise UsageError("The task pydocs is built in and reads no folder; leave --data-dir out.")
        return pydocs_task()
    from winning_tickets.data import glue, hub, squad

    if data_dir is None:
        return hub.read_hub(task)
    if (copy := hub.read_copy(task, Path(data_dir))) is not None:
        return copy
    if task.kind == "span":
        return squad.read_squad(task, Path(data_dir))
    return glue.read_release(task, Path(data_dir))


def check_task_files(name: str, data_dir: str | Path) -> None:
    """Refuse a folder without the files of a task, without reading them; tasks that are not built in pass."""
    from winning_tickets.data import glue, hub, squad

    task, folder = TASKS.get(name), Path(data_dir).expanduser()
    if task is None or name == "pydocs" or hub.find_copy(task, folder):
        return
    find = squad.find_squad if task.kind == "span" else glue.find_release
    find(task, folder)
