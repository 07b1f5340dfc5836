"""Coverage of the intervals that claims rest on, and how often verdicts err, on simulated runs; prints JSON.

python docs/results/claims/simulate.py > docs/results/claims/simulated.json
"""

from __future__ import annotations

import itertools
import json
import math
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy
from scipy import stats

from winning_tickets.report.effects import Region, clustered_correlation, crossed_effect, variance_ratio

NAMES = ("task", "search_seed", "seed")
DRAWS = 300  # of each bootstrap
STUDIES = 1000
BOOTSTRAPPED = 300  # the bootstrap is slow


def draw(generator: np.random.Generator, shape: Sequence[int], deviations: Sequence[float], mean: float = 0.0) -> Any:
    """Differences `shape`: an effect of each task, mask and seed, and a residual of deviation 1."""
    found = generator.normal(mean, 1.0, shape)
    for index, deviation in enumerate(deviations):
        levels = [size if place == index else 1 for place, size in enumerate(shape)]
        found = found + generator.normal(0.0, deviation, levels)
    return found


def bootstrap(generator: np.random.Generator, values: Any) -> tuple[float, float]:
    """The percentile interval of a bootstrap that draws tasks, masks and seeds, each with replacement."""
    means = []
    for _ in range(DRAWS):
        drawn = values
        for axis, size in enumerate(values.shape):
            drawn = np.take(drawn, generator.integers(size, size=size), axis=axis)
        means.append(drawn.mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_of_points(generator: np.random.Generator, x: Any, y: Any) -> tuple[float, float]:
    """The percentile interval of Pearson's r of a bootstrap that draws points with replacement."""
    drawn = generator.integers(len(x), size=(2000, len(x)))
    low, high = np.quantile([np.corrcoef(x[one], y[one])[0, 1] for one in drawn], [0.025, 0.975])
    return float(low), float(high)


def coverage(shape: Sequence[int], deviations: Sequence[float]) -> dict[str, Any]:
    """How often three kinds of 95 % intervals hold the true mean, which is zero."""
    generator = np.random.default_rng(0)
    places = list(itertools.product(*map(range, shape)))
    names = NAMES if len(shape) == 3 else ("task", "seed")
    factors = {name: [place[index] for place in places] for index, name in enumerate(names)}
    inside = {"crossed": 0, "t_test_of_pairs": 0, "bootstrap": 0}
    for study in range(STUDIES):
        values = draw(generator, shape, deviations)
        flat = values.ravel()
        ends = {"crossed": crossed_effect(flat.tolist(), factors).interval}
        ends["t_test_of_pairs"] = stats.t.interval(0.95, len(flat) - 1, flat.mean(), stats.sem(flat))
        if study < BOOTSTRAPPED:
            ends["bootstrap"] = bootstrap(generator, values)
        for kind, (low, high) in ends.items():
            inside[kind] += bool(low <= 0.0 <= high)
    studies = {kind: BOOTSTRAPPED if kind == "bootstrap" else STUDIES for kind in inside}
    rates = {kind: round(count / studies[kind], 3) for kind, count in inside.items()}
    return {"levels": dict(zip(names, shape, strict=True)), "deviations": list(deviations)} | rates


def verdicts(mean: Callable[[float], float]) -> dict[str, Any]:
    """Verdicts of "better" on 7 tasks, 3 masks and 3 seeds; the true mean is a function of the detectable effect."""
    generator, shape, deviations = np.random.default_rng(1), (7, 3, 3), (0.7, 0.3, 0.3)
    places = list(itertools.product(*map(range, shape)))
    factors = {name: [place[index] for place in places] for index, name in enumerate(NAMES)}

    def effect(true: float) -> Any:
        return crossed_effect(draw(generator, shape, deviations, true).ravel().tolist(), factors)

    detectable = float(np.median([effect(0.0).detectable for _ in range(STUDIES)]))
    words = [Region(low=0.0).judge(effect(mean(detectable)).interval) for _ in range(STUDIES)]
    rates = {word: round(words.count(word) / STUDIES, 3) for word in ("holds", "contradicted", "inconclusive")}
    return {"true_mean_in_detectable_effects": mean(1.0)} | rates


def variances(groups: int, seeds: int, correlation: float) -> dict[str, Any]:
    """How often the interval of a ratio of variances holds the true one, which is 1/4."""
    generator, inside = np.random.default_rng(2), 0
    for _ in range(STUDIES):
        shared = generator.normal(size=(groups, 1, seeds)) * math.sqrt(correlation)
        values = shared + generator.normal(size=(groups, 2, seeds)) * math.sqrt(1 - correlation)
        values = values * np.array([1.0, 2.0])[:, None] * generator.lognormal(size=(groups, 1, 1))
        low, high = variance_ratio([(one[0].tolist(), one[1].tolist()) for one in values]).interval
        inside += bool(low <= 0.25 <= high)
    found = {"tasks": groups, "seeds": seeds, "correlation_of_pairs": correlation}
    return found | {"variance_ratio": round(inside / STUDIES, 3)}


def correlations(trainings: int, points: int) -> dict[str, Any]:
    """How often intervals of Pearson's r hold the true one, -0.6, where points of a training share most of it."""
    generator, inside = np.random.default_rng(3), {"trainings_left_out": 0, "bootstrap_of_points": 0}
    root = np.linalg.cholesky(np.array([[1.0, -0.6], [-0.6, 1.0]]))
    clusters = np.repeat(np.arange(trainings), points)
    for study in range(STUDIES):
        found = 0.9 * (generator.normal(size=(trainings, 2)) @ root.T)[clusters]
        x, y = (found + math.sqrt(0.19) * generator.normal(size=(len(clusters), 2)) @ root.T).T
        effect = clustered_correlation(x.tolist(), y.tolist(), clusters.tolist())
        inside["trainings_left_out"] += bool(effect and effect.interval[0] <= -0.6 <= effect.interval[1])
        if study < BOOTSTRAPPED:
            low, high = bootstrap_of_points(np.random.default_rng(study), x, y)
            inside["bootstrap_of_points"] += bool(low <= -0.6 <= high)
    studies = {"trainings_left_out": STUDIES, "bootstrap_of_points": BOOTSTRAPPED}
    rates = {kind: round(count / studies[kind], 3) for kind, count in inside.items()}
    return {"trainings": trainings, "points_of_each": points} | rates


SHAPES = ((7, 3, 3), (3, 3, 3), (7, 3), (8, 5), (3, 3))
result = {
    "studies": STUDIES,
    "studies_with_bootstrap": BOOTSTRAPPED,
    "coverage": [
        coverage(shape, deviations)
        for shape in SHAPES
        for deviations in ((0.0,) * len(shape), (1.0,) + (0.3,) * (len(shape) - 1), (1.0,) * len(shape))
    ],
    "verdicts": [verdicts(mean) for mean in (lambda size: 0.0, lambda size: size, lambda size: -size)],
    "variances": [variances(*one) for one in ((1, 5, 0.0), (5, 5, 0.0), (5, 3, 0.0), (5, 5, 0.5))],
    "correlations": [correlations(*one) for one in ((13, 1), (13, 3), (13, 7), (6, 4))],
    "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
    "machine": platform.machine(),
}
json.dump(result, sys.stdout, indent=1)
print()
