"""Load a task by name, from the hub, a folder or files."""

from __future__ import annotations

from pathlib import Path

from winning_tickets.data.records import TaskData
from winning_tickets.data.tasks import get_task
from winning_tickets.runs.errors import UsageError


def load_task(name: str, data_dir: str | Path | None = None) -> TaskData:
    """Read a task's training and validation examples; unlabelled rows are left out.

    Args:
        name: a name of `TASKS`.
        data_dir: a copy of the hub's repository (Parquet files), a GLUE download (`CoLA/`, `SST-2/` ...) or the task's
            own release; or the task's own folder in one of them. None reads the hub.

    Raises:
        UsageError: unknown task, missing folder or files, or the hub cannot be reached.
        ContentError: columns or labels are not those of the task.
    """
    task = get_task(name)
    if name == "pydocs":
        from winning_tickets.data.pydocs import pydocs_task

        if data_dir is not None:
            raise UsageError("The task pydocs is built in and reads no folder; leave --data-dir out.")
        return pydocs_task()
    from winning_tickets.data.hub import find_parquet, read_hub, read_parquet

    if data_dir is None:
        return read_hub(task)
    if files := find_parquet(task, Path(data_dir)):
        return read_parquet(task, files)
    if task.kind == "span":
        from winning_tickets.data import squad

        return squad.read_folder(task, Path(data_dir))
    from winning_tickets.data.glue import read_folder

    return read_folder(task, Path(data_dir))
