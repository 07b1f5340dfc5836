"""The findings of a paper, judged on our numbers: by a paired t-test, or a correlation with its interval."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from winning_tickets.analysis.report import tables
from winning_tickets.analysis.statistics import RESAMPLES, correlate, interval, non_inferior
from winning_tickets.runs.statistics import Paired, paired
from winning_tickets.studies.report.grids import Cell, Key, form_of, group_by, label, make_cell, row_label
from winning_tickets.studies.report.observations import Observation, StudyRun, observe, select_runs
from winning_tickets.studies.report.plots import common_axes, match_points, other_axes, zip_pairs
from winning_tickets.studies.schema import Comparison, Correlation, Study, StudyClaim, Value

Word = Literal["holds", "does not hold", "not enough runs"]

FEWEST_PAIRS = 3  # fewer pairs give no verdict: a deviation of two differences is hardly informative
FEWEST_POINTS = 5  # fewer points give no verdict on a correlation

# Thousands of pairs need fewer draws for an equally precise interval, and all draws are in memory at once.
_FEWEST_DRAWS, _MOST_DRAWN = 1_000, 4_000_000


@dataclass(frozen=True)
class Verdict:
    """The verdict of our numbers on a claim, with the finding in words, the reason and the test."""

    name: str
    text: str
    word: Word
    reason: str
    test: str
    n: int  # complete pairs or points
    planned: int
    cells: Mapping[str, Cell]  # the numbers behind it, by group and pair
    estimate: float | None = None  # mean difference, or Pearson's r
    interval: tuple[float, float] | None = None  # 95 %: Student's t of a difference, bootstrap of a correlation
    bootstrap: tuple[float, float] | None = None  # 95 % interval of a difference over its pairs


def judge_claim(study: Study, name: str, runs: Sequence[StudyRun]) -> Verdict:
    """Judge one of the study's claims on all its planned runs."""
    claim = study.claims[name]
    if claim.correlates is not None:
        return _correlates(name, claim, claim.correlates, runs)
    comparison = claim.better or claim.not_worse
    if comparison is None:
        raise ValueError(f"claim {name} has no test, which its schema refuses")
    return _compares(name, claim, comparison, runs)


def _compares(name: str, claim: StudyClaim, comparison: Comparison, runs: Sequence[StudyRun]) -> Verdict:
    """A paired t-test of the mean difference, and a bootstrap over the pairs."""
    first, second = _sides(runs, claim, comparison)
    planned = [key for key in first if key in second]
    sign = -1.0 if claim.lower_is_better else 1.0
    ours, theirs = _means(first, planned, sign), _means(second, planned, sign)
    ours = {key: mean for key, mean in ours.items() if key in theirs}
    margin = "above zero" if claim.better else f"above {format_signed(claim.value, -claim.margin)}"
    test = (
        f"Paired t-test of {claim.value}, {comparison.axis} {label(comparison.first)} minus {_second(comparison)}"
        f": the 95 % interval of the mean difference lies {margin}"
        + ("; the sign is turned, as lower is better." if claim.lower_is_better else ".")
    )
    cells = {
        f"{row_label(key)}: {side}" if key else side: own[key]
        for key in planned
        for side, own in ((label(comparison.first), first), (_second(comparison), second))
    }
    n = len(ours)
    if n < FEWEST_PAIRS:
        reason = _too_few(n, len(planned), "pairs", FEWEST_PAIRS)
        return Verdict(name, claim.text, "not enough runs", reason, test, n, len(planned), cells)
    found = paired(ours, theirs)
    differences = np.array([ours[key] - theirs[key] for key in ours])
    draws = min(RESAMPLES, max(_FEWEST_DRAWS, _MOST_DRAWN // n))
    bootstrap = interval(lambda drawn: np.asarray(differences[drawn].mean(axis=1)), n, resamples=draws)
    # The lower end of a two-sided 95 % interval is a one-sided bound of 97.5 %.
    holds = non_inferior(ours, theirs, 0.0 if claim.better else claim.margin, 0.975).wins is True
    reason = _reason(claim, found, holds, len(planned), int((differences > 0).sum()))
    word: Word = "holds" if holds else "does not hold"
    estimates = (found.mean, found.interval, bootstrap)
    return Verdict(name, claim.text, word, reason, test, n, len(planned), cells, *estimates)


def _too_few(n: int, planned: int, what: str, needed: int) -> str:
    if not planned:
        return f"No {what} for it are planned with these parameters."
    return f"{n} of {planned} planned {what} are there; a verdict needs {needed}."


def _second(comparison: Comparison) -> str:
    second = comparison.second
    return f"{second.value} of {second.stage}" if isinstance(second, Value) else label(second)


def _means(cells: Mapping[Key, Cell], keys: Sequence[Key], sign: float) -> dict[Hashable, float]:
    found = {key: cells[key].mean for key in keys if not cells[key].partial}
    return {key: sign * mean for key, mean in found.items() if mean is not None}


def _sides(
    runs: Sequence[StudyRun], claim: StudyClaim, comparison: Comparison
) -> tuple[dict[Key, Cell], dict[Key, Cell]]:
    """The cells of both groups by pair; by default all axes pair but those that are compared or averaged."""
    observations = observe(select_runs(runs, claim.stage, claim.where), claim.value)
    wanted = comparison.second
    first = _with_label(observations, comparison.axis, comparison.first)
    if isinstance(wanted, Value):
        second = observe(select_runs(runs, wanted.stage), wanted.value)
    else:
        second = _with_label(observations, comparison.axis, wanted)
    pair_by = claim.pair_by or [
        axis for axis in common_axes(first, second) if axis != comparison.axis and axis not in claim.average
    ]
    ours = _by_pair(first, pair_by)
    if not isinstance(wanted, Value):
        return ours, _by_pair(second, pair_by)
    # Axes that the other stage lacks, such as a dense model's sparsity, pair each of its cells with all their values.
    places = [place for place, axis in enumerate(pair_by) if second and all(axis in one.axes for one in second)]
    theirs = _by_pair(second, [pair_by[place] for place in places])
    matching = {key: tuple(key[place] for place in places) for key in ours}
    return ours, {key: theirs[own] for key, own in matching.items() if own in theirs}


def _with_label(observations: Sequence[Observation], axis: str, value: object) -> list[Observation]:
    return [one for one in observations if label(one.axes.get(axis)) == label(value)]


def _by_pair(observations: Sequence[Observation], pair_by: Sequence[str]) -> dict[Key, Cell]:
    return {
        key: make_cell(inside, other_axes(inside, pair_by)) for key, inside in group_by(observations, pair_by).items()
    }


def format_signed(path: str, value: float) -> str:
    """A difference of values with its sign, written as the values are."""
    return f"{100 * value:+.1f}" if form_of(path) is tables.percent else f"{value:+.3f}"


def _reason(claim: StudyClaim, found: Paired, holds: bool, planned: int, better: int) -> str:
    low, high = (format_signed(claim.value, end) for end in found.interval or (found.mean, found.mean))
    text = (
        f"Mean difference {format_signed(claim.value, found.mean)}, 95 % interval [{low}, {high}]"
        f"{'' if found.p is None else f', p = {found.p:.2g}'}, over {found.n} of {planned} planned pairs; above zero "
        f"in {better}."
    )
    if holds:
        return text
    if found.mean > (0.0 if claim.better else -claim.margin):
        return f"{text} The interval reaches further down: more runs may show it."
    return f"{text} It points the other way." if claim.better else f"{text} That is worse by more than the margin."


def _correlates(name: str, claim: StudyClaim, wanted: Correlation, runs: Sequence[StudyRun]) -> Verdict:
    """Pearson's r, whose bootstrap interval must be on the claimed side of zero."""
    observations = observe(select_runs(runs, wanted.y.stage, claim.where), wanted.y.value)
    points = match_points(wanted.x, observations, runs, claim.average)
    xs, ys = zip_pairs(points)
    found = correlate(xs, ys)
    test = (
        f"Pearson's r of {wanted.x.value} ({wanted.x.stage}) and {wanted.y.value} ({wanted.y.stage}): its 95 % "
        f"bootstrap interval over the points lies on the {wanted.sign} side of zero."
    )
    cells = {f"point {index}": point.cell for index, point in enumerate(points, 1)}
    counts, r, ends = (len(xs), len(points)), found["pearson"], found["pearson_interval"]
    if len(xs) < FEWEST_POINTS or r is None or ends is None:
        reason = f"The values of {len(xs)} points are constant, which has no correlation."
        if len(xs) < FEWEST_POINTS:
            reason = _too_few(*counts, "points", FEWEST_POINTS)
        return Verdict(name, claim.text, "not enough runs", reason, test, *counts, cells, r)
    holds = ends[0] > 0 if wanted.sign == "positive" else ends[1] < 0
    reason = (
        f"r = {r:+.2f}, 95 % interval [{ends[0]:+.2f}, {ends[1]:+.2f}], Spearman {found['spearman']:+.2f}, over "
        f"{len(xs)} of {len(points)} planned points."
    )
    if not holds:
        agrees = r > 0 if wanted.sign == "positive" else r < 0
        reason += " The interval reaches zero: more runs may show it." if agrees else " It points the other way."
    word: Word = "holds" if holds else "does not hold"
    return Verdict(name, claim.text, word, reason, test, *counts, cells, r, ends)
