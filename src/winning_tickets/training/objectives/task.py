"""The losses of fine-tuning, one for each kind of task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from winning_tickets.data import records
from winning_tickets.data.encode import IGNORED, SOFT_LABELS, TARGETS
from winning_tickets.data.records import Kind, Task
from winning_tickets.models.loading import reads_segments
from winning_tickets.training.objectives.base import Batch


def kl_sum(logits: Tensor, target: Tensor) -> Tensor:
    """Return the sum over examples of KL(target || ours), natural logarithm; logits are `(examples, classes)`."""
    # The target holds log-probabilities or logits; minus infinity rules a class out.
    return functional.kl_div(logits.log_softmax(-1), target.softmax(-1), reduction="sum")


def symmetric_kl_sum(logits: Tensor, target: Tensor) -> Tensor:
    """Return the sum over examples of KL(target || ours) + KL(ours || target), the distance of SMART."""
    # Jiang et al. 2020. Computed as one sum of products, none of which is negative. Both are logits
    # `(examples, classes)`, or log-probabilities above minus infinity.
    ours, theirs = logits.log_softmax(-1), target.log_softmax(-1)
    return ((ours.exp() - theirs.exp()) * (ours - theirs)).sum()


@dataclass(frozen=True)
class Distance:
    """A distance between outputs and targets, as a sum and a count."""

    sum: Callable[[Tensor, Tensor], Tensor]  # over a batch; differentiable in both
    count: Callable[[Tensor], int]  # from `(examples, outputs)`


DISTANCES: dict[records.Distance, Distance] = {
    "kl": Distance(kl_sum, len),
    "symmetric-kl": Distance(symmetric_kl_sum, len),
    "mse": Distance(partial(functional.mse_loss, reduction="sum"), Tensor.numel),
}


class SoftLabelLoss:
    """Distance of a head's outputs from soft labels: class probabilities, class logits, or scores of a regression."""

    def __init__(self, distance: records.Distance, form: Literal["probabilities", "logits"]) -> None:
        self._distance = DISTANCES[distance]
        self._as_probabilities = form == "probabilities" and distance == "mse"
        self._as_logarithms = form == "probabilities" and distance != "mse"

    def count(self, soft: Tensor) -> int:
        return self._distance.count(soft)

    def sum(self, logits: Tensor, soft: Tensor) -> Tensor:
        """Return the differentiable sum over a batch; both are `(examples, outputs)`."""
        outputs = logits.softmax(-1) if self._as_probabilities else logits
        return self._distance.sum(outputs, soft.log() if self._as_logarithms else soft)


@dataclass(frozen=True)
class TaskLoss:
    """The loss of one kind of task."""

    count: Callable[[Tensor], int | Tensor]  # from the labels
    sum: Callable[[Tensor, Tensor], Tensor]  # over a batch, from logits and labels


def _squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")


def _word_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def _span_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return half the cross-entropy of the start plus half that of the end, over the positions of a window."""
    return functional.cross_entropy(logits, labels, reduction="sum") / 2  # (batch, positions as classes, 2)


TASK_LOSSES: dict[Kind, TaskLoss] = {
    "classification": TaskLoss(Tensor.numel, partial(functional.cross_entropy, reduction="sum")),
    "regression": TaskLoss(Tensor.numel, _squared_error),
    "multilabel": TaskLoss(Tensor.numel, partial(functional.binary_cross_entropy_with_logits, reduction="sum")),
    "tokens": TaskLoss(lambda labels: (labels != IGNORED).sum(), _word_cross_entropy),
    "span": TaskLoss(len, _span_cross_entropy),
}


def model_inputs(model: Any, batch: Batch) -> Batch:
    """Return what a model reads of a batch: no labels, and `token_type_ids` only if it distinguishes segments."""
    unread = TARGETS if reads_segments(model) else (*TARGETS, "token_type_ids")
    return {name: value for name, value in batch.items() if name not in unread}


def task_logits(output: Any) -> Tensor:
    """Return a head's logits: `(batch, outputs)`, for tokens `(batch, seq, outputs)`, for spans `(batch, seq, 2)`."""
    if "start_logits" in output:
        return torch.stack((output.start_logits, output.end_logits), dim=-1)
    logits: Tensor = output.logits
    return logits


class TaskObjective:
    """The loss of fine-tuning: that of the kind of task, plus that of soft labels if a batch has some."""

    def __init__(self, kind: Kind, soft: SoftLabelLoss | None = None) -> None:
        self.weights = {"loss": 1.0} | ({} if soft is None else {"soft_loss": 1.0})
        self._loss = TASK_LOSSES[kind]
        self._soft = soft

    @classmethod
    def of(cls, task: Task) -> Self:
        return cls(task.kind, None if task.soft_loss is None else SoftLabelLoss(task.soft_loss, task.soft_form))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return the number of examples, of pairs of an example and a class, of labeled words, or of windows."""
        labels = batch["labels"]
        counts = {"loss": torch.as_tensor(self._loss.count(labels), device=labels.device)}
        if self._soft is not None and SOFT_LABELS in batch:
            counts["soft_loss"] = torch.as_tensor(self._soft.count(batch[SOFT_LABELS]), device=labels.device)
        return counts

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """Return the logits of the model's head for a batch, in float32."""
        return task_logits(model(**model_inputs(model, batch))).float()

    def sums(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        sums = {"loss": self._loss.sum(logits, batch["labels"])}
        if self._soft is not None and SOFT_LABELS in batch:
            sums["soft_loss"] = self._soft.sum(logits, batch[SOFT_LABELS])
        return sums

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        return self.sums(self.logits(model, batch), batch)
