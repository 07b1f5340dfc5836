"""Data sets of the Hugging Face hub, through `datasets.load_dataset`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winning_tickets.data.tasks import Split, Task, TaskData
from winning_tickets.errors import ContentError, UsageError


def load_hub(name: str, config: str | None, what: str, instead: str) -> Any:
    """All splits of a hub data set, from the hub or its local cache.

    Args:
        name: hub id, or a local folder in one of the formats that `datasets` reads.
        config: configuration of the data set.
        what: what it is for, in messages.
        instead: what the user can do without a network, a whole sentence.

    Raises:
        UsageError: the hub cannot be reached, or has no such data set.
    """
    import datasets

    try:
        return datasets.load_dataset(name, config)
    except (OSError, ValueError, RuntimeError) as error:
        named = name if config is None else f"{name} ({config})"
        raise UsageError(
            f"Could not load the data set {named} for {what} from the Hugging Face hub: {error}. {instead}"
        ) from error


def read_hub(task: Task) -> TaskData:
    """A task's examples from the hub; rows with label -1 (no label) are left out.

    Raises:
        UsageError: the hub cannot be reached.
        ContentError: splits, columns or labels are not those of the task.
    """
    if task.hub is None:
        raise UsageError(f"The task {task.name} is not on the Hugging Face hub.")
    name, config = task.hub
    instead = f"Check the network, or give a GLUE download with --data-dir (a folder with {task.folder}/ in it)."
    found = load_hub(name, config, f"the task {task.name}", instead)
    splits = {split: _split(task, found, split) for split in ("train", *task.validation_splits)}
    return TaskData.of(task, splits.pop("train"), splits, "hub")


def _split(task: Task, found: Mapping[str, Any], name: str) -> Split:
    where = f"The data set {task.hub[0] if task.hub else task.name}"
    if name not in found:
        raise ContentError(f"{where} has no split {name!r}; found {', '.join(found)}.")
    rows = found[name]
    wanted = (*task.text_columns, task.label_column)
    missing = [column for column in wanted if column not in rows.column_names]
    if missing:
        raise ContentError(
            f"{where}, split {name!r}, lacks the columns {', '.join(missing)}; found {', '.join(rows.column_names)}, "
            f"expected {', '.join(wanted)}."
        )
    labels = list(rows[task.label_column])
    keep = [index for index, label in enumerate(labels) if label != -1]
    texts = tuple([column[index] for index in keep] for column in (list(rows[text]) for text in task.text_columns))
    return Split(texts, [_label(task, labels[index], f"{where}, split {name!r}, row {index}") for index in keep])


def _label(task: Task, found: Any, where: str) -> Any:
    if task.is_regression:
        return float(found)
    if found not in range(len(task.labels)):
        raise ContentError(f"{where}: label {found!r} is outside 0-{len(task.labels) - 1} ({', '.join(task.labels)}).")
    return int(found)
