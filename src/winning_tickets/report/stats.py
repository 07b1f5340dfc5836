"""Mean, standard deviation and confidence interval of a few seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from winning_tickets.errors import ContentError


@dataclass(frozen=True)
class Summary:
    """What several runs of one experiment say together.

    Attributes:
        mean: arithmetic mean.
        std: sample standard deviation (ddof=1); None where there is one value.
        n: number of values.
        interval: 95 % confidence interval of the mean from Student's t; None where there is one value.
    """

    mean: float
    std: float | None
    n: int
    interval: tuple[float, float] | None


def summarise(values: Sequence[float]) -> Summary:
    """Summarise the values of several seeds.

    Args:
        values: one number a run, all finite.

    Raises:
        ContentError: there is no value, or one is NaN or infinite (a failed run is never a number).
    """
    n = len(values)
    if n == 0:
        raise ContentError("There is nothing to summarise: no run has a value.")
    if not all(math.isfinite(value) for value in values):
        raise ContentError(f"Found a value that is not finite among {list(values)}; leave failed runs out.")
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(mean, None, 1, None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _t_quantile(0.975, n - 1) * std / math.sqrt(n)
    return Summary(mean, std, n, (mean - half, mean + half))


def _t_quantile(probability: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
