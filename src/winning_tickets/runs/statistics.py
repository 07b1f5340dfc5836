"""Mean, standard deviation and confidence interval of a few seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard, TypeVar

from winning_tickets.runs.errors import ContentError, shown
from winning_tickets.runs.files import is_number

Key = TypeVar("Key", bound=Hashable)

LARGEST = 1e100  # largest value that counts as a measurement; sums and squares of larger ones overflow
TIE = 1e-12  # scores that differ by no more are equal; the difference is rounding


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


@dataclass(frozen=True)
class Paired(Summary):
    """The summary of paired differences, with the two-sided p-value of the paired t-test.

    p is None for one pair, or if all differences are equal up to rounding, in which case `std` is 0.
    """

    p: float | None


def paired(first: Mapping[Key, float], second: Mapping[Key, float]) -> Paired:
    """Compare two experiments by a paired t-test; scores without a partner are skipped."""
    keys = [key for key in first if key in second]
    found = summarize([first[key] - second[key] for key in keys])
    if found.std is not None and found.std <= TIE * max(abs(side[key]) for side in (first, second) for key in keys):
        found = replace(found, std=0.0, interval=(found.mean, found.mean))
    p = None
    if found.std:
        from scipy.special import stdtr

        p = float(2 * stdtr(found.n - 1, -abs(found.mean) / (found.std / math.sqrt(found.n))))
    return Paired(found.mean, found.std, found.n, found.interval, p)


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (ddof=1); None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def t_quantile(probability: float, degrees: float) -> float:
    """Return a quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
