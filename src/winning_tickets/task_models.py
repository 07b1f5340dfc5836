"""A model for a task: the right head with the names of its labels, and how long its texts may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from winning_tickets.data.kinds import KINDS, outputs_of
from winning_tickets.data.tasks import Task
from winning_tickets.errors import UsageError
from winning_tickets.plm import PLM


def load_for_task(load: Callable[..., PLM], task: Task) -> PLM:
    """The dense base model with a fresh head for the task, which knows the names of the labels and its dropout.

    Args:
        load: loads the model with the `head` and `num_labels` that it is given.
        task: what the head is for.
    """
    kind = KINDS[task.kind]
    plm = load(head=kind.head, num_labels=outputs_of(task.kind, task.labels))
    plm.model.config.problem_type = kind.problem_type
    if task.labels:
        plm.model.config.id2label = dict(enumerate(task.labels))
        plm.model.config.label2id = {label: index for index, label in enumerate(task.labels)}
    if task.head_dropout is not None:
        inside = set(plm.encoder.modules())
        for module in plm.model.modules():
            if isinstance(module, nn.Dropout) and module not in inside:
                module.p = task.head_dropout
    return plm


def with_seed(load: Callable[..., PLM], seed: int) -> Callable[..., PLM]:
    """The same loader, whose fresh heads come from the seed alone, whatever the state of the global generators."""

    def seeded(**options: Any) -> PLM:
        with torch.random.fork_rng(devices=[]):  # a model is made on the CPU
            torch.default_generator.manual_seed(seed)
            return load(**options)

    return seeded


def text_length(asked: int | None, task: Task, plm: PLM) -> int:
    """Tokens that a text is cut to: what was asked for, else the task's number as far as the model reaches.

    Raises:
        UsageError: longer than the model can read, or too short for a single word of each text.
    """
    settings = plm.model.config
    # RoBERTa and MPNet count their positions from behind the padding index of the position embeddings.
    padding = getattr(getattr(plm.encoder.embeddings, "position_embeddings", None), "padding_idx", None)
    offset = 0 if padding is None else padding + 1
    longest = min(settings.max_position_embeddings - offset, plm.tokenizer.model_max_length)
    columns = len(task.text_columns)
    shortest = plm.tokenizer.num_special_tokens_to_add(pair=columns == 2) + columns
    if asked is None:
        return int(min(task.max_length, longest))
    if not shortest <= asked <= longest:
        raise UsageError(f"--max-length {asked} is impossible; {plm.name} reads {shortest} to {longest}.")
    return asked


def window_stride(asked: int | None, task: Task, max_length: int) -> int | None:
    """Tokens from one window to the next: what was asked for, else the task's; None for tasks without windows.

    Raises:
        UsageError: the task has no windows, or a step that is longer than one.
    """
    if asked is None:
        return task.doc_stride
    if task.kind != "span":
        raise UsageError(
            f"--doc-stride goes with answers in texts (--task squad, or JSON of that kind); {task.name} has none."
        )
    if asked >= max_length:
        raise UsageError(
            f"--doc-stride {asked} is impossible: windows of {max_length} tokens would leave gaps; "
            "give fewer, such as 128."
        )
    return asked
