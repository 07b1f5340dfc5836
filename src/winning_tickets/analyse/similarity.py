"""How much tickets have in common: one matrix for all pairs (TAMT, section 4.2.5 and Figure 8, right)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from winning_tickets.analyse.opening import labels_of, open_all
from winning_tickets.compare import AVERAGES, Average, all_overlaps, averaged
from winning_tickets.errors import UsageError, unknown

Of = Literal["kept", "pruned"]
OF: tuple[Of, ...] = ("kept", "pruned")


def similarity(
    paths: Sequence[str | Path], *, of: Of = "kept", average: Average = "pooled", labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """Jaccard similarity of every pair of tickets, beside the level of independent random masks.

    Args:
        paths: two or more ticket folders or hub ids.
        of: the weights whose overlap is measured.
        average: over all weights together, or the unweighted mean over matrices.
        labels: a name for each ticket; by default those of the folders.

    Returns:
        `labels`, `jaccard` and `chance` (matrices in that order), and what was measured.

    Raises:
        UsageError: fewer than two tickets, one that is not there, an unknown choice, or labels that do not fit.
        ContentError: a damaged ticket, or different scopes.
    """
    if of not in OF:
        raise unknown("kind of weights", of, OF)
    if average not in AVERAGES:
        raise unknown("average", average, AVERAGES)
    if len(paths) < 2:
        raise UsageError(f"There is nothing to compare: {len(paths)} ticket was given, expected two or more.")
    names = labels_of(paths, labels)
    tickets = open_all(paths)
    overlaps = all_overlaps(tickets)

    def square(value: str) -> list[list[float]]:
        values = {pair: averaged(parts, value, average) for pair, parts in overlaps.items()}
        count = range(len(tickets))
        return [[values[min(i, j), max(i, j)] for j in count] for i in count]

    return {
        "kind": "similarity",
        "labels": names,
        "paths": [str(path) for path in paths],
        "ids": [ticket.id for ticket in tickets],
        "sparsity": [ticket.sparsity for ticket in tickets],
        "same_base": len({ticket.base.hash for ticket in tickets}) == 1,
        "of": of,
        "average": average,
        "jaccard": square(of),
        "chance": square(f"chance_{of}"),
    }
