"""When a ticket matches or wins: tests over the scores of its seeds and those of the full model; pure functions.

The BERT tickets paper words one of them in two ways: within one standard deviation of the subnetwork (caption of Table
5), of the full BERT (Figure 6); so whose deviation it is must be said. A deviation always has ddof=1. What cannot be
decided, for want of a second seed, has no verdict; it never counts as won.
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
"""What several seeds are summed up by."""
STD_OF: tuple[StdOf, ...] = ("full", "subnetwork", "max")


@dataclass(frozen=True)
class Outcome:
    """What a criterion says of one ticket on one task.

    Attributes:
        criterion: which one.
        wins: the verdict; None where the scores do not allow one.
        subnetwork: the statistic of the subnetwork's scores, or the mean paired difference of `non-inferior`.
        full: the statistic of the full model's scores; None for `non-inferior`.
        value: what is held against the threshold: `subnetwork`, or the lower bound of `non-inferior`.
        threshold: what `value` must reach, or exceed for `non-inferior`; None where it is undefined.
        n: scores of the subnetwork, or pairs.
        n_full: scores of the full model, or pairs.
        reason: why there is no verdict; empty where there is one.
    """

    criterion: Criterion
    wins: bool | None
    subnetwork: float
    full: float | None
    value: float | None
    threshold: float | None
    n: int
    n_full: int
    reason: str = ""


def exceeds(subnetwork: Sequence[float], full: Sequence[float], statistic: Statistic = "mean") -> Outcome:
    """Whether the subnetwork is at least as good as the full model (BERT tickets, Table 4).

    Args:
        subnetwork: its score with each seed.
        full: the full model's.
        statistic: of both; `best` favours whichever has more seeds.

    Raises:
        ContentError: no score, or one that is not finite.
        UsageError: an unknown statistic.
    """
    own, other = _statistic(subnetwork, statistic), _statistic(full, statistic)
    return Outcome("exceeds", own >= other - TIE, own, other, own, other, len(subnetwork), len(full))


def within_std(
    subnetwork: Sequence[float], full: Sequence[float], of: StdOf = "full", statistic: Statistic = "mean"
) -> Outcome:
    """Whether the subnetwork is less than one standard deviation below the full model, or exactly one.

    Args:
        subnetwork: its score with each seed.
        full: the full model's.
        of: whose deviation (ddof=1), or the larger of both; `max` needs both.
        statistic: of both.

    Raises:
        ContentError: no score, or one that is not finite.
        UsageError: an unknown statistic or owner.
    """
    if of not in STD_OF:
        raise unknown("standard deviation", of, STD_OF)
    own, other = _statistic(subnetwork, statistic), _statistic(full, statistic)
    needed = {"full": {"full": full}, "subnetwork": {"subnetwork": subnetwork}}.get(
        of, {"full": full, "subnetwork": subnetwork}
    )
    for name, values in needed.items():
        if len(values) < 2:
            reason = f"one score of the {_LONG[name]} has no standard deviation"
            return Outcome("within-std", None, own, other, own, None, len(subnetwork), len(full), reason)
    threshold = other - max(statistics.stdev(values) for values in needed.values())
    return Outcome("within-std", own >= threshold - TIE, own, other, own, threshold, len(subnetwork), len(full))


_LONG = {"full": "full model", "subnetwork": "subnetwork"}


def non_inferior(
    subnetwork: Mapping[Key, float], full: Mapping[Key, float], margin: float = 0.01, confidence: float = 0.95
) -> Outcome:
    """Whether the subnetwork is surely less than a margin worse: a one-sided paired t-test.

    The lower bound of the mean difference of runs with one seed, by Student's t, must lie above `-margin`.

    Args:
        subnetwork: its score by seed, or by whatever makes a pair.
        full: the full model's; what only one has is passed over.
        margin: how much worse is still good enough, as a fraction; 0 asks for better.
        confidence: of the one-sided bound, in (0, 1).

    Raises:
        ContentError: no common seed, or a score that is not finite.
        UsageError: an impossible margin or confidence.
    """
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"The margin {margin} is impossible; give a fraction of at least 0, such as 0.01.")
    if not 0 < confidence < 1:
        raise UsageError(f"The confidence {confidence} is impossible; give a number between 0 and 1, such as 0.95.")
    seeds = [seed for seed in subnetwork if seed in full]
    if not seeds:
        raise ContentError(
            f"There is nothing to pair: the subnetwork has seeds {_listed(subnetwork)}, the full model {_listed(full)}."
        )
    _check([subnetwork[seed] for seed in seeds])
    _check([full[seed] for seed in seeds])
    differences = [subnetwork[seed] - full[seed] for seed in seeds]
    mean, n = statistics.fmean(differences), len(seeds)
    if n < 2:
        return Outcome(
            "non-inferior", None, mean, None, None, -margin, n, n, "one pair of scores has no standard deviation"
        )
    lower = mean - t_quantile(confidence, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return Outcome("non-inferior", lower > -margin + TIE, mean, None, lower, -margin, n, n)


@dataclass(frozen=True)
class Highest:
    """The highest winning sparsity of a grid.

    Attributes:
        largest: the largest sparsity whose ticket wins; None where none does.
        unbroken: the largest one such that the tickets of all lower sparsities of the grid win too.
        undecided: sparsities without a verdict; they count as not won.
    """

    largest: float | None
    unbroken: float | None
    undecided: tuple[float, ...]


def highest_winning(verdicts: Mapping[float, bool | None]) -> Highest:
    """The highest winning sparsity, read in two ways: with and without gaps below it.

    Args:
        verdicts: whether the ticket wins, by sparsity, in any order.
    """
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
    """Why "winning" says nothing on a task, as on WNLI; empty for a healthy one.

    Args:
        full: the full model's scores.
        constant: whether it predicts one and the same in some run.
        majority: accuracy of the most frequent class; None where the score is no accuracy.
        statistic: of the scores.

    Returns:
        Of `constant` (constant predictions) and `majority` (the full model does not beat the most frequent class).
    """
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
        raise ContentError("There is no score to judge by.")
    if not all(math.isfinite(score) for score in scores):
        raise ContentError(f"Found a score that is not finite among {list(scores)}; leave failed runs out.")


def _listed(seeds: Mapping[Key, float]) -> str:
    return ", ".join(map(str, seeds)) or "none"


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
    """95 % percentile interval.

    Args:
        statistic: takes drawn indices `(resamples, n)` and gives one value a draw `(resamples,)`; draws for which it
            is undefined (NaN) are left out.
        n: number of units that are drawn from, with replacement, n at a time.
        seed: of the draws; the same seed gives the same interval.
        resamples: number of draws.
        strata: group of each unit; every group keeps its number of units, drawn inside it. None draws from all.

    Returns:
        The 2.5 % and 97.5 % quantiles; None where no group has two units, so that all draws are the same, or where most
        draws are undefined.
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


def about(seed: int, units: str) -> dict[str, Any]:
    """How an interval was made, for a result."""
    return {"resamples": RESAMPLES, "seed": seed, "confidence": CONFIDENCE, "resampled": units}


SMALLEST = 3
"""Fewer pairs than this have no correlation worth a number."""
CORRELATION_RESAMPLES = 2_000


def pearson(x: Array, y: Array) -> Array:
    """Pearson's r along the last axis, `(..., n)` and `(..., n)` -> `(...)`; NaN where one of both is constant."""
    dx, dy = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    # A constant row's deviations are rounding errors, and so would its correlation be.
    constant = (np.ptp(x, axis=-1) <= TIE) | (np.ptp(y, axis=-1) <= TIE)
    norm = np.sqrt((dx**2).sum(-1) * (dy**2).sum(-1))
    value = np.clip((dx * dy).sum(-1) / np.where(constant, 1.0, norm), -1.0, 1.0)
    return np.asarray(np.where(constant, np.nan, value))


def spearman(x: Array, y: Array) -> Array:
    """Spearman's rho along the last axis: Pearson's r of the ranks, equal values sharing their mean rank."""
    from scipy.stats import rankdata

    return pearson(np.asarray(rankdata(x, axis=-1)), np.asarray(rankdata(y, axis=-1)))


def correlate(x: Sequence[float], y: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Both correlations of pairs, with 95 % intervals from drawing the pairs with replacement.

    Returns:
        `n`, `pearson`, `pearson_interval`, `spearman`, `spearman_interval`; None for fewer than three pairs or
        constant values.
    """
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    result: dict[str, Any] = {"n": len(first)}
    for name, function in (("pearson", pearson), ("spearman", spearman)):
        value = _number(function, first, second)
        result[name] = value
        result[f"{name}_interval"] = (
            None
            if value is None
            else interval(
                lambda drawn, f=function: f(first[drawn], second[drawn]), len(first), seed, CORRELATION_RESAMPLES
            )  # type: ignore[misc]
        )
    return result


def correlate_within(x: Sequence[float], y: Sequence[float], groups: Sequence[float]) -> dict[str, Any]:
    """Both correlations of what is left once each group's mean is taken away; groups of one pair are left out.

    Args:
        x: one value a pair.
        y: one value a pair.
        groups: what group each pair belongs to, such as its sparsity.

    Returns:
        `n` (pairs used), `groups` (how many), `pearson`, `spearman`.
    """
    first, second, of = np.asarray(x, dtype=float), np.asarray(y, dtype=float), np.asarray(groups)
    left: list[tuple[Array, Array]] = []
    for group in dict.fromkeys(groups):
        inside = of == group
        if np.count_nonzero(inside) > 1:
            left.append((first[inside] - first[inside].mean(), second[inside] - second[inside].mean()))
    a, b = (
        _tied(np.concatenate([pair[side] for pair in left]), TIE * float(np.abs(values).max())) if left else np.zeros(0)
        for side, values in ((0, first), (1, second))
    )
    return {
        "n": len(a),
        "groups": len(left),
        "pearson": _number(pearson, a, b),
        "spearman": _number(spearman, a, b),
    }


def _tied(values: Array, tie: float) -> Array:
    """Values `(n,)` of which those that differ by rounding only are equal, so that they share a rank."""
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
