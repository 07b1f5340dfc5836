"""DISTANCES: how far a model's outputs are from others, as sums and counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from winning_tickets.data import tasks


def kl_sum(logits: Tensor, target: Tensor) -> Tensor:
    """Sum over examples of KL(target || ours), natural logarithm.

    Args:
        logits: ours, `(examples, classes)`.
        target: logarithms of probabilities, or logits; minus infinity for a class that is ruled out.
    """
    return functional.kl_div(logits.log_softmax(-1), target.softmax(-1), reduction="sum")


def symmetric_kl_sum(logits: Tensor, target: Tensor) -> Tensor:
    """Sum over examples of KL(target || ours) + KL(ours || target) (Jiang et al. 2020, the distance of SMART).

    Written as one sum of products, none of which is negative.

    Args:
        logits: ours, `(examples, classes)`.
        target: logits, or logarithms of probabilities above 0.
    """
    ours, theirs = logits.log_softmax(-1), target.log_softmax(-1)
    return ((ours.exp() - theirs.exp()) * (ours - theirs)).sum()


def squared_sum(outputs: Tensor, target: Tensor) -> Tensor:
    """Sum of squared differences.

    Args:
        outputs: of any shape.
        target: of the same one.
    """
    return functional.mse_loss(outputs, target, reduction="sum")


@dataclass(frozen=True)
class Distance:
    """One distance.

    Attributes:
        sum: of a batch, from outputs and what they are compared with; differentiable in both.
        count: what the sum is divided by, from `(examples, outputs)`.
    """

    sum: Callable[[Tensor, Tensor], Tensor]
    count: Callable[[Tensor], int]


DISTANCES: dict[tasks.Distance, Distance] = {
    "kl": Distance(kl_sum, len),
    "symmetric-kl": Distance(symmetric_kl_sum, len),
    "mse": Distance(squared_sum, Tensor.numel),
}
