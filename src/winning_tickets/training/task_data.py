"""Training and dev data of a task, as a run uses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from winning_tickets.config import TransferConfig
from winning_tickets.data.encode import train_subset
from winning_tickets.data.hub import HubPart
from winning_tickets.data.loading import load_task
from winning_tickets.data.outlook import Outlook, outlook_of_files, outlook_of_task
from winning_tickets.data.records import Split, TaskData
from winning_tickets.data.task_files import FilesDefinition, load_definitions
from winning_tickets.data.user_files import file_arguments, load_files


def load_data(config: TransferConfig) -> TaskData:
    """Load a known task, a task of a task file, a data set of the hub, or the user's own files."""
    if config.task is not None and config.task_file is not None:
        data = _definition(config.task, config.task_file).load(config.task, Path(config.task_file).parent)
    elif config.task is not None and HubPart.splits_of(config.task) is None:
        data = load_task(config.task, config.data_dir)
    else:
        data = load_files(**_files(config), task_name=config.task_name)
        if config.task is not None:
            data = replace(data, task=replace(data.task, name=config.task), source="hub")
    if config.head_dropout is not None:
        data = replace(data, task=replace(data.task, head_dropout=config.head_dropout))
    if config.select_on:
        # The selection is taken from the front of this order, so that a smaller one is part of a larger one.
        seed = config.select_on_seed
        ordered = {name: split.take(split.order_by_content(seed)) for name, split in data.validation.items()}
        data = replace(data, validation=ordered)
    return data


def inspect_data(config: TransferConfig) -> Outlook:
    """Check the data of a task without reading it whole, and return what is known of it before the run."""
    if config.task is not None and config.task_file is not None:
        return outlook_of_files(**_definition(config.task, config.task_file).files(Path(config.task_file).parent))
    if config.task is not None and HubPart.splits_of(config.task) is None:
        return outlook_of_task(config.task, config.data_dir)
    return outlook_of_files(**_files(config))


def _definition(task: str, file: str) -> FilesDefinition:
    return load_definitions(file, (task,))[task]


def _files(config: TransferConfig) -> dict[str, Any]:
    """Return the arguments of `load_files` for a data set of the hub, or the user's own files."""
    splits = HubPart.splits_of(config.task) or (config.train_file, config.validation_file)
    return file_arguments(config, *map(str, splits))


def train_split(config: TransferConfig, data: TaskData, seed: int) -> Split:
    """Return the training examples of one seed."""
    chosen = seed if config.train_size_seed is None else config.train_size_seed
    return train_subset(data.train, config.train_size or data.task.train_size, chosen)
