"""Matching and winning: numbers by hand, naive oracles, properties, and what is undefined."""

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.studies.analysis.statistics import (
    degenerate_reasons,
    exceeds,
    highest_winning,
    non_inferior,
    within_std,
)

SCORES = st.lists(st.integers(0, 1000).map(lambda k: k / 1000), min_size=3, max_size=6)
SHIFTS = st.integers(0, 500).map(lambda k: k / 1000)


def judged(criterion, sub, full):
    """The verdict of each criterion, seeds numbered."""
    if criterion == "non-inferior":
        return non_inferior(dict(enumerate(sub)), dict(enumerate(full)), 0.02).wins
    if criterion == "exceeds":
        return exceeds(sub, full).wins
    return within_std(sub, full, of=criterion).wins


ALL = ["exceeds", "full", "subnetwork", "max", "non-inferior"]


def test_exceeds_by_hand():
    one = exceeds([0.6, 0.7, 0.8], [0.7, 0.7])
    assert (one.wins, one.n, one.n_full, one.reason) == (True, 3, 2, "")
    assert one.subnetwork == pytest.approx(0.7)
    assert one.threshold == one.full == pytest.approx(0.7)
    assert not exceeds([0.6, 0.7, 0.79], [0.7, 0.7]).wins
    # Of the same scores the mean loses, the median and the best win.
    sub, full = [0.1, 0.7, 0.9], [0.6, 0.65, 0.7]
    assert [exceeds(sub, full, which).wins for which in ("mean", "median", "best")] == [False, True, True]
    assert exceeds([0.5], [0.5]).wins


def test_equal_scores_are_equal_whatever_their_number():
    for k in range(1, 72):
        for n in range(1, 8):
            assert exceeds([k / 71] * n, [k / 71] * 5).wins
            assert within_std([k / 71] * n, [k / 71] * 5).wins


def test_within_one_standard_deviation_of_whom():
    """Full model 0.70 +- 0.01, subnetwork 0.66 +- 0.05: it wins by its own deviation only."""
    full, sub = [0.69, 0.70, 0.71], [0.61, 0.66, 0.71]
    of_full, of_sub, of_max = (within_std(sub, full, of=of) for of in ("full", "subnetwork", "max"))
    assert (of_full.wins, of_sub.wins, of_max.wins) == (False, True, True)
    assert of_full.threshold == pytest.approx(0.70 - 0.01)  # ddof=1; with ddof=0 it would be 0.6918
    assert of_sub.threshold == of_max.threshold == pytest.approx(0.70 - 0.05)
    assert within_std([0.69, 0.69], full).wins  # exactly one deviation below


def test_one_score_has_no_deviation_and_never_passes():
    one, two = [0.9], [0.1, 0.2]
    for sub, full, of, who in (
        (two, one, "full", "full model"),
        (one, two, "subnetwork", "subnetwork"),
        (one, two, "max", "subnetwork"),
        (two, one, "max", "full model"),
    ):
        found = within_std(sub, full, of=of)
        assert found.wins is None
        assert found.threshold is None
        assert found.reason == f"one score of the {who} has no standard deviation"
    assert within_std(one, two, of="full").wins
    assert within_std(two, one, of="subnetwork").wins is False
    found = non_inferior({0: 0.9, 2: 0.8}, {0: 0.1, 1: 0.2, 2: 0.1})
    assert (found.wins, found.value, found.n) == (None, None, 2)
    assert found.reason == "2 repetitions, and an interval needs 3"


def test_non_inferior_by_hand():
    """Differences -0.02, 0, 0.02: mean 0, deviation 0.02, t(0.95, 2) = 2.92; the bound is -0.0337."""
    sub, full = {0: 0.48, 1: 0.50, 2: 0.52}, {2: 0.5, 1: 0.5, 0: 0.5}
    found = non_inferior(sub, full)
    assert found.value == pytest.approx(-2.919986 * 0.02 / math.sqrt(3), abs=1e-7)
    assert (found.wins, found.threshold, found.n, found.full) == (False, -0.01, 3, None)
    assert non_inferior(sub, full, margin=0.034).wins
    assert not non_inferior(sub, full, margin=0.034, confidence=0.99).wins
    # Pairs without any spread: exactly the margin worse is not above it.
    assert not non_inferior({0: 0.49, 1: 0.59, 2: 0.69}, {0: 0.5, 1: 0.6, 2: 0.7}, margin=0.01).wins
    assert non_inferior({0: 0.495, 1: 0.595, 2: 0.695}, {0: 0.5, 1: 0.6, 2: 0.7}, margin=0.01).wins
    assert non_inferior(sub | {7: 0.0}, full | {8: 1.0}) == found


@given(SCORES, SCORES, st.sampled_from(["mean", "median", "best"]))
def test_naive_oracles(sub, full, statistic):
    naive = {"mean": np.mean, "median": np.median, "best": np.max}[statistic]
    deviations = {"full": np.std(full, ddof=1), "subnetwork": np.std(sub, ddof=1)}
    deviations["max"] = max(deviations.values())
    gap = naive(sub) - naive(full)
    if abs(gap) > 1e-9:
        assert exceeds(sub, full, statistic).wins == (gap > 0)
    for of, deviation in deviations.items():
        if abs(gap + deviation) > 1e-9:
            assert within_std(sub, full, of, statistic).wins == (gap > -deviation)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=3, max_size=6))
def test_non_inferiority_is_the_paired_t_test(pairs):
    """The p-value of scipy's one-sided test against -margin is below 0.05 exactly where the bound lies above it."""
    sub, full = (np.array(side) / 1000 for side in zip(*pairs, strict=True))
    found = non_inferior(dict(enumerate(sub)), dict(enumerate(full)), margin=0.02)
    if np.ptp(sub - full) > 1e-9:
        p = stats.ttest_rel(sub + 0.02, full, alternative="greater").pvalue
        if abs(p - 0.05) > 1e-9:
            assert found.wins == (p < 0.05)
    assert found.subnetwork == pytest.approx(np.mean(sub - full))


@pytest.mark.parametrize("criterion", ALL)
@given(sub=SCORES, full=SCORES, shift=SHIFTS, data=st.data())
def test_better_scores_never_lose_a_win_and_order_and_offset_do_not_matter(criterion, sub, full, shift, data):
    size = min(len(sub), len(full))  # pairs, where pairs are what counts
    sub, full = (sub[:size], full[:size]) if criterion == "non-inferior" else (sub, full)
    before = judged(criterion, sub, full)
    if before:
        assert judged(criterion, [score + shift for score in sub], full)
    else:
        assert not judged(criterion, sub, [score + shift for score in full])
    assert judged(criterion, [s + 2 for s in sub], [s + 2 for s in full]) == before
    order = data.draw(st.permutations(range(size)))
    if criterion == "non-inferior":
        assert judged(criterion, [sub[i] for i in order], [full[i] for i in order]) == before
    else:
        assert judged(criterion, sub[::-1], sorted(full)) == before


@given(SCORES, SCORES)
def test_what_exceeds_is_within_any_deviation(sub, full):
    if exceeds(sub, full).wins:
        assert all(within_std(sub, full, of=of).wins for of in ("full", "subnetwork", "max"))
    if within_std(sub, full, of="full").wins or within_std(sub, full, of="subnetwork").wins:
        assert within_std(sub, full, of="max").wins


def test_the_highest_winning_sparsity():
    found = highest_winning({0.7: True, 0.5: True, 0.6: False, 0.8: False, 0.4: True})
    assert (found.largest, found.unbroken, found.undecided) == (0.7, 0.5, ())
    found = highest_winning({0.5: True, 0.6: None, 0.7: True, 0.9: None})
    assert (found.largest, found.unbroken, found.undecided) == (0.7, 0.5, (0.6, 0.9))
    for verdicts in ({}, {0.5: False}, {0.5: None}):
        found = highest_winning(verdicts)
        assert found.largest is found.unbroken is None
    assert highest_winning({0.5: False, 0.6: True}).unbroken is None


@given(st.dictionaries(st.integers(1, 9).map(lambda k: k / 10), st.sampled_from([True, False, None])))
def test_the_highest_winning_sparsity_naively(verdicts):
    largest = [s for s in verdicts if verdicts[s]]
    unbroken = [s for s in verdicts if all(verdicts[other] for other in verdicts if other <= s)]
    found = highest_winning(verdicts)
    assert found.largest == max(largest, default=None)
    assert found.unbroken == max(unbroken, default=None)


def test_degenerate_tasks():
    """WNLI: 40 of 71 is the majority class; a model that beats it by one sentence is healthy."""
    assert degenerate_reasons([40 / 71] * 3, constant=False, majority=40 / 71) == ("majority",)
    assert degenerate_reasons([41 / 71] * 3, constant=False, majority=40 / 71) == ()
    assert degenerate_reasons([40 / 71, 39 / 71], constant=True, majority=40 / 71) == ("constant", "majority")
    assert degenerate_reasons([0.0], constant=True, majority=None) == ("constant",)
    assert degenerate_reasons([0.5, 0.6, 0.9], constant=False, majority=0.65) == ()
    assert degenerate_reasons([0.5, 0.6, 0.9], constant=False, majority=0.65, statistic="median") == ("majority",)


def test_refusals():
    with pytest.raises(UsageError, match="Unknown statistic 'medain'. Did you mean 'median'?"):
        exceeds([0.1], [0.1], "medain")
    with pytest.raises(UsageError, match="Unknown standard deviation 'dense'. Known: full, max, subnetwork."):
        within_std([0.1], [0.1], of="dense")
    with pytest.raises(ContentError, match="There is no score to compare."):
        exceeds([], [0.1])
    for test in (exceeds, within_std):
        with pytest.raises(ContentError, match=r"not finite among \[0.1, nan\]; leave failed runs out"):
            test([0.1, math.nan], [0.1])
    with pytest.raises(ContentError, match="not finite among"):
        non_inferior({0: math.inf}, {0: 0.1})
    with pytest.raises(
        ContentError, match="No seed is in both groups: the subnetwork has seeds 1, 2, the full model none."
    ):
        non_inferior({1: 0.1, 2: 0.1}, {})
    for margin in (-0.1, math.nan, math.inf):
        with pytest.raises(UsageError, match="is impossible; give a fraction of at least 0"):
            non_inferior({0: 0.1}, {0: 0.1}, margin)
    for confidence in (0, 1, math.nan):
        with pytest.raises(UsageError, match="is impossible; give a number between 0 and 1"):
            non_inferior({0: 0.1}, {0: 0.1}, confidence=confidence)


def test_the_statistics_are_those_of_the_standard_library():
    scores = [0.61, 0.64, 0.66, 0.7]
    for name, naive in (("mean", statistics.mean), ("median", statistics.median), ("best", max)):
        assert exceeds(scores, scores, name).subnetwork == pytest.approx(naive(scores))
