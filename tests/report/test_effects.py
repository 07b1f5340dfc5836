"""Intervals of effects over runs that share tasks, masks and seeds: by hand, and on simulated runs."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from winning_tickets.report import effects
from winning_tickets.report.effects import (
    Region,
    clustered_correlation,
    crossed_effect,
    mean_effect,
    paired_effect,
    variance_ratio,
)
from winning_tickets.runs.errors import ContentError

NAMES = ("task", "search_seed", "seed")


def factors_of(shape):
    """The levels of all combinations of some numbers of tasks, masks and seeds."""
    names = NAMES if len(shape) == 3 else ("task", "seed")
    places = list(itertools.product(*map(range, shape)))
    return {name: [place[index] for place in places] for index, name in enumerate(names)}


def simulate(generator, shape, deviations, mean=0.0):
    """Differences `shape` with an effect of each level of each factor, and a residual of deviation 1."""
    found = generator.normal(mean, 1.0, shape)
    for index, deviation in enumerate(deviations):
        levels = [size if place == index else 1 for place, size in enumerate(shape)]
        found = found + generator.normal(0.0, deviation, levels)
    return found.ravel()


def test_one_factor_is_students_t():
    values = [0.3, -0.1, 0.4, 0.2]
    found = crossed_effect(values, {"seed": [0, 1, 2, 3], "task": ["rte"] * 4})
    expected = stats.ttest_1samp(values, 0.0)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.levels == {"seed": 4, "task": 1}


def test_two_factors_add_their_components_by_hand():
    values = np.array([[1.0, 2.0, 6.0], [5.0, 4.0, 12.0]])  # two tasks, three seeds
    rows, columns = values.mean(1), values.mean(0)
    of_tasks = 3 * rows.var(ddof=1)
    of_seeds = 2 * columns.var(ddof=1)
    residual = values - rows[:, None] - columns[None, :] + values.mean()
    error = (residual**2).sum() / 2
    assert of_tasks > error
    assert of_seeds > error
    variance = (of_tasks + of_seeds - error) / 6
    degrees = variance**2 / ((of_tasks / 6) ** 2 / 1 + (of_seeds / 6) ** 2 / 2 + (error / 6) ** 2 / 2)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(variance)
    found = crossed_effect(values.ravel().tolist(), factors_of((2, 3)))
    assert found.estimate == pytest.approx(5.0)
    assert found.interval == pytest.approx((5.0 - half, 5.0 + half))
    power = stats.t.ppf(0.8, degrees) * math.sqrt(variance)
    assert found.detectable == pytest.approx(half + power)


def test_the_needed_levels_of_one_factor_are_those_of_a_t_test():
    values = [0.3, -0.2, 0.5]
    found = crossed_effect(values, {"seed": [0, 1, 2]}, ends=(0.0,))
    deviation, mean = statistics.stdev(values), statistics.fmean(values)
    sizes = [(stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)) * deviation / n**0.5 for n in range(3, 100)]
    assert found.needed == {"seed": 3 + next(index for index, size in enumerate(sizes) if size <= mean)}
    assert found.needed["seed"] == 28
    assert crossed_effect(values, {"seed": [0, 1, 2]}, ends=(0.2, 5.0)).needed == {}, "the estimate is on an end"
    assert crossed_effect(values, {"seed": [0, 1, 2]}).needed == {}


def test_the_needed_levels_of_two_factors_are_enough_in_four_of_five_studies():
    generator, truth, deviations = np.random.default_rng(3), 1.6, (0.6, 0.6)
    shape = (60, 60)
    pilot = simulate(generator, shape, deviations, truth)  # large, so that its variances are nearly the true ones
    codes = {name: np.array(code) for name, code in factors_of(shape).items()}
    spread = (
        effects._spread(pilot - pilot.mean(), np.ones(len(pilot)), codes).with_levels("task", 4).with_levels("seed", 4)
    )
    needed = effects._levels_needed(spread, truth, 0.95)
    assert needed.keys() == {"task", "seed"}
    for size in ((4, needed["seed"]), (needed["task"], 4)):
        factors = factors_of(size)
        found = [crossed_effect(simulate(generator, size, deviations, truth), factors) for _ in range(400)]
        assert 0.7 <= statistics.fmean(one.interval[0] > 0 for one in found) <= 0.92, size


def test_more_levels_of_one_factor_do_not_remove_the_variance_of_another():
    values = [4.0, 4.1, 3.9, -3.0, -3.1, -2.9]
    assert crossed_effect(values, factors_of((2, 3)), ends=(0.0,)).needed.keys() <= {"task"}


def test_a_factor_that_only_divides_another_one_adds_nothing():
    task, seed = [0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5]
    values = [1.0, 1.2, 2.0, 2.1, 4.0, 3.8]
    assert crossed_effect(values, {"task": task, "seed": seed}).interval == pytest.approx(
        crossed_effect([1.1, 2.05, 3.9], {"task": [0, 1, 2]}).interval
    )


def test_equal_values_have_an_interval_without_width():
    found = crossed_effect([0.1 + 0.2, 0.3, 0.3, 0.3], factors_of((2, 2)))
    assert (found.interval, found.p, found.detectable) == ((found.estimate,) * 2, None, 0.0)


@pytest.mark.parametrize("values", [[0.1], [0.1, 0.2]])
def test_what_was_not_repeated_has_no_interval(values):
    with pytest.raises(ContentError, match="of one level of each factor have no interval; repeat the runs"):
        crossed_effect(values, {"task": ["rte"] * len(values)})


def test_tasks_weigh_the_same_whatever_their_number_of_seeds():
    """With weights the variance of tasks is that of their means: here no seed is shared and tasks differ much."""
    scores = {"rte": [0.0, 0.1, 0.2], "cola": [1.0, 1.1, 1.2, 1.1, 1.1], "mrpc": [3.0, 2.9, 2.8]}
    places = [{"task": task, "seed": f"{task} {seed}"} for task, own in scores.items() for seed in range(len(own))]
    found = mean_effect([value for own in scores.values() for value in own], places)
    means = [statistics.fmean(own) for own in scores.values()]
    assert found.mean == found.effect.estimate == pytest.approx(statistics.fmean(means))
    assert found.interval == pytest.approx(tuple(stats.ttest_1samp(means, 0.0).confidence_interval()))


def test_conditions_are_no_chance_and_two_seeds_are_too_few():
    places = [{"sparsity": level, "seed": seed} for level in (0.5, 0.7) for seed in range(3)]
    found = mean_effect([1.0, 1.1, 1.2, 9.0, 9.1, 9.2], places)
    assert found.interval == pytest.approx(mean_effect([5.0, 5.1, 5.2], places[:3]).interval)
    few = paired_effect(
        {("a", 0): 1.0, ("a", 1): 2.0, ("b", 0): 3.0}, {("a", 0): 0, ("a", 1): 0, ("b", 0): 0}, ("task", "seed")
    )
    assert (few.mean, few.n, few.interval, few.p) == (2.25, 3, None, None)
    assert few.reason == "1 to 2 repetitions of a task, and an interval needs 3"
    assert paired_effect({0: 0.5}, {0: 0.4, 1: 0.3}).reason == "1 repetition, and an interval needs 3"
    with pytest.raises(ContentError, match="The two groups have no score in common"):
        paired_effect({0: 0.5}, {1: 0.4})


@pytest.mark.parametrize(
    ("shape", "deviations"),
    [((7, 3), (1, 1)), ((7, 3), (0.3, 1)), ((3, 3), (1, 0.3)), ((7, 3, 3), (1, 0.5, 0.5)), ((5, 3, 3), (0, 1, 0))],
)
def test_the_interval_covers_the_truth_where_tasks_masks_and_seeds_are_shared(shape, deviations):
    generator, factors, covered, naive = np.random.default_rng(1), factors_of(shape), 0, 0
    repeats = 400
    for _ in range(repeats):
        values = simulate(generator, shape, deviations)
        low, high = crossed_effect(values.tolist(), factors).interval
        covered += low <= 0.0 <= high
        low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
        naive += low <= 0.0 <= high
    assert 0.92 <= covered / repeats <= 0.995
    assert naive / repeats < 0.85, "a t-test of all pairs takes them for independent"


def test_verdicts_err_rarely_and_effects_of_the_detectable_size_are_mostly_shown():
    generator, shape, deviations = np.random.default_rng(2), (7, 3, 3), (0.7, 0.3, 0.3)
    factors, better, repeats = factors_of(shape), Region(low=0.0), 300

    def words(mean):
        found = [crossed_effect(simulate(generator, shape, deviations, mean).tolist(), factors) for _ in range(repeats)]
        judged = [better.judge(one.interval) for one in found]
        return {word: judged.count(word) / repeats for word in set(judged)}, statistics.median(
            one.detectable for one in found
        )

    without, size = words(0.0)
    assert without.get("holds", 0.0) <= 0.05
    assert without.get("contradicted", 0.0) <= 0.05
    shown, _ = words(size)
    assert 0.65 <= shown["holds"] <= 0.95
    against, _ = words(-size)
    assert 0.65 <= against["contradicted"] <= 0.95
    assert against.get("holds", 0.0) == shown.get("contradicted", 0.0) == 0.0


def test_one_ratio_of_variances_is_the_f_test():
    generator = np.random.default_rng(3)
    first, second = generator.normal(0, 1, 5).tolist(), generator.normal(0, 3, 5).tolist()
    ratio = statistics.variance(first) / statistics.variance(second)
    found = variance_ratio([(first, second)])
    assert found.estimate == pytest.approx(ratio)
    exact = (ratio / stats.f.ppf(0.975, 4, 4), ratio / stats.f.ppf(0.025, 4, 4))
    assert found.interval == pytest.approx(exact, rel=0.05)


def test_the_p_value_of_a_ratio_of_variances_is_that_of_its_interval():
    low, high = [0.0, 1.0, 2.0], [0.0, 38**0.5, 2 * 38**0.5]
    found = variance_ratio([(high, low)])
    assert found.interval[0] < 1 < found.interval[1]
    assert found.p == pytest.approx(2 * stats.f.sf(38, 2, 2), rel=0.05)
    assert variance_ratio([(low, high)]).p == pytest.approx(found.p)
    assert variance_ratio([(low, low)]).p == 1.0
    for count, confidence in itertools.product((2, 3, 5), (0.5, 0.9, 0.95, 0.999)):
        # The p-value of a ratio at the end of an interval is that of the level of the interval.
        values = np.arange(count).tolist()
        low_end, high_end = variance_ratio([(values, values)], confidence).interval
        for end in (low_end, high_end):
            scaled = [value * math.sqrt(end) for value in values]
            assert variance_ratio([(scaled, values)]).p == pytest.approx(1 - confidence)


def test_the_interval_of_a_ratio_of_variances_covers_the_truth():
    generator, covered, repeats = np.random.default_rng(4), 0, 500
    for _ in range(repeats):
        groups = [
            ((scale * generator.normal(0, 1, 5)).tolist(), (scale * generator.normal(0, 2, 4)).tolist())
            for scale in (0.01, 0.1, 1.0)
        ]
        low, high = variance_ratio(groups).interval
        covered += low <= 0.25 <= high
    assert 0.92 <= covered / repeats <= 0.98


@pytest.mark.parametrize("groups", [[], [([1.0, 1.0], [1.0, 2.0])], [([1.0], [1.0, 2.0])]])
def test_variances_that_are_zero_have_no_ratio(groups):
    with pytest.raises(ContentError):
        variance_ratio(groups)


def test_the_interval_of_a_correlation_covers_the_truth_where_points_share_a_training():
    generator, covered, repeats = np.random.default_rng(5), 0, 300
    clusters = np.repeat(np.arange(12), 6)
    root = np.linalg.cholesky(np.array([[1.0, -0.6], [-0.6, 1.0]]))
    for _ in range(repeats):
        points = 0.9 * (generator.normal(size=(12, 2)) @ root.T)[clusters]
        points += math.sqrt(1 - 0.81) * generator.normal(size=(72, 2)) @ root.T
        low, high = clustered_correlation(points[:, 0], points[:, 1], clusters.tolist()).interval
        covered += low <= -0.6 <= high
    assert 0.91 <= covered / repeats <= 0.98


def test_a_correlation_needs_trainings_and_values_that_vary():
    x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert clustered_correlation(x, x[::-1], [0, 0, 1, 1, 2, 3]) is None
    assert clustered_correlation(x, [1.0] * 6, list(range(6))) is None
    assert clustered_correlation(x, [0.0] * 5 + [1.0], list(range(6))) is None, "constant without the last one"
    line = clustered_correlation(x, x[::-1], list(range(6)))
    assert line.interval == pytest.approx((-1.0, -1.0))


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ((0.1, 0.2), "holds"),
        ((-0.2, -0.1), "contradicted"),
        ((-0.1, 0.1), "inconclusive"),
        ((0.0, 0.0), "inconclusive"),
    ],
)
def test_a_region_judges_an_interval(interval, word):
    assert Region(low=0.0).judge(interval) == word
    assert Region(high=0.0).judge((-interval[1], -interval[0])) == word


def test_a_region_with_two_ends():
    near = Region(-0.01, 0.01)
    intervals = ((-0.005, 0.009), (-0.02, 0.0), (0.02, 0.03), (-0.03, -0.02), (-0.5, 0.5))
    assert [near.judge(one) for one in intervals] == [
        "holds", "inconclusive", "contradicted", "contradicted", "inconclusive"
    ]  # fmt: skip
