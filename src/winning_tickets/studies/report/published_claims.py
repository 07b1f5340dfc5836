"""Claims judged on the numbers that the paper itself publishes, where its tables have all of them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from winning_tickets.runs.statistics import TIE
from winning_tickets.studies.expressions import matches, same, without_axes
from winning_tickets.studies.schema import Figure, Published, Study, StudyClaim, StudyTable, Value

Number = tuple[dict[str, str], float]  # axes, and the published number


@dataclass(frozen=True)
class PaperVerdict:
    """What the published numbers say on a claim: the mean of its difference, and where it does not hold."""

    mean: float
    n: int
    fails: tuple[str, ...]  # values of `each`, or `all`

    @property
    def text(self) -> str:
        """The verdict in a sentence."""
        word = "contradict it" if self.fails else "agree with it"
        where = f" ({', '.join(self.fails)})" if self.fails and self.fails != ("all",) else ""
        count = f"{self.n} {'number' if self.n == 1 else 'numbers'}"
        return f"The published numbers {word}{where}: {100 * self.mean:+.1f} points on average of {count}."


def judge_published(study: Study, name: str) -> PaperVerdict | None:
    """Return what the published numbers say on a claim of differences; None if they do not suffice."""
    claim = study.claims[name]
    if claim.test not in ("better", "not_worse", "equal", "lies") or claim.lower_is_better:
        return None
    differences = _differences(claim, [one for one in _numbers(study, claim) if _is_meant(study, claim, one[0])])
    groups: dict[str, list[float]] = defaultdict(list)
    for axes, value in differences:
        groups["all" if claim.each is None else axes.get(claim.each, "")].append(value)
    if not differences or "" in groups:
        return None
    fails = tuple(group for group, own in groups.items() if not _holds(claim, statistics.fmean(own)))
    values = [value for _, value in differences]
    return PaperVerdict(statistics.fmean(values), len(values), fails)


def _is_meant(study: Study, claim: StudyClaim, axes: Mapping[str, str]) -> bool:
    """Return whether a claim is about the runs of a number; its table may have rows of other stages too."""
    stages = [study.stages[name] for name in _stages(claim) if name in study.stages]
    for axis, label in axes.items():
        known = [stage.over.get(axis, stage.label.get(axis)) for stage in stages]
        labels = [one if isinstance(one, Mapping | tuple) else (one,) for one in known if not _is_open(one)]
        if len(labels) == len(stages) and not any(same(label, own) for one in labels for own in one):
            return False
    return not claim.where or matches(claim.where, axes, so_far=True)


def _is_open(values: Any) -> bool:
    """Return whether the values of an axis are not written in the stage: those of a parameter or of another stage."""
    return values is None or isinstance(values, list) or (isinstance(values, str) and "${" in values)


def _numbers(study: Study, claim: StudyClaim) -> Iterator[Number]:
    """Yield the published numbers of tables and figures with the claim's stage and kind of value."""
    found: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
    for one in study.published:
        shown = study.tables.get(one.of) or study.figures[one.of]
        if isinstance(shown, StudyTable) and shown.statistic != "mean":
            continue
        axes = _axes(shown, one, study)
        if axes is not None and _stages(shown) & _stages(claim) and _kind(_path(shown)) == _kind(claim.value):
            found[tuple(sorted(axes.items()))].append(one.value)
    for key, values in found.items():  # two metrics of a task are averaged first
        yield dict(key), statistics.fmean(values)


def _stages(shown: Any) -> set[str]:
    own = shown.stage
    if own is None:
        own = [value.stage for value in (shown.x, shown.y) if isinstance(value, Value)]
    return {own} if isinstance(own, str) else set(own)


def _path(shown: StudyTable | Figure) -> str:
    value = next(iter(shown.values.values())) if isinstance(shown, StudyTable) else shown.y
    return value if isinstance(value, str) else value.value


def _kind(path: str) -> str:
    return "remaining" if "weight_remaining" in path else "score" if _is_score(without_axes(path)) else path


def _is_score(path: str) -> bool:
    return path.startswith(("score", "metrics", "whole", "super_ticket.whole", "full.whole")) or ".score" in path


def _axes(shown: StudyTable | Figure, one: Published, study: Study) -> dict[str, str] | None:
    """Return the axes of a published number; None for an average, and where rows have no axes."""
    names = shown.rows if isinstance(shown, StudyTable) else (shown.series,)
    labels = str(one.row).split(" / ")
    column = shown.columns if isinstance(shown, StudyTable) else shown.x
    average = shown.mean_column if isinstance(shown, StudyTable) else shown.count
    if (
        len(labels) != len(names)
        or not isinstance(column, str)
        or str(one.column) == average
        or shown.minus is not None
    ):
        return None
    place, _, _ = str(one.column).partition(" ")  # `rte accuracy`
    return {str(name): label for name, label in zip(names, labels, strict=True)} | {column: place}


def _differences(claim: StudyClaim, numbers: list[Number]) -> list[Number]:
    """Return the differences that a claim is about, with their common axes."""
    compared = claim.comparison
    if compared is not None and (compared.axis is None or compared.along is not None or claim.minus is not None):
        return []
    if compared is not None:
        axis, first, second = str(compared.axis), compared.first, compared.second
    elif isinstance(claim.minus, dict) and len(claim.minus) == 1:
        ((axis, second),) = claim.minus.items()
        first = None
    else:
        return []
    if isinstance(second, Value | list):
        return []
    found = []
    for axes, value in numbers:
        if axis not in axes or same(axes[axis], second) or (first is not None and not same(axes[axis], first)):
            continue
        rest = {name: own for name, own in axes.items() if name != axis}
        other = [number for own, number in numbers if own == rest | {axis: str(second)}]
        found += [(axes, value - other[0])] if other else []
    return found


def _holds(claim: StudyClaim, mean: float) -> bool:
    if claim.lies is not None:
        low, high = claim.lies.above, claim.lies.below
        return (low is None or mean > low - TIE) and (high is None or mean < high + TIE)
    if claim.test == "better":
        return mean > TIE
    return mean >= -claim.margin - TIE and (claim.test == "not_worse" or mean <= claim.margin + TIE)
