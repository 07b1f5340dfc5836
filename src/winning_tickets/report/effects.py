"""The one answer to "is A better than B?": a mean difference over runs that share tasks, masks and seeds.

Claims and tables of studies, `analyse gain` and `winning`, and `tickets super` all take it from
`mean_effect` or `paired_effect`. docs/explanation/claims.md compares its intervals with others on simulated runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

import numpy as np

from winning_tickets.report.correlations import Array, pearson
from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.statistics import TIE, is_repetition, t_quantile

Word = Literal["holds", "contradicted", "inconclusive"]
Place = Mapping[str, Hashable]
"""Levels of the axes at which a number was measured, such as its task and its seed."""

CONFIDENCE = 0.95
FEWEST = 3
"""Smallest number of repetitions of a task with which a mean has an interval: two say hardly how much they vary."""
TASK = "task"

POWER = 0.8
"""Probability with which a study shows an effect that is called detectable (statistical power)."""
MOST_LEVELS = 100
"""Largest number of tasks or seeds that is considered as the size of a larger study."""


@dataclass(frozen=True)
class Effect:
    """An estimate with its 95 % interval, from runs that share the levels of some factors."""

    estimate: float
    interval: tuple[float, float]
    p: float | None  # two-sided p-value of a true value of zero; None if the runs do not vary
    detectable: float  # smallest distance from zero that such runs show with a probability of 80 %
    levels: Mapping[str, int] = field(default_factory=dict)  # number of tasks, seeds ... by the name of the factor
    # Numbers of levels, each for one factor alone, with which such an estimate would give a verdict in 80 % of studies.
    needed: Mapping[str, int] = field(default_factory=dict)

    def on_scale(self, function: Callable[[float], float]) -> Effect:
        """Return the effect on another scale, for example a ratio by `math.exp` of its logarithm."""
        low, high = map(function, self.interval)
        return replace(
            self, estimate=function(self.estimate), interval=(low, high), detectable=function(self.detectable)
        )


@dataclass(frozen=True)
class Region:
    """The open interval of values that a claim allows."""

    low: float = -math.inf
    high: float = math.inf

    def judge(self, interval: tuple[float, float]) -> Word:
        """Return whether an interval lies inside the region (`holds`), outside it, or on both sides of an end."""
        # An interval of zero width at an end, such as [0, 0] for equal scores, shows nothing.
        low, high = interval
        if low > self.low + TIE and high < self.high - TIE:
            return "holds"
        return "contradicted" if high < self.low - TIE or low > self.high + TIE else "inconclusive"


@dataclass(frozen=True)
class Estimate:
    """The mean of some numbers, such as paired differences, with its effect or with the reason why it has none."""

    mean: float
    n: int  # number of values
    effect: Effect | None  # None where there is too little for an interval
    reason: str = ""  # why there is no interval

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.effect is None else self.effect.interval

    @property
    def p(self) -> float | None:
        return None if self.effect is None else self.effect.p

    def facts(self) -> dict[str, Any]:
        """Return the interval, the p-value, the numbers of levels and the reason for none, as results store them."""
        levels = None if self.effect is None else dict(self.effect.levels)
        return {"interval": self.interval, "p": self.p, "levels": levels, "no_interval": self.reason or None}


def paired_effect(
    first: Mapping[Any, float],
    second: Mapping[Any, float],
    axes: Sequence[str] = ("seed",),
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Estimate the mean difference of two groups of scores, paired by their keys; scores without a partner are skipped.

    Args:
        first, second: scores by key: the values of `axes`, a single value if there is one axis.
        axes: names of the parts of a key, such as `task` and `seed`.
        confidence: level of the interval.

    Raises:
        ContentError: the groups share no key.

    Example:
        >>> paired_effect({0: 0.7, 1: 0.8, 2: 0.6}, {0: 0.6, 1: 0.6, 2: 0.5}).mean
        0.13333333333333333
    """
    keys = [key for key in first if key in second]
    if not keys:
        raise ContentError("The two groups have no score in common, so there is nothing to compare.")
    places = [dict(zip(axes, key if len(axes) > 1 else (key,), strict=True)) for key in keys]
    return mean_effect([first[key] - second[key] for key in keys], places, confidence)


def mean_effect(
    values: Sequence[float], places: Sequence[Place], confidence: float = CONFIDENCE, ends: Sequence[float] = ()
) -> Estimate:
    """Estimate the mean of numbers such as paired differences; tasks and repetitions (seeds, masks) are samples.

    All other axes are conditions that were chosen, such as sparsities: each contributes its mean, and differences
    between conditions are not chance. Tasks weigh the same, whatever their number of repetitions. With fewer than
    three repetitions of a task there is no interval, because nothing shows how much its numbers vary by chance.

    Args:
        values: numbers `(n,)`, at least one.
        places: the place of each value; all have the same axes.
        confidence: level of the interval.
        ends: the ends of the values that a claim allows; see `crossed_effect`.

    Example:
        >>> mean_effect([0.1, 0.2, 0.3], [{"task": "rte", "seed": seed} for seed in range(3)]).effect.levels
        {'task': 1, 'seed': 3}
    """
    conditions, keys = ([_part(place, wanted) for place in places] for wanted in (_is_condition, _is_sample))
    means = {condition: _mean_where(values, conditions, condition) for condition in dict.fromkeys(conditions)}
    whole = fmean(means.values())
    combined: dict[tuple[Hashable, ...], list[float]] = {}
    for value, condition, key in zip(values, conditions, keys, strict=True):
        combined.setdefault(key, []).append(whole + value - means[condition])
    numbers = list(map(fmean, combined.values()))
    axes = [axis for axis in places[0] if _is_sample(axis)]
    factors = {axis: [key[index] for key in combined] for index, axis in enumerate(axes)}
    tasks = factors.get(TASK, [None] * len(numbers))
    weights = [len(numbers) / (len(set(tasks)) * tasks.count(task)) for task in tasks]
    repetitions = count_repetitions(places)
    if min(repetitions.values()) < FEWEST:
        mean = fmean(weight * number for weight, number in zip(weights, numbers, strict=True))
        return Estimate(mean, len(values), None, _too_few(repetitions))
    effect = crossed_effect(numbers, factors, confidence, ends, weights=weights)
    return Estimate(effect.estimate, len(values), effect)


def count_repetitions(places: Sequence[Place]) -> dict[Hashable, int]:
    """Return the number of repetitions of each task, at the condition that has most of them."""
    found: dict[Hashable, dict[Hashable, set[Hashable]]] = {}
    for place in places:
        by_condition = found.setdefault(place.get(TASK), {})
        by_condition.setdefault(_part(place, _is_condition), set()).add(_part(place, is_repetition))
    return {task: max(map(len, own.values())) for task, own in found.items()}


def _too_few(repetitions: Mapping[Hashable, int]) -> str:
    fewest, most = min(repetitions.values()), max(repetitions.values())
    have = f"{fewest} to {most}" if fewest < most else str(most)
    of = f" of {next(iter(repetitions))}" if len(repetitions) == 1 and None not in repetitions else ""
    each = " of a task" if len(repetitions) > 1 else of
    return f"{have} {'repetition' if most == 1 else 'repetitions'}{each}, and an interval needs {FEWEST}"


def _is_sample(axis: str) -> bool:
    return axis == TASK or is_repetition(axis)


def _is_condition(axis: str) -> bool:
    return not _is_sample(axis)


def _part(place: Place, wanted: Callable[[str], bool]) -> tuple[Hashable, ...]:
    return tuple(value for axis, value in place.items() if wanted(axis))


def _mean_where(values: Sequence[float], keys: Sequence[Hashable], wanted: Hashable) -> float:
    return fmean(value for value, key in zip(values, keys, strict=True) if key == wanted)


def crossed_effect(
    values: Sequence[float],
    factors: Mapping[str, Sequence[Hashable]],
    confidence: float = CONFIDENCE,
    ends: Sequence[float] = (),
    *,
    weights: Sequence[float] | None = None,
) -> Effect:
    """Estimate the mean of values whose runs share tasks, masks and seeds, all of which are samples.

    The model is a mean, an independent effect of each level of each factor, and a residual. The variance of the mean is
    the sum of variance components estimated from the mean squares of the factors (analysis of variance, method of
    moments), with Satterthwaite's degrees of freedom. With one factor this is Student's t over its levels.

    Args:
        values: one number for each combination of levels, such as a difference of scores `(n,)`.
        factors: by name of the factor, the level of each value; a factor with one level is left out.
        confidence: level of the interval.
        ends: the ends of the values that a claim allows. With them the effect says how many levels of a factor would be
            `needed` for a verdict, at most `MOST_LEVELS`, if the estimate and the variances are true.
        weights: weight of each value in the mean, 1 on average; by default all are 1.

    Raises:
        ContentError: fewer than two values, or no factor with two levels.

    Example:
        >>> crossed_effect([0.1, 0.2, 0.1, 0.3], {"task": "aabb", "seed": [0, 1, 0, 1]}).levels
        {'task': 2, 'seed': 2}
    """
    found = np.asarray(values, dtype=float)
    codes = {name: _codes(levels) for name, levels in factors.items()}
    crossing = _crossing(codes)
    if len(found) < 2 or not crossing:
        raise ContentError(f"{len(found)} values of one level of each factor have no interval; repeat the runs.")
    levels = {name: int(code.max()) + 1 for name, code in codes.items()}
    shares = np.ones(len(found)) if weights is None else np.asarray(weights, dtype=float)
    mean = float((shares * found).mean())
    if np.ptp(found) <= TIE * max(1.0, float(np.abs(found).max())):
        return Effect(mean, (mean, mean), None, 0.0, levels)
    spread = _spread(found - mean, shares, crossing)
    variance, degrees = spread.of_mean()
    effect = _with_interval(mean, math.sqrt(variance), degrees, levels, confidence=confidence)
    if not ends:
        return effect
    return replace(effect, needed=_levels_needed(spread, min(abs(mean - end) for end in ends), confidence))


def _codes(levels: Sequence[Hashable]) -> Array:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(level, len(numbers)) for level in levels], dtype=int)


def _crossing(codes: Mapping[str, Array]) -> dict[str, Array]:
    """Return the factors with two or more levels, without factors whose levels only subdivide those of another one."""
    kept: dict[str, Array] = {}
    several = {name: code for name, code in codes.items() if code.size and code.max() > 0}
    for name, code in sorted(several.items(), key=lambda item: int(item[1].max())):
        pairs = [len(set(zip(code.tolist(), other.tolist(), strict=True))) for other in kept.values()]
        if all(number > code.max() + 1 for number in pairs):
            kept[name] = code
    return kept


@dataclass(frozen=True)
class _Spread:
    """Mean squares divided by the number of values, which are the variance that each adds to the mean."""

    squares: Mapping[str, tuple[float, int]]  # of each factor, including that of the residual; degrees of freedom
    error: float = 0.0  # of the residual; 0 with one factor
    free: float = 0.0  # degrees of freedom of the residual

    def of_mean(self) -> tuple[float, float]:
        """Return the variance of the mean, and its degrees of freedom."""
        # Each factor that is above the residual adds its own variance.
        above = [(square, degrees) for square, degrees in self.squares.values() if square > self.error]
        times = len(above) - 1
        variance = sum(square for square, _ in above) - times * self.error
        spread = sum(square**2 / degrees for square, degrees in above) + (times * self.error) ** 2 / max(1, self.free)
        return variance, variance**2 / spread

    def with_levels(self, factor: str, count: int) -> _Spread:
        """Return the spread of a study with so many levels of one factor, and the same variances."""
        _, degrees = self.squares[factor]
        share = (degrees + 1) / count
        squares = {
            name: (square * share, count - 1) if name == factor else (square - self.error * (1 - share), free)
            for name, (square, free) in self.squares.items()
        }
        return _Spread(squares, self.error * share, self.free * (count - 1) / degrees)


def _spread(residuals: Array, weights: Array, crossing: Mapping[str, Array]) -> _Spread:
    """Return the spread of the weighted mean of `(n,)` values, from residuals and codes of the factors."""
    n, codes = len(residuals), list(crossing.values())
    squares = {}
    for name, code in crossing.items():
        groups = int(code.max()) + 1
        sums = np.bincount(code, weights * residuals)
        squares[name] = (groups / (groups - 1) * float(sums @ sums) / n**2, groups - 1)
    if len(squares) == 1:
        return _Spread(squares)
    # The residual is what a fit of all factors leaves unexplained.
    design = np.column_stack([np.ones(n), *(np.equal.outer(code, np.arange(1, code.max() + 1)) for code in codes)])
    fitted, _, rank, _ = np.linalg.lstsq(design.astype(float), residuals, rcond=None)
    left, free = residuals - design @ fitted, n - int(rank)
    error = float(left @ left) * float((weights**2).mean()) / free / n if free else 0.0
    return _Spread(squares, error, free)


def _levels_needed(spread: _Spread, distance: float, confidence: float) -> dict[str, int]:
    """Return, for each factor, the smallest number of levels with which a study would show this distance."""
    found = {}
    for name, (_, degrees) in spread.squares.items():
        for count in range(degrees + 1, MOST_LEVELS + 1):
            variance, free = spread.with_levels(name, count).of_mean()
            if _with_interval(0.0, math.sqrt(variance), free, {}, confidence=confidence).detectable <= distance:
                found[name] = count
                break
    return found


def _with_interval(
    estimate: float, error: float, degrees: float, levels: Mapping[str, int], *, confidence: float = CONFIDENCE
) -> Effect:
    from scipy.special import stdtr

    quantile, power = t_quantile((1 + confidence) / 2, degrees), t_quantile(POWER, degrees)
    interval = (estimate - quantile * error, estimate + quantile * error)
    p = float(2 * stdtr(degrees, -abs(estimate) / error)) if error else None
    return Effect(estimate, interval, p, (quantile + power) * error, levels)


def variance_ratio(groups: Sequence[tuple[Sequence[float], Sequence[float]]], confidence: float = CONFIDENCE) -> Effect:
    """Estimate the ratio of two variances, as the geometric mean over groups such as tasks.

    Args:
        groups: for each group, the values of both sides over repetitions, two or more of each.
        confidence: level of the interval.

    Raises:
        ContentError: no group, or values without variance.
    """
    from scipy.special import polygamma, psi

    if not groups:
        raise ContentError("There is no group with a deviation on both sides.")
    logs, variance, fourth = [], 0.0, 0.0
    for sides in groups:
        total = 0.0
        for sign, values in zip((1, -1), sides, strict=True):
            found = np.asarray(values, dtype=float)
            square, half = float(found.var(ddof=1)) if len(found) > 1 else 0.0, (len(found) - 1) / 2
            if square <= TIE**2:
                raise ContentError(f"The values {list(values)} do not vary, so their variance has no ratio.")
            # The logarithm of the variance of a normal sample has the cumulants of the logarithm of a gamma variable.
            total += sign * (math.log(square) - float(psi(half)) + math.log(half))
            variance += float(polygamma(1, half))
            fourth += float(polygamma(3, half))
        logs.append(total)
    count = len(groups)
    estimate, error = sum(logs) / count, math.sqrt(variance) / count
    excess = fourth / variance**2
    quantile, power = (_heavy_quantile(probability, excess) for probability in ((1 + confidence) / 2, POWER))
    interval = (estimate - quantile * error, estimate + quantile * error)
    p = _heavy_p(abs(estimate) / error, excess)
    return Effect(estimate, interval, p, (quantile + power) * error).on_scale(math.exp)


def _heavy_quantile(probability: float, excess: float) -> float:
    """Return a quantile of a symmetric distribution with an excess kurtosis, by the Cornish-Fisher expansion."""
    from scipy.special import ndtri

    return _heavy(float(ndtri(probability)), excess)


def _heavy_p(distance: float, excess: float) -> float:
    """Return the two-sided probability of a distance from zero in deviations, the inverse of `_heavy_quantile`."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    # The quantile rises with the normal one if the excess is at most 8; that of variances is at most 4, for two values.
    # Beyond 2 deviations it is the larger one of both.
    z = brentq(lambda z: _heavy(z, excess) - distance, 0.0, max(2.0, distance), xtol=1e-12)
    return float(2 * ndtr(-z))


def _heavy(z: float, excess: float) -> float:
    return z + excess * (z**3 - 3 * z) / 24


FEWEST_METHODS = 5
"""Smallest number of methods for which a correlation has an interval."""


def clustered_correlation(x: Sequence[float], y: Sequence[float], clusters: Sequence[Hashable]) -> Effect | None:
    """Estimate Pearson's r of points of which some share a method, by leaving out one method at a time (jackknife).

    Args:
        x, y: the points `(n,)`.
        clusters: the method of each point.

    Returns:
        The effect; None with fewer than five methods, or if a side is constant without one of the methods.
    """
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    codes = _codes(clusters)
    count = int(codes.max()) + 1 if codes.size else 0
    if count < FEWEST_METHODS:
        return None
    whole, *parts = (_fisher(first[kept], second[kept]) for kept in _leave_out(codes, count))
    if not all(math.isfinite(value) for value in (whole, *parts)):
        return None
    deviations = np.array(parts) - np.mean(parts)
    error = math.sqrt((count - 1) / count * float(deviations @ deviations))
    return _with_interval(whole, error, count - 1, {"method": count}).on_scale(math.tanh)


def describe_too_few_methods(clusters: Sequence[Hashable]) -> str:
    """Return why points of these methods have no `clustered_correlation`."""
    count = len(set(clusters))
    if count < FEWEST_METHODS:
        return f"{count} {'method' if count == 1 else 'methods'}, and an interval needs {FEWEST_METHODS}"
    return "without one of the methods the values are constant"


def _leave_out(codes: Array, count: int) -> list[Any]:
    return [np.ones(len(codes), dtype=bool), *(codes != one for one in range(count))]


def _fisher(x: Array, y: Array) -> float:
    """Return Fisher's z of a correlation, finite also for points on a line; NaN for constant values."""
    if len(x) < 3:
        return math.nan
    return float(np.arctanh(np.clip(pearson(x, y), -1 + TIE, 1 - TIE)))
