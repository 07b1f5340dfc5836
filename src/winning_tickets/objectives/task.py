"""The losses of fine-tuning, one for each kind of task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from winning_tickets.data.encode import SOFT_LABELS, TARGETS
from winning_tickets.data.tasks import Kind, Task
from winning_tickets.objectives.base import IGNORED, Batch
from winning_tickets.objectives.soft_labels import SoftLabelLoss


@dataclass(frozen=True)
class TaskLoss:
    """The loss of one kind of task.

    Attributes:
        count: what the sum is divided by, from the labels.
        sum: the differentiable sum over a batch, from logits and labels.
    """

    count: Callable[[Tensor], int | Tensor]
    sum: Callable[[Tensor, Tensor], Tensor]


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="sum")


def _squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")


def _binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")


def _word_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def _span_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Half the cross entropy of the start plus half that of the end, over the positions of a window."""
    return functional.cross_entropy(logits, labels, reduction="sum") / 2  # (batch, positions as classes, 2)


TASK_LOSSES: dict[Kind, TaskLoss] = {
    "classification": TaskLoss(Tensor.numel, _cross_entropy),
    "regression": TaskLoss(Tensor.numel, _squared_error),
    "multilabel": TaskLoss(Tensor.numel, _binary_cross_entropy),
    "tokens": TaskLoss(lambda labels: (labels != IGNORED).sum(), _word_cross_entropy),
    "span": TaskLoss(len, _span_cross_entropy),
}


def task_logits(output: Any) -> Tensor:
    """The logits of a model with a head: `(batch, outputs)`, `(batch, seq, outputs)`; `(batch, seq, 2)` for spans."""
    if "start_logits" in output:
        return torch.stack((output.start_logits, output.end_logits), dim=-1)
    logits: Tensor = output.logits
    return logits


class TaskObjective:
    """What fine-tuning minimises.

    Args:
        kind: of the task.
        soft: how far from soft labels, which is added where a batch has some.
    """

    def __init__(self, kind: Kind, soft: SoftLabelLoss | None = None) -> None:
        self.weights = {"loss": 1.0} | ({} if soft is None else {"soft_loss": 1.0})
        self._loss = TASK_LOSSES[kind]
        self._soft = soft

    @classmethod
    def of(cls, task: Task) -> Self:
        """The losses of a task: that of its kind, and that of soft labels where it has one."""
        return cls(task.kind, None if task.soft_loss is None else SoftLabelLoss(task.soft_loss, task.soft_form))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Number of examples, of pairs of an example and a class, of labelled words, or of windows."""
        labels = batch["labels"]
        counts = {"loss": torch.as_tensor(self._loss.count(labels), device=labels.device)}
        if self._soft is not None and SOFT_LABELS in batch:
            counts["soft_loss"] = torch.as_tensor(self._soft.count(batch[SOFT_LABELS]), device=labels.device)
        return counts

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """What the model's head says of a batch, in float32."""
        output = model(**{key: value for key, value in batch.items() if key not in TARGETS})
        return task_logits(output).float()

    def sums(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sums of the losses of what the head said."""
        sums = {"loss": self._loss.sum(logits, batch["labels"])}
        if self._soft is not None and SOFT_LABELS in batch:
            sums["soft_loss"] = self._soft.sum(logits, batch[SOFT_LABELS])
        return sums

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Sum of their losses."""
        return self.sums(self.logits(model, batch), batch)
