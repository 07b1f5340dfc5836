"""A task prepared for a model: its data, the tokenized validation splits, lengths and steps per epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from winning_tickets.data.encode import EncodedSplit
from winning_tickets.data.records import Split, Task, TaskData
from winning_tickets.models.heads import choose_doc_stride, choose_max_length
from winning_tickets.models.loading import PLM
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.identity import digest
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.predict import encode_split
from winning_tickets.training.saved_model import TaskInfo


@dataclass(frozen=True)
class DevPart:
    """Some examples of a validation split, plain and tokenized."""

    split: Split
    encoded: EncodedSplit


@dataclass(frozen=True)
class PreparedTask:
    """A task with everything about it that is the same for all seeds."""

    data: TaskData  # the task and its examples
    validation: dict[str, EncodedSplit]  # by name of the split
    selection: dict[str, tuple[DevPart, DevPart]]  # part of each split to choose the best evaluation on, and the rest
    train_examples: int  # size of the training set, or of the subset
    train_windows: int | None  # for spans: number of windows over the examples of the first seed; they fill the batches
    batch_size: int
    max_length: int  # tokens that an example or a window is cut to
    doc_stride: int | None  # for spans: tokens from one window to the next
    steps_per_epoch: int

    @property
    def task(self) -> Task:
        return self.data.task

    @property
    def reported(self) -> dict[str, Split]:
        """The examples of each validation split that scores are of: all, or those that nothing was selected on."""
        parts = {name: rest.split for name, (_, rest) in self.selection.items()}
        return parts or self.data.validation

    def info(self, ticket: Ticket | None) -> TaskInfo:
        return TaskInfo.of(self.task, self.max_length, self.doc_stride, **ticket_facts(ticket))

    def encode(self, plm: PLM, split: Split, teacher: PLM | None = None) -> EncodedSplit:
        """Tokenize examples like the validation splits, for a teacher, too."""
        return encode_split(plm, split, self.max_length, self.task.kind, doc_stride=self.doc_stride, teacher=teacher)


def prepare_task(
    plm: PLM,
    data: TaskData,
    examples: Split,
    batch_size: int | None = None,
    *,
    max_length: int | None = None,
    doc_stride: int | None = None,
    select_on: float = 0.0,
) -> PreparedTask:
    """Tokenize a task for a model."""
    # `examples` are the training examples of the first seed. Sizes that are None are taken from the task. With
    # `select_on`, the examples of the validation splits in `data` that are selected on come first.
    task = data.task
    length = choose_max_length(max_length, task, plm)
    stride = choose_doc_stride(doc_stride, task, length)
    # Batches of spans are filled with windows over long texts; their number is only known after tokenizing.
    windows = len(encode_split(plm, examples, length, task.kind, doc_stride=stride)) if task.kind == "span" else None
    size = batch_size or task.batch_size
    validation = {
        name: encode_split(plm, split, length, task.kind, doc_stride=stride) for name, split in data.validation.items()
    }
    return PreparedTask(
        data=data,
        validation=validation,
        selection=_selection(select_on, data, validation) if select_on else {},
        train_examples=len(examples),
        train_windows=windows,
        batch_size=size,
        max_length=length,
        doc_stride=stride,
        steps_per_epoch=math.ceil((windows or len(examples)) / size),
    )


def _selection(
    fraction: float, data: TaskData, validation: dict[str, EncodedSplit]
) -> dict[str, tuple[DevPart, DevPart]]:
    parts = {}
    for name, split in data.validation.items():
        count = int(Fraction(str(fraction)) * len(split))
        if not 0 < count < len(split):
            raise UsageError(
                f"--select-on {fraction:g} takes {count} of the {len(split)} examples of {name}; at least one must be "
                "chosen on, and one be left to report on."
            )
        first, rest = validation[name].split_at(count)
        places = list(range(len(split)))
        parts[name] = (DevPart(split.take(places[:count]), first), DevPart(split.take(places[count:]), rest))
    return parts


def ticket_facts(ticket: Ticket | None) -> dict[str, Any]:
    """Return the id and the sparsity of a ticket; None and 0 for a dense model."""
    if ticket is None:
        return {"ticket_id": None, "sparsity": 0.0}
    return {"ticket_id": ticket.id, "sparsity": ticket.sparsity}


def task_digest(task: Task) -> str:
    """Return a hash of a task's record; fields at their defaults are left out, so a new field changes no hash."""
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    return digest({field.name: values[field.name] for field in fields(task) if values[field.name] != field.default})
