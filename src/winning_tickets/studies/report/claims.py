"""Verdicts on a paper's claims: each claim is an estimate with an interval, and the values that the claim allows.

docs/explanation/claims.md says how the intervals are made, and why.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from winning_tickets.report import tables
from winning_tickets.report.comparisons import (
    chance_note,
    describe_levels,
    describe_silent,
    plural,
)
from winning_tickets.report.correlations import correlate_within
from winning_tickets.report.effects import (
    CONFIDENCE,
    FEWEST,
    FEWEST_METHODS,
    Effect,
    Region,
    Word,
    clustered_correlation,
    describe_too_few_methods,
    mean_effect,
    variance_ratio,
)
from winning_tickets.runs.files import is_number
from winning_tickets.runs.statistics import TIE, is_repetition
from winning_tickets.studies.expressions import without_axes
from winning_tickets.studies.grid import values_of
from winning_tickets.studies.report.grids import (
    Cell,
    average_others,
    common_axes,
    describe_minus,
    describe_rates,
    form_of,
    group_by,
    label,
    make_cell,
    row_label,
    subtract,
)
from winning_tickets.studies.report.observations import (
    Key,
    Observation,
    StudyRun,
    absent_values,
    differing_rates,
    observe_value,
    select_runs,
)
from winning_tickets.studies.report.plots import coordinates, match_points
from winning_tickets.studies.schema import Comparison, Correlation, Study, StudyClaim, Value

NO_PAIRS = "No pairs for it are planned with these parameters."


@dataclass(frozen=True)
class Finding:
    """What the study's numbers say about a claim, or about the part of it for one task."""

    word: Word
    reason: str
    n: int  # complete pairs or points
    planned: int
    effect: Effect | None = None  # None with too few runs for an interval
    missing_runs: int = 0  # number of runs that a verdict still needs
    degenerate: tuple[str, ...] = ()  # places in the grid whose scores are not above chance; they are not counted
    learning_rates: Mapping[str, Sequence[float]] = field(default_factory=dict)  # of each group, where they differ

    def with_remarks(self, groups: Mapping[str, Sequence[Observation]]) -> Finding:
        """Return the finding with what is to know of the runs: differing learning rates, models that learned nothing.

        `groups` are the observations of each group.
        """
        if not self.planned:
            return self
        rates = differing_rates(groups)
        counts = {name: sum(one.degenerate for one in own) for name, own in groups.items()}
        flat = [f"{name} ({count} of {len(groups[name])})" for name, count in counts.items() if count]
        words = [self.reason, *chance_note(flat), *describe_rates("runs", rates)]
        return replace(self, reason=" ".join(words), learning_rates=rates)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim, with the finding in words, the test, and the numbers behind it."""

    name: str
    text: str
    test: str
    finding: Finding
    cells: Mapping[str, Cell]  # by group and pair
    parts: Mapping[str, Finding]  # findings by task, if the claim is made for each task
    problems: tuple[str, ...]  # errors in its declaration

    @property
    def word(self) -> Word:
        return self.finding.word

    @property
    def reason(self) -> str:
        return self.finding.reason


def judge_claim(study: Study, name: str, runs: Sequence[StudyRun]) -> Verdict:
    """Judge one of the study's claims on all its planned runs."""
    claim = study.claims[name]
    problems = absent_values(name, [claim.judged, *values_of(claim)], runs)
    parts: dict[str, Finding] = {}
    if claim.correlates is not None:
        finding, cells = _judge_correlation(claim, claim.correlates, runs)
    else:
        pairs = _pairs(claim, runs)
        cells = {title: cell for pair in pairs for title, cell in pair.titled(claim)}
        finding, parts = (_judge(claim, pairs), {}) if claim.each is None else _judge_each(claim, claim.each, pairs)
        finding = finding.with_remarks(_observed(claim, pairs))
    return Verdict(name, claim.text, describe_test(claim), finding, cells, parts, problems)


def _observed(claim: StudyClaim, pairs: Sequence[_Pair]) -> dict[str, list[Observation]]:
    """Return the observations of each group of a claim, each once, without places that are not counted."""
    found: dict[str, dict[tuple[str, Any], Observation]] = defaultdict(dict)
    for pair in (pair for own in _places(pairs).values() if not _is_silent(own) for pair in own):
        for name, group in zip(_names(claim), pair.groups, strict=True):
            seen = [one for cell in group.values() for one in cell.observations]
            found[name] |= {(one.run.id, one.part): one for one in seen if one.value is not None}
    return {name: list(own.values()) for name, own in found.items()}


# Pairs of cells


@dataclass(frozen=True)
class _Pair:
    """The cells of both groups at one place of the grid, by position on their curves; the test `lies` has one group."""

    place: Mapping[str, Any]  # values of the axes that pair the runs
    groups: tuple[Mapping[Any, Cell], ...]

    @property
    def cells(self) -> list[Cell]:
        return [cell for group in self.groups for cell in group.values()]

    @property
    def complete(self) -> bool:
        return not any(cell.partial or cell.mean is None for cell in self.cells)

    @property
    def degenerate(self) -> bool:
        """Return True if no number of any group is above chance."""
        found = [one for cell in self.cells for one in cell.observations if one.value is not None]
        return bool(found) and all(one.degenerate for one in found)

    @property
    def means(self) -> list[dict[Any, float]]:
        return [{x: cell.mean for x, cell in group.items() if cell.mean is not None} for group in self.groups]

    def part(self, wanted: Callable[[str], bool]) -> Key:
        """Return the values of the axes of the place for which `wanted` is true."""
        return tuple(value for axis, value in self.place.items() if wanted(axis))

    def titled(self, claim: StudyClaim) -> list[tuple[str, Cell]]:
        place = row_label(list(self.place.values()))
        found = []
        for name, group in zip(_names(claim), self.groups, strict=True):
            for position, cell in group.items():
                words = [place, "" if position is None else label(position)]
                found.append((f"{', '.join(filter(None, words))}: {name}" if any(words) else name, cell))
        return found


def _names(claim: StudyClaim) -> list[str]:
    """Return the names of the groups of a claim."""
    comparison = claim.comparison
    if comparison is None:
        return [without_axes(claim.value)]
    second = comparison.second
    path = without_axes(second.value) if isinstance(second, Value) else ""
    named = (second.name or f"{path} of {second.title}") if isinstance(second, Value) else label(second)
    return [without_axes(claim.value) if comparison.first is None else label(comparison.first), named]


def _pairs(claim: StudyClaim, runs: Sequence[StudyRun]) -> list[_Pair]:
    """Pair the cells of both groups by the claim's `pair_by`; by default by all axes not compared or averaged."""
    comparison = claim.comparison
    own = subtract(observe_value(runs, claim.judged), claim.minus, runs)
    sides = [own] if comparison is None else _sides(own, comparison, runs)
    compared = set(claim.average) | ({comparison.axis, comparison.along} if comparison else set())
    second = comparison.second if comparison else None
    pair_by = claim.pair_by or [axis for axis in common_axes(*sides) if axis not in compared]
    levels = [{axis: {label(one.axes[axis]) for one in side if axis in one.axes} for axis in pair_by} for side in sides]

    def has(side: int, axis: str) -> bool:
        # A group that lacks an axis, such as the sparsity of a dense model, or that has one mask where the other has
        # several, is paired with all values of the other.
        mine, most = len(levels[side][axis]), max(len(one[axis]) for one in levels)
        if side and isinstance(second, Value) and mine == 1 and not levels[0][axis] & levels[1][axis]:
            return False  # a name that only the other stage has, such as the method `Full`
        return mine > 0 and not (mine == 1 < most and is_repetition(axis))

    axes = [[axis for axis in pair_by if has(side, axis)] for side in range(len(sides))]
    groups = [_groups(side, mine, claim, runs) for side, mine in zip(sides, axes, strict=True)]
    if comparison is None:
        return [_Pair(dict(zip(axes[0], key, strict=True)), (group,)) for key, group in groups[0].items()]
    shared = [axis for axis in axes[0] if axis in axes[1]]
    partners: dict[Key, list[tuple[dict[str, Any], Mapping[Any, Cell]]]] = defaultdict(list)
    for key, group in groups[1].items():
        place = dict(zip(axes[1], key, strict=True))
        partners[tuple(place[axis] for axis in shared)].append((place, group))
    found = []
    for key, group in groups[0].items():
        place = dict(zip(axes[0], key, strict=True))
        for other, partner in partners[tuple(place[axis] for axis in shared)]:
            both = other | place
            found.append(_Pair({axis: both[axis] for axis in pair_by if axis in both}, (group, partner)))
    return found


def _sides(own: list[Observation], comparison: Comparison, runs: Sequence[StudyRun]) -> list[list[Observation]]:
    """Return the observations of both groups."""

    def at(axis: str, value: object) -> list[Observation]:
        return [one for one in own if label(one.axes.get(axis)) == label(value)]

    first = own if comparison.axis is None else at(comparison.axis, comparison.first)
    second = comparison.second
    return [first, observe_value(runs, second) if isinstance(second, Value) else at(str(comparison.axis), second)]


def _groups(
    observations: Sequence[Observation], axes: Sequence[str], claim: StudyClaim, runs: Sequence[StudyRun]
) -> dict[Key, dict[Any, Cell]]:
    """Return the cells of one group by place and by position; without `along` the only position is None."""
    comparison = claim.comparison
    along = comparison.along if comparison else None
    position_of = _positions(observations, along, comparison.at if comparison else None, runs)
    grouped = [*axes, along] if along else list(axes)
    found: dict[Key, dict[Any, Cell]] = defaultdict(dict)
    for key, inside in group_by(observations, grouped).items():
        # `steadier` compares deviations over the repetitions, which a mean over them would hide.
        cell = make_cell(inside, claim.average) if claim.steadier else average_others(inside, grouped)
        position = position_of(inside[0])
        found[key[: len(axes)]][position if is_number(position) else None] = cell
    return found


def _positions(
    observations: Sequence[Observation], along: str | None, at: Value | None, runs: Sequence[StudyRun]
) -> Callable[[Observation], Any]:
    """Return a function from an observation to its value on an axis, or to what replaces that, such as hours."""
    if along is None or at is None:
        return lambda one: None if along is None else one.axes.get(along)
    steps = frozenset(one.axes.get(along) for one in observations)
    values = observe_value(runs, at, steps)
    shared = common_axes(observations, values)
    known = {key: average_others(inside, shared).mean for key, inside in group_by(values, shared).items()}
    return lambda one: known.get(one.place(shared))


# Tests


def _gap(first: Mapping[Any, float], second: Mapping[Any, float]) -> float | None:
    """Return the mean difference of two curves over their common range, interpolated linearly between points."""
    if None in first or None in second:
        return first[None] - second[None] if first.keys() == second.keys() == {None} else None
    low, high = max(min(first), min(second)), min(max(first), max(second))
    if low > high:
        return None
    places = sorted({x for x in (*first, *second) if low <= x <= high} | {low, high})
    heights = [_at(first, x) - _at(second, x) for x in places]
    if len(places) == 1:
        return heights[0]
    steps = zip(places, places[1:], heights, heights[1:], strict=False)
    return float(sum((right - left) * (a + b) / 2 for left, right, a, b in steps) / (high - low))


def _at(curve: Mapping[Any, float], x: float) -> float:
    """Return the value of a curve at a position between its ends, linear between its points."""
    left, right = max(p for p in curve if p <= x), min(p for p in curve if p >= x)
    share = 0.0 if left == right else (x - left) / (right - left)
    return curve[left] + share * (curve[right] - curve[left])


def _sooner(first: Mapping[Any, float], second: Mapping[Any, float]) -> float | None:
    """Return log(position of the second curve's best value / position where the first curve reaches that value)."""
    if not first or not second or None in first or None in second:
        return None
    best = max(second.values())
    target = min(x for x, value in second.items() if value == best)
    places = sorted(first)
    # A first curve that never reaches the value counts as if it did so at its last position.
    reached = next((index for index, x in enumerate(places) if first[x] >= best), None)
    x = places[-1] if reached is None else places[reached]
    if reached:
        before = places[reached - 1]
        x = before + (x - before) * (best - first[before]) / (first[x] - first[before])
    return math.log(target / x) if target > 0 and x > 0 else None


def _contrast(claim: StudyClaim, pair: _Pair) -> float | None:
    """Return the number of a pair that the claim is about; for ratios, the logarithm."""
    sign = -1.0 if claim.lower_is_better else 1.0
    means = [{x: sign * mean for x, mean in group.items()} for group in pair.means]
    if claim.lies is not None:
        return pair.means[0].get(None)
    if claim.ratio is not None:
        first, second = (group.get(None) for group in pair.means)
        return math.log(first / second) if first and second and first > 0 and second > 0 else None
    return _sooner(means[0], means[1]) if claim.sooner is not None else _gap(means[0], means[1])


def _region(claim: StudyClaim) -> Region:
    """Return the range of values that a claim allows for its estimate."""
    margin = claim.margin
    bounds = claim.lies or claim.ratio
    if bounds is not None:
        low, high = bounds.above, bounds.below
        return Region(-math.inf if low is None else low, math.inf if high is None else high)
    regions = {
        "better": Region(low=0.0),
        "not_worse": Region(low=-margin),
        "equal": Region(-margin, margin),
        "sooner": Region(low=1.0),
        "steadier": Region(high=1.0),
    }
    return regions[claim.test]


def _places(pairs: Sequence[_Pair]) -> dict[Key, list[_Pair]]:
    """Return the pairs by their place, at which only repetitions differ."""
    found: dict[Key, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        found[pair.part(lambda axis: not is_repetition(axis))].append(pair)
    return found


def _is_silent(pairs: Sequence[_Pair]) -> bool:
    """Return whether no number at a place is above chance."""
    done = [pair for pair in pairs if pair.complete]
    return bool(done) and all(pair.degenerate for pair in done)


def _judge(claim: StudyClaim, planned: Sequence[_Pair], confidence: float = CONFIDENCE) -> Finding:
    """Judge a claim on its planned pairs."""
    # Places where neither group is above chance say nothing about the claim.
    places = _places(planned)
    silent = {key for key, own in places.items() if _is_silent(own)}
    degenerate = tuple(row_label(key) or "all" for key in places if key in silent)
    counted = {key: own for key, own in places.items() if key not in silent}
    if claim.steadier is not None:
        effect, n, repetitions = _deviations(counted, confidence)
    else:
        effect, n, repetitions = _differences(claim, counted, confidence)
    # All tasks count alike, so each needs repetitions; a task may lack a condition, such as a sparsity.
    missing = 0
    can_repeat = claim.steadier is not None or any(pair.part(is_repetition) for pair in planned)
    by_task: _Counts = {}
    for key, own in counted.items():
        have, task = repetitions.get(key, 0), own[0].part(lambda axis: axis == "task")
        missing += max(0, FEWEST - have) * len(own[0].cells) if can_repeat or not have else 0
        by_task[task] = max(by_task.get(task, 0), have)
    if effect is None or min(by_task.values(), default=0) < FEWEST:
        reason = _too_few(len(planned), n, by_task, missing, degenerate=degenerate) + _name_degenerate(degenerate)
        return Finding("inconclusive", reason, n, len(planned), None, missing, degenerate)
    word = _region(claim).judge(effect.interval)
    reason = _reason(claim, effect, word, n, planned=len(planned)) + _name_degenerate(degenerate)
    return Finding(word, reason, n, len(planned), effect, 0, degenerate)


_Counts = dict[Key, int]  # number of repetitions that have numbers, by place


def _differences(
    claim: StudyClaim, places: Mapping[Key, Sequence[_Pair]], confidence: float
) -> tuple[Effect | None, int, _Counts]:
    """Return the effect on the mean contrast of the pairs, the number of pairs, and the repetitions by place."""
    values: list[tuple[_Pair, float]] = []
    repetitions: _Counts = {}
    for key, pairs in places.items():
        found = [(pair, value) for pair in pairs if pair.complete and (value := _contrast(claim, pair)) is not None]
        repetitions[key] = len({pair.part(is_repetition) for pair, _ in found})
        values += found
    if not values:
        return None, 0, repetitions
    logarithmic, region = claim.test in ("ratio", "sooner"), _region(claim)
    ends = [end for end in (region.low, region.high) if math.isfinite(end) and (end > 0 or not logarithmic)]
    ends = [math.log(end) for end in ends] if logarithmic else ends
    effect = mean_effect([value for _, value in values], [pair.place for pair, _ in values], confidence, ends).effect
    if effect is not None and logarithmic:
        effect = effect.on_scale(math.exp)
    return effect, len(values), repetitions


def _deviations(places: Mapping[Key, Sequence[_Pair]], confidence: float) -> tuple[Effect | None, int, _Counts]:
    """Return the ratio of both groups' variances over repetitions, the number of places, and repetitions by place."""
    groups = []
    repetitions: _Counts = {}
    for key, pairs in places.items():
        (first, second) = (group[None] for group in pairs[0].groups)
        repetitions[key] = min(first.n, second.n)
        spread = all(cell.summary and cell.summary.std and cell.summary.std > TIE for cell in (first, second))
        if pairs[0].complete and repetitions[key] >= FEWEST and spread:
            groups.append((first.values, second.values))
    return (variance_ratio(groups, confidence) if groups else None), len(groups), repetitions


def _judge_each(claim: StudyClaim, each: str, pairs: Sequence[_Pair]) -> tuple[Finding, dict[str, Finding]]:
    """Judge a claim that is made for each of several tasks, such as "in all tasks", as a whole and for each task."""
    split: dict[str, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        split[label(pair.place.get(each))].append(pair)
    parts = {title: _judge(claim, own) for title, own in split.items()}
    counted = {title: part for title, part in parts.items() if part.n or not part.degenerate}
    # The claim must hold for all. One of many easily contradicts it by chance, so contradictions need a wider interval.
    strict = 1 - (1 - CONFIDENCE) / max(1, len(counted))
    against = [title for title in counted if _judge(claim, split[title], strict).word == "contradicted"]
    by_word = {
        word: [title for title, part in counted.items() if part.word == word]
        for word in ("holds", "contradicted", "inconclusive")
    }
    word: Word = "contradicted" if against else "inconclusive"
    if counted and len(by_word["holds"]) == len(counted):
        word = "holds"
    named = "; ".join(f"{key} for {', '.join(titles)}" for key, titles in by_word.items() if titles)
    silent = {title: part.degenerate for title, part in parts.items() if part.degenerate}
    degenerate = tuple(
        title if found == (title,) else f"{title}: {', '.join(found)}" for title, found in silent.items()
    )
    reason = "Nothing counts." if parts else NO_PAIRS
    if counted:
        reason = f"{len(by_word['holds'])} of {len(counted)} by {each}: {named}."
    if word == "inconclusive" and by_word["contradicted"]:
        reason += f" That {len(by_word['contradicted'])} of {len(counted)} are contradicted may be chance."
    reason += _name_degenerate(degenerate)
    sums = [sum(getattr(part, key) for part in parts.values()) for key in ("n", "planned", "missing_runs")]
    return Finding(word, reason, sums[0], sums[1], None, sums[2], degenerate), parts


# Texts


def format_signed(path: str, value: float) -> str:
    """Return a difference of values with its sign, in the unit of the values."""
    return f"{100 * value:+.1f}" if form_of(path) is tables.percent else f"{value:+.3f}"


_ESTIMATES = {
    "ratio": "Ratio",
    "sooner": "Ratio of the positions",
    "steadier": "Ratio of the variances",
    "lies": "Mean",
}


def format_estimate(claim: StudyClaim, value: float) -> str:
    """Return an estimate of a claim as text."""
    if claim.test in ("ratio", "sooner", "steadier"):
        return f"{value:.2f}"
    if claim.test == "lies" and claim.minus is None:
        return form_of(claim.value)(value)
    return format_signed(claim.value, value)


def describe_test(claim: StudyClaim) -> str:
    """Return in words what is estimated, and which values the claim allows for the estimate."""
    if (wanted := claim.correlates) is not None:
        return (
            f"Estimated: Pearson's r of {wanted.x.value} ({wanted.x.title}) and {wanted.y.value} ({wanted.y.title}). "
            f"The claim holds if the 95 % interval, by leaving out one method after the other, is {wanted.sign}."
        )
    names, region, comparison = _names(claim), _region(claim), claim.comparison
    value = without_axes(claim.value)
    low, high = (None if math.isinf(end) else format_estimate(claim, end) for end in (region.low, region.high))
    allowed = f"between {low} and {high}" if low and high else f"above {low}" if low else f"below {high}"
    what = {
        "ratio": f"{names[0]} divided by {names[-1]}",
        "sooner": f"position of the best {value} of {names[-1]}, divided by that where {names[0]} reaches it",
        "steadier": f"variance of {value} over the repetitions, {names[0]} divided by {names[-1]}",
        "lies": f"mean of {value}" + (f" minus that of {describe_minus(claim.minus)}" if claim.minus else ""),
    }.get(claim.test, f"mean difference of {value}, {names[0]} minus {names[-1]}")
    if comparison and comparison.along and claim.test != "sooner":
        what += f", over the range of {comparison.along} that both have"
    turned = "; the sign is turned, as lower is better" if claim.lower_is_better and claim.test != "lies" else ""
    each = f", for each {claim.each}" if claim.each else ""
    return f"Estimated: {what}{turned}. The claim holds if the 95 % interval lies {allowed}{each}."


def _reason(claim: StudyClaim, effect: Effect, word: Word, n: int, *, planned: int) -> str:
    low, high = (format_estimate(claim, end) for end in effect.interval)
    first = f"{_ESTIMATES.get(claim.test, 'Mean difference')} {format_estimate(claim, effect.estimate)}"
    # p is about no effect, which is the end of the allowed values only in these tests.
    p = f", p = {effect.p:.2g}" if effect.p is not None and claim.test in ("better", "sooner", "steadier") else ""
    parts = [
        f"{first}, 95 % interval [{low}, {high}]{p}, over {n} of {planned} planned pairs"
        f"{describe_levels(effect.levels)}."
    ]
    if claim.published is not None:
        where = "inside" if effect.interval[0] <= claim.published <= effect.interval[1] else "outside"
        parts.append(f"The paper has {format_estimate(claim, claim.published)}, {where} the interval.")
    if word == "inconclusive" and claim.test != "lies":
        size = format_estimate(claim, effect.detectable).removeprefix("+")
        parts.append(f"The smallest effect that these runs would show in four of five studies is {size}.")
    if word == "inconclusive" and effect.needed:
        counts = " or ".join(f"{count} {plural(axis)}" for axis, count in effect.needed.items())
        parts.append(f"If the estimate is right, {counts} would mostly be enough.")
    return " ".join(parts)


def _name_degenerate(degenerate: Sequence[str]) -> str:
    return f" {describe_silent(degenerate)}" if degenerate else ""


def _too_few(planned: int, n: int, by_task: _Counts, missing: int, *, degenerate: Sequence[str]) -> str:
    if not planned:
        return NO_PAIRS
    if not missing and n:
        return f"{n} of {planned} planned pairs are there, and none has repetitions for an interval."
    if not missing:
        return "Nothing is left to compare." if degenerate else "No pair has a number to compare."
    most, fewest = max(by_task.values()), min(by_task.values())
    count = f"at most {most} {'repetition' if most == 1 else 'repetitions'}"
    if fewest < most:
        count = f"{fewest} to {most} repetitions of a task"
    runs = f"{missing} {'run is' if missing == 1 else 'runs are'} missing"
    return f"{n} of {planned} planned pairs are there, with {count}; a verdict needs {FEWEST} of each: {runs}."


# Correlations


def _judge_correlation(
    claim: StudyClaim, wanted: Correlation, runs: Sequence[StudyRun]
) -> tuple[Finding, dict[str, Cell]]:
    """Judge a claim on Pearson's r, whose interval must be on the claimed side of zero; return the points as well."""
    of_claim = wanted.y.model_copy(update={"where": claim.where})
    observations = observe_value(select_runs(runs, wanted.y), of_claim)
    points = match_points(wanted.x, observations, runs, claim.average)
    complete = [point for point in points if point.complete]
    xs, ys, methods = coordinates(complete)
    effect = clustered_correlation(xs, ys, methods)
    cells = {f"point {index}": point.cell for index, point in enumerate(points, 1)}
    groups: dict[str, list[Observation]] = defaultdict(list)
    for point in complete:
        groups[point.method] += point.cell.observations
    counts, found = (len(complete), len(points)), len(set(methods))
    if effect is None:
        reason = f"{len(xs)} of {len(points)} planned points are there: {describe_too_few_methods(methods)}."
        missing = len(points) - len(complete) if found < FEWEST_METHODS else 0
        return Finding("inconclusive", reason, *counts, None, missing).with_remarks(groups), cells
    word = (Region(low=0.0) if wanted.sign == "positive" else Region(high=0.0)).judge(effect.interval)
    low, high = effect.interval
    reason = (
        f"r = {effect.estimate:+.2f}, 95 % interval [{low:+.2f}, {high:+.2f}], over {len(xs)} of {len(points)} planned "
        f"points of {found} methods."
    )
    within = correlate_within(xs, ys, methods)
    if within["pearson"] is not None:
        reason += f" Within methods r = {within['pearson']:+.2f}, over {within['n']} points."
    if word == "inconclusive":
        reason += f" The smallest r that these runs would show in four of five studies is {effect.detectable:.2f}."
    return Finding(word, reason, *counts, effect).with_remarks(groups), cells
