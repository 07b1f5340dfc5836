"""The rounds of iterative pruning: which mask is held when, and how the learning rate runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rounds:
    """Train, prune, train, prune ...: every pruning but a first one of untrained weights follows a training.

    There is no training after the last pruning, whose only product is a mask.

    Attributes:
        sparsities: of the tickets, ascending.
        steps: optimiser steps of each training.
        prune_first: the first ticket is pruned before any training.
    """

    sparsities: Sequence[float]
    steps: int
    prune_first: bool

    @property
    def total(self) -> int:
        """Optimiser steps in all."""
        return (len(self.sparsities) - self.prune_first) * self.steps

    def pruned(self, step: int) -> int:
        """How many tickets there are after `step` steps and the pruning that follows them."""
        return step // self.steps + self.prune_first

    def ends(self, step: int) -> bool:
        """Whether a training ends with this step."""
        return step % self.steps == 0

    def rate(self, warmup_steps: int, whole: bool) -> Callable[[int], float]:
        """Factor of the learning rate by step: linear to zero over each training, or over all of them.

        Args:
            warmup_steps: of linear warm-up at the start of each training, or of the whole.
            whole: decay over all trainings, as the released BERT-tickets program does.
        """
        length = self.total if whole else self.steps

        def factor(step: int) -> float:
            place = step % length
            if place < warmup_steps:
                return place / warmup_steps
            return (length - place) / max(1, length - warmup_steps)

        return factor
