"""The ladder: tickets of several sparsities from one search, each rung trained from the scores of the one below.

Scores that were trained for 50 % already order the weights that decide at 60 %, so a rung needs fewer steps than a
search of its own. What is measured about it stands in docs/explanation/ladder.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from winning_tickets.bits import count_true
from winning_tickets.config import SearchConfig
from winning_tickets.ticket import Ticket


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
