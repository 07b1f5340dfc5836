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


@dataclass(frozen=True)
class Cell:
    """What the runs at one place say together.

    Attributes:
        values: one for each repetition (such as a seed) that is complete.
        expected: repetitions that are planned.
        failed: repetitions in which some run failed.
        observations: all that the cell is made from, absent ones too.
    """

    values: tuple[float, ...]
    expected: int
    failed: int
    observations: tuple[Observation, ...]

    @property
    def n(self) -> int:
        """Repetitions that count."""
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
    def run_ids(self) -> tuple[str, ...]:
        """The runs it is made from, each once."""
        return tuple(dict.fromkeys(one.run.id for one in self.observations))

    @property
    def state_text(self) -> str:
        """What is not there: `(1 of 3)`, `(0 of 3, 2 failed)`; empty for a complete cell."""
        if not self.partial:
            return ""
        return f"({self.n} of {self.expected}{f', {self.failed} failed' if self.failed else ''})"

    def text(self, form: Callable[[float], str]) -> str:
        """Mean ± deviation, and how many runs there are where some are missing; a dash where there is none."""
        summary = self.summary
        if summary is None:
            return f"{tables.MISSING} {self.state_text}"
        deviation = "" if summary.std is None else f" ± {form(summary.std)}"
        return f"{form(summary.mean)}{deviation} {self.state_text}".rstrip()


def required(observations: Sequence[Observation], average: Sequence[str]) -> frozenset[Key]:
    """The places along the averaged axes that a repetition must have, so that all means are over the same ones."""
    return frozenset(_place(one, average) for one in observations)


def make_cell(
    observations: Sequence[Observation], average: Sequence[str] = (), needed: frozenset[Key] | None = None
) -> Cell:
    """One cell.

    Args:
        observations: of one place, in any state.
        average: axes that are averaged inside each repetition; what is left of the axes tells repetitions apart.
        needed: places along `average` that a repetition must have; None takes those that are here.
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
    """A cell whose one value is a statistic of its repetitions, once all of them are there; `mean` leaves it as it is.

    Args:
        cell: with all repetitions.
        statistic: `mean` or one of `STATISTICS`; a deviation needs two repetitions.
    """
    if statistic == "mean":
        return cell
    enough = not cell.partial and cell.n > (statistic == "std")
    values = (STATISTICS[statistic](cell.values),) if enough else ()
    return replace(cell, values=values, expected=min(1, cell.expected))


def _place(one: Observation, average: Sequence[str]) -> Key:
    return tuple(one.axes.get(axis) for axis in average)


def group(observations: Sequence[Observation], axes: Sequence[str]) -> dict[Key, list[Observation]]:
    """Observations by their values on some axes, in the order in which these are met first."""
    found: dict[Key, list[Observation]] = {}
    for one in observations:
        found.setdefault(tuple(one.axes.get(axis) for axis in axes), []).append(one)
    return found


def label(value: Any) -> str:
    """How a value of an axis is written; a sparsity as `0.7` is left as it is."""
    if value is None:
        return tables.MISSING
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def row_label(key: Sequence[Any]) -> str:
    """How a row of several axes is named."""
    return " / ".join(label(value) for value in key)


def slug(text: str) -> str:
    """A text as part of a file's name or of an address on the page."""
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


def form_of(path: str) -> Callable[[float], str]:
    """How the numbers at a path are written: fractions times 100, durations whole, all else with decimals."""
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
