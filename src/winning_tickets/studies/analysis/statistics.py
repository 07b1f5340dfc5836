"""Criteria of winning tickets over scores of several seeds: two of the BERT tickets paper, and non-inferiority.

The BERT tickets paper uses the standard deviation of the subnetwork (caption of Table 5) or of the full BERT (Figure
6), so `StdOf` selects one. All deviations have ddof=1. Non-inferiority rests on the interval of `effects`. A criterion
that lacks the seeds that it needs gives no verdict, which counts as not won.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from winning_tickets.report.effects import paired_effect
from winning_tickets.runs.errors import ContentError, UsageError, unknown
from winning_tickets.runs.statistics import TIE

Criterion = Literal["exceeds", "within-std", "non-inferior"]
Statistic = Literal["mean", "median", "best"]
StdOf = Literal["full", "subnetwork", "max"]

CRITERIA: tuple[Criterion, ...] = ("exceeds", "within-std", "non-inferior")
STATISTICS: dict[Statistic, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "best": max,
}
"""Statistics of the scores of several seeds."""
STD_OF: tuple[StdOf, ...] = ("full", "subnetwork", "max")


@dataclass(frozen=True)
class CriterionOutcome:
    """The verdict of a criterion on one ticket and one task."""

    criterion: Criterion
    wins: bool | None  # None for no verdict
    subnetwork: float  # statistic of its scores; for `non-inferior`, the mean paired difference
    full: float | None  # None for `non-inferior`
    value: float | None  # number compared with the threshold: `subnetwork`; for `non-inferior`, the lower bound
    threshold: float | None
    n: int  # number of scores of the subnetwork, or of pairs
    n_full: int
    reason: str = ""  # why there is no verdict


def exceeds(subnetwork: Sequence[float], full: Sequence[float], statistic: Statistic = "mean") -> CriterionOutcome:
    """Test that the subnetwork is at least as good as the full model (BERT tickets, Table 4)."""
    own, other = _statistic(subnetwork, statistic), _statistic(full, statistic)
    return CriterionOutcome("exceeds", own >= other - TIE, own, other, own, other, len(subnetwork), len(full))


def within_std(
    subnetwork: Sequence[float], full: Sequence[float], of: StdOf = "full", statistic: Statistic = "mean"
) -> CriterionOutcome:
    """Test that the subnetwork is at most one standard deviation below the full model."""
    if of not in STD_OF:
        raise unknown("standard deviation", of, STD_OF)
    own, other = _statistic(subnetwork, statistic), _statistic(full, statistic)
    groups = {"full": ("full model", full), "subnetwork": ("subnetwork", subnetwork)}
    needed = dict(groups.values() if of == "max" else [groups[of]])
    for name, values in needed.items():
        if len(values) < 2:
            reason = f"one score of the {name} has no standard deviation"
            return CriterionOutcome("within-std", None, own, other, own, None, len(subnetwork), len(full), reason)
    threshold = other - max(statistics.stdev(values) for values in needed.values())
    return CriterionOutcome(
        "within-std", own >= threshold - TIE, own, other, own, threshold, len(subnetwork), len(full)
    )


def non_inferior(
    subnetwork: Mapping[Any, float],
    full: Mapping[Any, float],
    margin: float = 0.01,
    confidence: float = 0.95,
    *,
    axes: Sequence[str] = ("seed",),
) -> CriterionOutcome:
    """Test that the subnetwork is less than `margin` worse: the lower end of the interval of paired differences."""
    # Scores are given by seed, or by the values of several `axes`. The level is that of a one-sided bound.
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"The margin {margin} is impossible; give a fraction of at least 0, such as 0.01.")
    if not 0 < confidence < 1:
        raise UsageError(f"The confidence {confidence} is impossible; give a number between 0 and 1, such as 0.95.")
    pairs = [key for key in subnetwork if key in full]
    if not pairs:
        own, other = (", ".join(map(str, scores)) or "none" for scores in (subnetwork, full))
        raise ContentError(f"No seed is in both groups: the subnetwork has seeds {own}, the full model {other}.")
    for scores in (subnetwork, full):
        _check([scores[key] for key in pairs])
    found = paired_effect(subnetwork, full, axes, 2 * confidence - 1)
    lower = None if found.interval is None else found.interval[0]
    wins = None if lower is None else lower > -margin + TIE
    return CriterionOutcome("non-inferior", wins, found.mean, None, lower, -margin, found.n, found.n, found.reason)


@dataclass(frozen=True)
class Highest:
    """Highest winning sparsities of a grid; None if no ticket wins."""

    largest: float | None
    unbroken: float | None  # largest winning sparsity below which all tickets win, too
    undecided: tuple[float, ...]  # sparsities without a verdict, which count as not won


def highest_winning(verdicts: Mapping[float, bool | None]) -> Highest:
    """Find the highest winning sparsity with and without gaps below it."""
    ordered = sorted(verdicts.items())
    winning = [sparsity for sparsity, wins in ordered if wins]
    unbroken = None
    for sparsity, wins in ordered:
        if not wins:
            break
        unbroken = sparsity
    return Highest(max(winning, default=None), unbroken, tuple(sparsity for sparsity, wins in ordered if wins is None))


def degenerate_reasons(
    full: Sequence[float], *, constant: bool, majority: float | None, statistic: Statistic = "mean"
) -> tuple[str, ...]:
    """Return why a verdict is meaningless: `constant` predictions, or a full model no better than the `majority`."""
    reasons = ["constant"] if constant else []
    if majority is not None and _statistic(full, statistic) <= majority + TIE:
        reasons.append("majority")
    return tuple(reasons)


def _statistic(scores: Sequence[float], statistic: Statistic) -> float:
    if statistic not in STATISTICS:
        raise unknown("statistic", statistic, STATISTICS)
    _check(scores)
    return float(STATISTICS[statistic](scores))


def _check(scores: Sequence[float]) -> None:
    if not scores:
        raise ContentError("There is no score to compare.")
    if not all(math.isfinite(score) for score in scores):
        raise ContentError(f"Found a score that is not finite among {list(scores)}; leave failed runs out.")
