"""Overlap of tickets: Jaccard similarity, and its level by chance alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np

from winning_tickets.runs.errors import ContentError, UsageError, unknown
from winning_tickets.tickets.ticket import Ticket, names_of, open_ticket

Average = Literal["pooled", "matrix"]
"""Over all weights together, or the unweighted mean over matrices."""

AVERAGES: tuple[Average, ...] = ("pooled", "matrix")
Of = Literal["kept", "pruned"]
OF: tuple[Of, ...] = ("kept", "pruned")


@dataclass(frozen=True)
class Overlap:
    """Counts of kept weights of two masks over the same `total` weights; overlaps of several matrices add up."""

    both: int  # kept by both
    first: int
    second: int
    total: int
    chance_both: float  # expected value of `both` if the masks were independent, with the same density in each matrix

    @property
    def kept(self) -> float:
        """Jaccard similarity of the kept weights: intersection over union."""
        return self._of_kept(self.both)

    @property
    def pruned(self) -> float:
        """Jaccard similarity of the pruned weights."""
        return self._of_pruned(self.both)

    @property
    def chance_kept(self) -> float:
        """Value of `kept` for two independent random masks: expected intersection over expected union."""
        return self._of_kept(self.chance_both)

    @property
    def chance_pruned(self) -> float:
        """Value of `pruned` for two independent random masks."""
        return self._of_pruned(self.chance_both)

    def _of_kept(self, both: float) -> float:
        union = self.first + self.second - both
        return both / union if union else 1.0  # two empty sets are equal

    def _of_pruned(self, both: float) -> float:
        union = self.total - both
        return (self.total - (self.first + self.second - both)) / union if union else 1.0


def overlap_by_matrix(a: Ticket, b: Ticket) -> dict[str, Overlap]:
    """Return the overlap of two tickets of one scope in each matrix."""
    check_scopes("the first ticket", a, "the second ticket", b)
    return all_overlaps([a, b])[0, 1]


def pool(overlaps: dict[str, Overlap]) -> Overlap:
    """Return the overlap over all weights together."""
    parts = overlaps.values()
    return Overlap(
        sum(part.both for part in parts),
        sum(part.first for part in parts),
        sum(part.second for part in parts),
        sum(part.total for part in parts),
        sum(part.chance_both for part in parts),
    )


def averaged(overlaps: dict[str, Overlap], value: str, average: Average = "pooled") -> float:
    """Return one number for the overlaps of all matrices; `value` is an attribute of `Overlap`, such as `kept`."""
    if average == "pooled":
        return float(getattr(pool(overlaps), value))
    return fmean(getattr(part, value) for part in overlaps.values())


def all_overlaps(tickets: Sequence[Ticket]) -> dict[tuple[int, int], dict[str, Overlap]]:
    """Return the overlaps of every pair (i, j) with i <= j, by matrix; all tickets must have the same scope."""
    # On a CPU numpy counts the True of an array some 50 times faster than torch, with one thread.
    masks = [{name: mask.cpu().numpy() for name, mask in ticket.masks.items()} for ticket in tickets]
    kept = [{name: int(np.count_nonzero(mask)) for name, mask in one.items()} for one in masks]
    result: dict[tuple[int, int], dict[str, Overlap]] = {}
    for i in range(len(tickets)):
        for j in range(i, len(tickets)):
            parts = {}
            for name, mask in masks[i].items():
                first, second, total = kept[i][name], kept[j][name], mask.size
                both = first if i == j else int(np.count_nonzero(mask & masks[j][name]))
                parts[name] = Overlap(both, first, second, total, first * second / total)
            result[i, j] = parts
    return result


def jaccard(a: Ticket, b: Ticket) -> float:
    """Return the Jaccard similarity of the kept weights of two tickets, pooled over all their weights, in [0, 1]."""
    return pool(overlap_by_matrix(a, b)).kept


def check_scopes(first: str, a: Ticket, second: str, b: Ticket) -> None:
    """Refuse tickets that do not cover the same matrices; `first` and `second` name them in the message."""
    for name in sorted(a.masks.keys() ^ b.masks.keys()):
        owner, other = (first, second) if name in a.masks else (second, first)
        raise ContentError(
            f"{first} and {second} have different scopes: {owner} masks {name}, {other} does not. "
            "Compare tickets of the same scope and the same number of layers."
        )
    for name, mask in a.masks.items():
        if mask.shape != b.masks[name].shape:
            raise ContentError(
                f"{first} and {second} are of different models: {name} has shape {tuple(mask.shape)} in the first and "
                f"{tuple(b.masks[name].shape)} in the second."
            )


def compare(targets: Sequence[Ticket | str | Path], average: str = "pooled") -> dict[str, Any]:
    """Compare tickets pair by pair; see `api.verbs.compare`."""
    names = names_of(targets)
    how = next((known for known in AVERAGES if known == average), None)
    if how is None:
        raise unknown("average", average, AVERAGES)
    if len(names) < 2:
        raise UsageError(f"There is nothing to compare: {len(names)} ticket was given, expected two or more.")
    tickets = list(map(open_ticket, targets))
    for name, ticket in zip(names[1:], tickets[1:], strict=True):
        check_scopes(names[0], tickets[0], name, ticket)
    count = len(tickets)
    overlaps = all_overlaps(tickets)

    def square(values: dict[tuple[int, int], float]) -> list[list[float]]:
        return [[values[min(i, j), max(i, j)] for j in range(count)] for i in range(count)]

    def average_of(value: str) -> list[list[float]]:
        return square({pair: averaged(parts, value, how) for pair, parts in overlaps.items()})

    kept = average_of("kept")
    return {
        "names": names,
        "ids": [ticket.id for ticket in tickets],
        "sparsity": [ticket.sparsity for ticket in tickets],
        "same_base": len({ticket.base.hash for ticket in tickets}) == 1,
        "average": how,
        "kept_jaccard": kept,
        "pruned_jaccard": average_of("pruned"),
        "chance_kept": average_of("chance_kept"),
        "chance_pruned": average_of("chance_pruned"),
        "distance_to_first": [1 - value for value in kept[0]],
        "by_matrix": {
            name: square({pair: parts[name].kept for pair, parts in overlaps.items()}) for name in tickets[0].masks
        },
    }
