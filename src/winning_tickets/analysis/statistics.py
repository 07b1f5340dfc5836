"""Criteria of winning tickets over scores of several seeds, bootstrap intervals and correlations.

The BERT tickets paper uses the standard deviation of the subnetwork (caption of Table 5) or of the full BERT (Figure
6), so `StdOf` selects one. All deviations have ddof=1. A criterion that needs a second seed and has none gives no
verdict, which counts as not won.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from winning_tickets.runs.errors import ContentError, UsageError, unknown
from winning_tickets.runs.statistics import TIE, Key, t_quantile

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
    subnetwork: Mapping[Key, float], full: Mapping[Key, float], margin: float = 0.01, confidence: float = 0.95
) -> CriterionOutcome:
    """Test that the subnetwork is less than `margin` worse: a one-sided paired t-test over seeds."""
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"The margin {margin} is impossible; give a fraction of at least 0, such as 0.01.")
    if not 0 < confidence < 1:
        raise UsageError(f"The confidence {confidence} is impossible; give a number between 0 and 1, such as 0.95.")
    seeds = [seed for seed in subnetwork if seed in full]
    if not seeds:
        own, other = (", ".join(map(str, scores)) or "none" for scores in (subnetwork, full))
        raise ContentError(f"No seed is in both groups: the subnetwork has seeds {own}, the full model {other}.")
    _check([subnetwork[seed] for seed in seeds])
    _check([full[seed] for seed in seeds])
    differences = [subnetwork[seed] - full[seed] for seed in seeds]
    mean, n = statistics.fmean(differences), len(seeds)
    if n < 2:
        reason = "one pair of scores has no standard deviation"
        return CriterionOutcome("non-inferior", None, mean, None, None, -margin, n, n, reason)
    lower = mean - t_quantile(confidence, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return CriterionOutcome("non-inferior", lower > -margin + TIE, mean, None, lower, -margin, n, n)


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
    full: Sequence[float], constant: bool, majority: float | None, statistic: Statistic = "mean"
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


Array = np.ndarray[Any, Any]

CONFIDENCE = 0.95
RESAMPLES = 10_000


def interval(
    statistic: Callable[[Array], Array],
    n: int,
    seed: int = 0,
    resamples: int = RESAMPLES,
    strata: Sequence[str] | None = None,
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of a bootstrap; None if all draws are equal, or most are undefined.

    `statistic` maps drawn indices `(resamples, n)` to values `(resamples,)`, NaN where it is undefined. `strata` has
    the group of each of the n units; units are drawn within their group.
    """
    groups = (
        [np.arange(n)] if strata is None else [np.flatnonzero(np.array(strata) == s) for s in dict.fromkeys(strata)]
    )
    if all(len(own) < 2 for own in groups):
        return None
    generator = np.random.default_rng(seed)
    drawn = np.concatenate([own[generator.integers(len(own), size=(resamples, len(own)))] for own in groups], axis=1)
    values = statistic(drawn)
    values = values[np.isfinite(values)]
    if values.size <= resamples / 2:
        return None
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def describe_bootstrap(seed: int, units: str) -> dict[str, Any]:
    """Return the settings of a bootstrap interval, to be stored in a result."""
    return {"resamples": RESAMPLES, "seed": seed, "confidence": CONFIDENCE, "resampled": units}


SMALLEST = 3
"""Smallest number of pairs for which a correlation is computed."""
CORRELATION_RESAMPLES = 2_000


def pearson(x: Array, y: Array) -> Array:
    """Return Pearson's r along the last axis, `(..., n)` and `(..., n)` -> `(...)`; NaN where either is constant."""
    dx, dy = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    # The deviations of a constant row are rounding errors, and its correlation would be noise.
    constant = (np.ptp(x, axis=-1) <= TIE) | (np.ptp(y, axis=-1) <= TIE)
    norm = np.sqrt((dx**2).sum(-1) * (dy**2).sum(-1))
    value = np.clip((dx * dy).sum(-1) / np.where(constant, 1.0, norm), -1.0, 1.0)
    return np.asarray(np.where(constant, np.nan, value))


def spearman(x: Array, y: Array) -> Array:
    """Return Spearman's rho along the last axis: Pearson's r of the ranks, where equal values share their mean rank."""
    from scipy.stats import rankdata

    return pearson(np.asarray(rankdata(x, axis=-1)), np.asarray(rankdata(y, axis=-1)))


def correlate(x: Sequence[float], y: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Return Pearson's r and Spearman's rho of pairs, with 95 % bootstrap intervals over the pairs."""
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    result: dict[str, Any] = {"n": len(first)}
    for name, function in (("pearson", pearson), ("spearman", spearman)):

        def of_drawn(drawn: Array, function: Callable[[Array, Array], Array] = function) -> Array:
            return function(first[drawn], second[drawn])

        value = result[name] = _number(function, first, second)
        result[f"{name}_interval"] = (
            None if value is None else interval(of_drawn, len(first), seed, CORRELATION_RESAMPLES)
        )
    return result


def correlate_within(x: Sequence[float], y: Sequence[float], groups: Sequence[float]) -> dict[str, Any]:
    """Return both correlations after subtracting the mean of each group; groups of one pair are left out."""
    first, second, of = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(groups)
    centered: list[tuple[Array, Array]] = []
    for group in dict.fromkeys(groups):
        inside = of == group
        if np.count_nonzero(inside) > 1:
            centered.append((first[inside] - first[inside].mean(), second[inside] - second[inside].mean()))
    # Subtraction leaves rounding errors between equal values; they are removed, so that the ranks of rho are right.
    a, b = (
        _tied(np.concatenate([pair[side] for pair in centered]), TIE * float(np.abs(values).max()))
        if centered
        else np.zeros(0)
        for side, values in ((0, first), (1, second))
    )
    return {
        "n": len(a),
        "groups": len(centered),
        "pearson": _number(pearson, a, b),
        "spearman": _number(spearman, a, b),
    }


def _tied(values: Array, tie: float) -> Array:
    """Return values `(n,)` in which sorted neighbors within `tie` are made equal, so that they share a rank."""
    order = np.argsort(values)
    begins = np.diff(values[order], prepend=-np.inf) > tie
    result = np.empty_like(values)
    result[order] = values[order][begins][np.cumsum(begins) - 1]
    return result


def _number(function: Callable[[Array, Array], Array], x: Array, y: Array) -> float | None:
    if len(x) < SMALLEST:
        return None
    value = float(function(x, y))
    return value if np.isfinite(value) else None
