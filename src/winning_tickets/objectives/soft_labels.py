"""Distillation into a task's head: what another model says of each training example."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from winning_tickets.data import tasks
from winning_tickets.objectives.distances import DISTANCES


class SoftLabelLoss:
    """How far a head's outputs are from soft labels.

    Args:
        distance: which one.
        form: `probabilities` of classes; or `logits` of classes, or scores of a regression.
    """

    def __init__(self, distance: tasks.Distance, form: Literal["probabilities", "logits"]) -> None:
        self._distance = DISTANCES[distance]
        self._as_odds = form == "probabilities" and distance == "mse"
        self._logarithm = form == "probabilities" and distance != "mse"

    def count(self, soft: Tensor) -> int:
        """What the sum is divided by: examples, or numbers of a squared error."""
        return self._distance.count(soft)

    def sum(self, logits: Tensor, soft: Tensor) -> Tensor:
        """The differentiable sum over a batch.

        Args:
            logits: of the head, `(examples, outputs)`.
            soft: soft labels, likewise.
        """
        outputs = logits.softmax(-1) if self._as_odds else logits
        return self._distance.sum(outputs, soft.log() if self._logarithm else soft)
