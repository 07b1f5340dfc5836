"""Pearson's r and Spearman's rho of pairs of numbers, also inside groups."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from winning_tickets.runs.statistics import TIE

Array = np.ndarray[Any, Any]

SMALLEST = 3
"""Smallest number of pairs for which a correlation is computed."""


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


def correlate(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """Return the number of pairs with their Pearson's r and Spearman's rho; None for fewer than three, or constants."""
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    return {
        "n": len(first),
        "pearson": _number(pearson, first, second),
        "spearman": _number(spearman, first, second),
    }


def correlate_within(x: Sequence[float], y: Sequence[float], groups: Sequence[Hashable]) -> dict[str, Any]:
    """Return both correlations after subtracting the mean of each group; groups of one pair are left out."""
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    centered: list[tuple[Array, Array]] = []
    for group in dict.fromkeys(groups):
        inside = np.array([one == group for one in groups])
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
