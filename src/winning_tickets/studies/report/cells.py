"""Cells of a table and points of a figure: the numbers of several runs, with what is still missing."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from winning_tickets.analysis.report import tables
from winning_tickets.runs.statistics import Summary, summarise
from winning_tickets.studies.report.observations import Observation

Key = tuple[Any, ...]
Form = Callable[[float], str]


@dataclass(frozen=True)
class Cell:
    """The numbers of the runs at one place.

    Attributes:
        values: one for each complete repetition (such as a seed).
        expected: number of planned repetitions.
        failed: number of repetitions in which some run failed.
        observations: all that the cell is made from, absent ones too.
    """

    values: tuple[float, ...]
    expected: int
    failed: int
    observations: tuple[Observation, ...]

    @property
    def n(self) -> int:
        """Number of complete repetitions."""
        return len(self.values)

    @property
    def partial(self) -> bool:
        """Whether some repetition is missing or failed."""
        return self.n < self.expected

    @property
    def summary(self) -> Summary | None:
        """Mean, deviation and interval; None where no repetition is complete."""
        return summarise(self.values) if self.values else None

    @property
    def mean(self) -> float | None:
        """Mean of the repetitions; None where none is complete."""
        return self.summary.mean if self.summary else None

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs behind the cell, each once."""
        return tuple(dict.fromkeys(one.run.id for one in self.observations))

    def text(self, form: Form) -> str:
        """Mean ± deviation; of a partial cell also the number of repetitions, such as `(2 of 3, 1 failed)`."""
        summary, state = self.summary, ""
        if self.partial:
            state = f" ({self.n} of {self.expected}{f', {self.failed} failed' if self.failed else ''})"
        if summary is None:
            return f"{tables.MISSING}{state}"
        return form(summary.mean) + ("" if summary.std is None else f" ± {form(summary.std)}") + state


def required(observations: Sequence[Observation], average: Sequence[str]) -> frozenset[Key]:
    """The places along the averaged axes that each repetition must have, so that all means are over the same ones."""
    return frozenset(_place(one, average) for one in observations)


def make_cell(
    observations: Sequence[Observation], average: Sequence[str] = (), needed: frozenset[Key] | None = None
) -> Cell:
    """Put the numbers of one place together.

    Args:
        observations: of one place, in any state.
        average: axes that are averaged inside each repetition; the remaining axes tell repetitions apart.
        needed: places along `average` that a repetition must have; None for those in `observations`.
    """
    needed = required(observations, average) if needed is None else needed
    repetitions: dict[Key, list[Observation]] = {}
    # One run at several places of the grid (a search without chance under several seeds) is one number, not several.
    single = {(one.run.id, one.part, _place(one, average)): one for one in reversed(observations)}
    for one in reversed(single.values()):
        rest = tuple((axis, str(value)) for axis, value in sorted(one.axes.items()) if axis not in average)
        repetitions.setdefault(rest, []).append(one)
    values, failed = [], 0
    for own in repetitions.values():
        done = [one.value for one in own if one.value is not None]
        places = {_place(one, average) for one in own if one.value is not None}
        if len(done) == len(own) and places >= needed:
            values.append(sum(done) / len(done))
        failed += any(one.state == "failed" for one in own)
    return Cell(tuple(values), len(repetitions), failed, tuple(reversed(single.values())))


STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "best": max,
    "std": statistics.stdev,
}


def condensed(cell: Cell, statistic: str) -> Cell:
    """A cell whose only value is a statistic of its repetitions, once all of them are there; a mean stays as it is."""
    if statistic == "mean":
        return cell
    enough = not cell.partial and cell.n >= (2 if statistic == "std" else 1)
    values = (STATISTICS[statistic](cell.values),) if enough else ()
    return replace(cell, values=values, expected=min(1, cell.expected))


def _place(one: Observation, average: Sequence[str]) -> Key:
    return tuple(one.axes.get(axis) for axis in average)


def group(observations: Sequence[Observation], axes: Sequence[str]) -> dict[Key, list[Observation]]:
    """Observations by their values on some axes, in the order of their first occurrence."""
    found: dict[Key, list[Observation]] = {}
    for one in observations:
        found.setdefault(tuple(one.axes.get(axis) for axis in axes), []).append(one)
    return found


def label(value: Any) -> str:
    """The text of a value of an axis."""
    if value is None:
        return tables.MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)


def row_label(key: Sequence[Any]) -> str:
    """The name of a row of several axes."""
    return " / ".join(label(value) for value in key)


def slug(text: str) -> str:
    """A text as part of a file name or of an anchor."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "unnamed"


FRACTIONS = (
    "score",
    "metrics",
    "whole",
    "remaining",
    "accuracy",
    "similarity",
    "jaccard",
    "chance",
    "f1",
    "matthews",
    "sparsity",
    "pearson",
)


def form_of(path: str) -> Form:
    """The format of the numbers at a path: fractions times 100, durations whole, all else with decimals."""
    if any(word in path for word in FRACTIONS) and "loss" not in path:
        return tables.percent
    if path.endswith("seconds"):
        return tables.seconds
    return _number


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
