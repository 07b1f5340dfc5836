"""Training and dev data of a task, as a run uses them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from winning_tickets.config import TransferConfig
from winning_tickets.data.encode import train_subset
from winning_tickets.data.loading import load_task
from winning_tickets.data.mtdnn import load_defined
from winning_tickets.data.records import Split, TaskData
from winning_tickets.data.task_files import load_definitions
from winning_tickets.data.user_files import load_files


def selection_first(split: Split, seed: int) -> Split:
    """The examples in a seeded order, so that those of the selection stand at its front; nested, as training subsets.

    Args:
        split: a validation split.
        seed: of the permutation.
    """
    return split.take(np.random.default_rng(seed).permutation(len(split)).tolist())


def load_data(config: TransferConfig) -> TaskData:
    """The task and its examples, of a known task, of one that a task file defines, or of the user's own files.

    With `select_on` validation splits are in the order of that choice.

    Raises:
        UsageError: missing files.
        ContentError: unusable data.
    """
    data = _load_data(config)
    if config.head_dropout is not None:
        data = replace(data, task=replace(data.task, head_dropout=config.head_dropout))
    if config.select_on:
        ordered = {name: selection_first(split, config.select_on_seed) for name, split in data.validation.items()}
        data = replace(data, validation=ordered)
    return data


def _load_data(config: TransferConfig) -> TaskData:
    if config.task is not None and config.task_file is not None:
        (definition,) = load_definitions(config.task_file, (config.task,))
        return load_defined(definition, config.task_file, config.data_dir)
    if config.task is not None:
        return load_task(config.task, config.data_dir)
    return load_files(
        str(config.train_file),
        str(config.validation_file),
        config.text_columns,
        label_column=config.label_column,
        metric=config.metric,
        kind=config.kind,
    )


def train_split(config: TransferConfig, data: TaskData, seed: int) -> Split:
    """The training examples of one seed.

    Raises:
        UsageError: more examples are asked for than there are.
    """
    chosen = seed if config.train_size_seed is None else config.train_size_seed
    return train_subset(data.train, config.train_size or data.task.train_size, chosen)
