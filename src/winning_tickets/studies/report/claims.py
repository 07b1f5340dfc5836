"""The findings of a paper, judged on our numbers: a paired t-test, or a correlation with its interval."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from winning_tickets.analysis.report import tables
from winning_tickets.analysis.statistics import RESAMPLES, Array, correlate, interval, non_inferior
from winning_tickets.runs.statistics import Paired, paired
from winning_tickets.studies.report.cells import Cell, Key, form_of, group, label, make_cell, row_label
from winning_tickets.studies.report.observations import Observation, Run, chosen, observe, stages_of
from winning_tickets.studies.report.plots import common_axes, matched
from winning_tickets.studies.schema import Claim, Comparison, Correlation, Study, Value

Word = Literal["holds", "does not hold", "not enough runs"]

FEWEST_PAIRS = 3
"""Fewer pairs are no test: the deviation of two differences says next to nothing."""
FEWEST_POINTS = 5
"""Fewer points have no correlation worth a verdict."""

# Thousands of pairs need fewer draws for as sharp an interval, and all draws are held at once.
_FEWEST_DRAWS, _MOST_DRAWN = 1_000, 4_000_000


@dataclass(frozen=True)
class Verdict:
    """What our numbers say of a claim.

    Attributes:
        name: of the claim.
        text: the finding, in words.
        word: the verdict.
        reason: why, with the numbers.
        test: what was tested and how.
        n: complete pairs or points.
        planned: pairs or points that are planned.
        estimate: mean difference, or Pearson's r; None without any.
        interval: 95 % interval of the estimate: Student's t of a difference, bootstrap of a correlation.
        bootstrap: 95 % bootstrap interval of a difference over its pairs; None for a correlation.
        cells: the numbers that it rests on, by group and pair.
    """

    name: str
    text: str
    word: Word
    reason: str
    test: str
    n: int
    planned: int
    estimate: float | None
    interval: tuple[float, float] | None
    bootstrap: tuple[float, float] | None
    cells: Mapping[str, Cell]


def judge(study: Study, name: str, runs: Sequence[Run]) -> Verdict:
    """Judge one of the study's claims.

    Args:
        study: what declares it.
        name: of the claim.
        runs: all planned runs of the study.
    """
    claim = study.claims[name]
    if claim.correlates is not None:
        return _correlates(name, claim, claim.correlates, runs)
    comparison = claim.better or claim.not_worse
    if comparison is None:
        raise ValueError(f"claim {name} has no test, which its schema refuses")
    return _compares(name, claim, comparison, runs)


def _compares(name: str, claim: Claim, comparison: Comparison, runs: Sequence[Run]) -> Verdict:
    """A paired t-test of the mean difference, with a bootstrap over the pairs beside it."""
    first, second = _sides(runs, claim, comparison)
    planned = [key for key in first if key in second]
    sign = -1.0 if claim.lower_is_better else 1.0
    ours, theirs = _means(first, planned, sign), _means(second, planned, sign)
    ours = {key: mean for key, mean in ours.items() if key in theirs}
    margin = "above zero" if claim.better else f"above {signed(claim.value, -claim.margin)}"
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
        return Verdict(name, claim.text, "not enough runs", reason, test, n, len(planned), None, None, None, cells)
    found = paired(ours, theirs)
    differences = [ours[key] - theirs[key] for key in ours]
    around = interval(_mean_of(differences), n, resamples=min(RESAMPLES, max(_FEWEST_DRAWS, _MOST_DRAWN // n)))
    # The lower end of a two-sided 95 % interval is a one-sided bound of 97.5 %.
    holds = non_inferior(ours, theirs, 0.0 if claim.better else claim.margin, 0.975).wins is True
    reason = _reason(claim, found, holds, len(planned), sum(difference > 0 for difference in differences))
    word: Word = "holds" if holds else "does not hold"
    return Verdict(name, claim.text, word, reason, test, n, len(planned), found.mean, found.interval, around, cells)


def _too_few(n: int, planned: int, what: str, needed: int) -> str:
    if not planned:
        return f"No {what} of it are planned with these parameters."
    return f"{n} of {planned} planned {what} are there; a verdict needs {needed}."


def _second(comparison: Comparison) -> str:
    """How the second group is named."""
    second = comparison.second
    return f"{second.value} of {second.stage}" if isinstance(second, Value) else label(second)


def _means(cells: Mapping[Key, Cell], keys: Sequence[Key], sign: float) -> dict[Hashable, float]:
    """The means of complete cells."""
    found = {key: cells[key].summary for key in keys if not cells[key].partial}
    return {key: sign * summary.mean for key, summary in found.items() if summary is not None}


def _sides(runs: Sequence[Run], claim: Claim, comparison: Comparison) -> tuple[dict[Key, Cell], dict[Key, Cell]]:
    """The cells of both groups by pair; without `pair_by` all axes pair but those that are compared or averaged."""
    observations = observe(chosen(runs, stages_of(claim.stage), claim.where), claim.value)
    wanted = comparison.second
    first = _with_label(observations, comparison.axis, comparison.first)
    if isinstance(wanted, Value):
        second = observe(chosen(runs, (wanted.stage,)), wanted.value)
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
    beside = {key: tuple(key[place] for place in places) for key in ours}
    return ours, {key: theirs[own] for key, own in beside.items() if own in theirs}


def _with_label(observations: Sequence[Observation], axis: str, value: object) -> list[Observation]:
    return [one for one in observations if label(one.axes.get(axis)) == label(value)]


def _by_pair(observations: Sequence[Observation], pair_by: Sequence[str]) -> dict[Key, Cell]:
    return {
        key: make_cell(inside, sorted({axis for one in inside for axis in one.axes} - set(pair_by)))
        for key, inside in group(observations, pair_by).items()
    }


def _mean_of(differences: Sequence[float]) -> Callable[[Array], Array]:
    values = np.array(differences)
    return lambda drawn: np.asarray(values[drawn].mean(axis=1))


def signed(path: str, value: float) -> str:
    """A difference of values with its sign, written as the values are."""
    return f"{100 * value:+.1f}" if form_of(path) is tables.percent else f"{value:+.3f}"


def _reason(claim: Claim, found: Paired, holds: bool, planned: int, better: int) -> str:
    low, high = (signed(claim.value, end) for end in found.interval or (found.mean, found.mean))
    text = (
        f"Mean difference {signed(claim.value, found.mean)}, 95 % interval [{low}, {high}]"
        f"{'' if found.p is None else f', p = {found.p:.2g}'}, over {found.n} of {planned} planned pairs; above zero "
        f"in {better}."
    )
    if holds:
        return text
    if found.mean > (0.0 if claim.better else -claim.margin):
        return f"{text} The interval reaches further down: more runs may show it."
    return f"{text} It points the other way." if claim.better else f"{text} That is worse by more than the margin."


def _correlates(name: str, claim: Claim, wanted: Correlation, runs: Sequence[Run]) -> Verdict:
    """Pearson's r, whose bootstrap interval must lie on the claimed side of zero."""
    observations = observe(chosen(runs, (wanted.y.stage,), claim.where), wanted.y.value)
    points = matched(wanted.x, observations, runs, claim.average)
    pairs = [
        (float(point.x), point.cell.summary.mean)
        for point in points
        if point.x is not None and point.cell.summary is not None and not point.cell.partial
    ]
    found = correlate([x for x, _ in pairs], [y for _, y in pairs])
    test = (
        f"Pearson's r of {wanted.x.value} ({wanted.x.stage}) and {wanted.y.value} ({wanted.y.stage}): its 95 % "
        f"bootstrap interval over the points lies on the {wanted.sign} side of zero."
    )
    cells = {f"point {index}": point.cell for index, point in enumerate(points, 1)}
    around = found["pearson_interval"]
    if len(pairs) < FEWEST_POINTS or found["pearson"] is None or around is None:
        reason = _too_few(len(pairs), len(points), "points", FEWEST_POINTS)
        if len(pairs) >= FEWEST_POINTS:
            reason = f"The values of {len(pairs)} points are constant, which has no correlation."
        return Verdict(
            name,
            claim.text,
            "not enough runs",
            reason,
            test,
            len(pairs),
            len(points),
            found["pearson"],
            None,
            None,
            cells,
        )
    holds = around[0] > 0 if wanted.sign == "positive" else around[1] < 0
    reason = (
        f"r = {found['pearson']:+.2f}, 95 % interval [{around[0]:+.2f}, {around[1]:+.2f}], Spearman "
        f"{found['spearman']:+.2f}, over {len(pairs)} of {len(points)} planned points."
    )
    if not holds:
        there = found["pearson"] > 0 if wanted.sign == "positive" else found["pearson"] < 0
        reason += " The interval reaches zero: more runs may show it." if there else " It points the other way."
    word: Word = "holds" if holds else "does not hold"
    return Verdict(name, claim.text, word, reason, test, len(pairs), len(points), found["pearson"], around, None, cells)
