"""Mean, standard deviation and confidence interval of a few seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

from winning_tickets.runs.errors import ContentError, shown
from winning_tickets.runs.files import is_number

Name = TypeVar("Name", bound=Hashable)
LARGEST = 1e100  # largest value that counts as a measurement; sums and squares of larger ones overflow
TIE = 1e-12  # scores that differ by no more are equal; the difference is rounding
CORRELATIONS = ("matthews", "pearson", "spearman")
"""Metrics that are 0 for every constant prediction."""


def is_score(value: Any) -> TypeGuard[int | float]:
    """Return whether a JSON value is a number that a run can have measured."""
    return is_number(value) and abs(value) <= LARGEST


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (ddof=1) and 95 % confidence interval (Student's t) of n values.

    The deviation and the interval are None for one value.
    """

    mean: float
    std: float | None
    n: int
    interval: tuple[float, float] | None


def summarize(values: Sequence[float]) -> Summary:
    """Summarize the finite values of several seeds."""
    n = len(values)
    if n == 0:
        raise ContentError("There is nothing to summarize: no run has a value.")
    if not all(math.isfinite(value) for value in values):
        raise ContentError(f"Found a value that is not finite among {list(values)}; leave failed runs out.")
    if max(map(abs, values)) > LARGEST:
        raise ContentError(f"Found a value beyond {LARGEST:g} among {shown(list(values))}, which no run measures.")
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(mean, None, 1, None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(0.975, n - 1) * std / math.sqrt(n)
    return Summary(mean, std, n, (mean - half, mean + half))


MATRIX_AXES = ("row", "column")
"""Axes of the entries of a matrix of masks, for a path such as `jaccard.IMP*.OMP`."""


def is_repetition(axis: str) -> bool:
    """Return whether the values of an axis are repetitions that differ only by chance: seeds, or masks of seeds."""
    return axis.endswith("seed") or axis in MATRIX_AXES


def constant_score(metric: str, majority: float | None) -> float | None:
    """Return the score of the best constant answer: the share of the most frequent class, or no correlation."""
    if metric.startswith("accuracy"):
        return majority
    return 0.0 if metric in CORRELATIONS else None


def is_at_chance(metric: str, score: float, majority: float | None, *, constant: bool) -> bool:
    """Return whether a score is no better than one answer for all examples.

    `constant` says whether the predictions are known to be constant, which decides where the score alone cannot.
    """
    if metric.startswith("accuracy"):
        return constant if majority is None else score <= majority + TIE
    return constant or score <= TIE


def best_of(means: Mapping[Name, float]) -> Name:
    """Return the name of the highest mean; the first of those that are equal up to rounding."""
    names = iter(means)
    best = next(names)
    for name in names:
        if means[name] > means[best] + TIE:
            best = name
    return best


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (ddof=1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def t_quantile(probability: float, degrees: float) -> float:
    """Return a quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
