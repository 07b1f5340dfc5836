"""The ladder: tickets of several sparsities from one search, each rung trained from the scores of the one below.

Scores that were trained for 50 % already order the weights that decide at 60 %, so a rung needs fewer steps than a
search of its own. What is measured about it stands in docs/explanation/ladder.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from winning_tickets.config import SearchConfig
from winning_tickets.tickets.selection import count_true
from winning_tickets.tickets.ticket import Ticket


@dataclass(frozen=True)
class Rung:
    """One sparsity of a ladder.

    Attributes:
        sparsity: fraction removed.
        start: optimiser steps taken before it.
        end: optimiser steps taken when its ticket is made.
    """

    sparsity: float
    start: int
    end: int


def rungs_of(config: SearchConfig) -> list[Rung]:
    """The rungs of a search, lowest sparsity first; one for a search of one sparsity."""
    ends = [config.first_steps + index * config.steps_of_a_rung for index in range(len(config.sparsities))]
    starts = [0, *ends[:-1]]
    return [Rung(*values) for values in zip(config.sparsities, starts, ends, strict=True)]


def rung_at(rungs: list[Rung], step: int) -> int:
    """Index of the rung that is being trained after `step` steps; a rung's end belongs to the next one."""
    return next((index for index, rung in enumerate(rungs) if step < rung.end), len(rungs) - 1)


def decay(rungs: list[Rung], warmup_steps: int, horizon: int | None) -> Callable[[int], float]:
    """Factor of the learning rate by step: linear to zero inside each rung, with a warm-up before the first.

    Args:
        rungs: the rungs.
        warmup_steps: of the first rung.
        horizon: steps after which a rung's rate would reach zero; None means at the rung's end.
    """

    def factor(step: int) -> float:
        rung = rungs[rung_at(rungs, step)]
        length = horizon or rung.end - rung.start
        if step < warmup_steps:
            return step / warmup_steps
        lead = warmup_steps if rung.start == 0 else 0
        return max(0.0, (length - (step - rung.start)) / max(1, length - lead))

    return factor


def kept_inside(inner: Ticket, outer: Ticket) -> float:
    """Fraction of the weights that `inner` keeps which `outer` keeps too; 1 where they are nested."""
    both = sum(count_true(mask & outer.masks[name]) for name, mask in inner.masks.items())
    return both / max(1, inner.total - inner.pruned)


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
