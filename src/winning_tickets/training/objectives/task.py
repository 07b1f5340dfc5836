"""The losses of fine-tuning, one for each kind of task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from winning_tickets.data.encode import IGNORED
from winning_tickets.data.records import Kind
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


DISTANCES = {
    "symmetric-kl": Distance(symmetric_kl_sum, len),
    "mse": Distance(partial(functional.mse_loss, reduction="sum"), Tensor.numel),
}


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
    unread = ("labels",) if reads_segments(model) else ("labels", "token_type_ids")
    return {name: value for name, value in batch.items() if name not in unread}


def task_logits(output: Any) -> Tensor:
    """Return a head's logits: `(batch, outputs)`, for tokens `(batch, seq, outputs)`, for spans `(batch, seq, 2)`."""
    if "start_logits" in output:
        return torch.stack((output.start_logits, output.end_logits), dim=-1)
    logits: Tensor = output.logits
    return logits


class TaskObjective:
    """The loss of fine-tuning on a kind of task."""

    def __init__(self, kind: Kind) -> None:
        self.weights = {"loss": 1.0}
        self._loss = TASK_LOSSES[kind]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return the number of examples, of pairs of an example and a class, of labeled words, or of windows."""
        labels = batch["labels"]
        return {"loss": torch.as_tensor(self._loss.count(labels), device=labels.device)}

    def logits(self, model: Any, batch: Batch) -> Tensor:
        """Return the logits of the model's head for a batch, in float32."""
        return task_logits(model(**model_inputs(model, batch))).float()

    def sums(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self._loss.sum(logits, batch["labels"])}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        return self.sums(self.logits(model, batch), batch)
