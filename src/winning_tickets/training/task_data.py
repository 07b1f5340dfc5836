"""Training and dev data of a task, as a run uses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from winning_tickets.config import TransferConfig
from winning_tickets.data.encode import train_subset
from winning_tickets.data.hub import HubPart
from winning_tickets.data.loading import load_task
from winning_tickets.data.outlook import Outlook, outlook_of_files, outlook_of_task
from winning_tickets.data.records import Split, TaskData
from winning_tickets.data.task_files import load_definitions
from winning_tickets.data.user_files import load_files


def load_data(config: TransferConfig) -> TaskData:
    """Load a known task, a task of a task file, a data set of the hub, or the user's own files."""
    splits = HubPart.splits_of(config.task)
    if config.task is not None and config.task_file is not None:
        definition = load_definitions(config.task_file, (config.task,))[config.task]
        data = definition.load(config.task, Path(config.task_file).parent)
    elif config.task is not None and splits is None:
        data = load_task(config.task, config.data_dir)
    else:
        train, validation = splits or (config.train_file, config.validation_file)
        data = load_files(
            str(train),
            str(validation),
            config.text_columns,
            label_column=config.label_column,
            metric=config.metric,
            kind=config.kind,
            task_name=config.task_name,
            drop_unlabelled=config.drop_unlabelled,
        )
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
    splits = HubPart.splits_of(config.task)
    if config.task is not None and config.task_file is not None:
        definition = load_definitions(config.task_file, (config.task,))[config.task]
        here = Path(config.task_file).parent
        return outlook_of_files(
            str(here / definition.train_file),
            str(here / definition.validation_file),
            definition.text_columns,
            definition.label_column,
            metric=definition.metric,
            kind=definition.kind,
            drop_unlabelled=definition.drop_unlabelled,
        )
    if config.task is not None and splits is None:
        return outlook_of_task(config.task, config.data_dir)
    train, validation = splits or (config.train_file, config.validation_file)
    return outlook_of_files(
        *(str(train), str(validation), config.text_columns, config.label_column),
        metric=config.metric,
        kind=config.kind,
        drop_unlabelled=config.drop_unlabelled,
    )


def train_split(config: TransferConfig, data: TaskData, seed: int) -> Split:
    """Return the training examples of one seed."""
    chosen = seed if config.train_size_seed is None else config.train_size_seed
    return train_subset(data.train, config.train_size or data.task.train_size, chosen)
