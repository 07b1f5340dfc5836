"""Percentile bootstrap: how far a statistic moves when the cells it is made from are drawn again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

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
