"""Pearson and Spearman correlation with bootstrap intervals, and the same inside groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from winning_tickets.bootstrap import Array, interval
from winning_tickets.stats import TIE

SMALLEST = 3
"""Fewer pairs than this have no correlation worth a number."""
RESAMPLES = 2_000


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
            else interval(lambda drawn, f=function: f(first[drawn], second[drawn]), len(first), seed, RESAMPLES)  # type: ignore[misc]
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
