"""Grids as they stand on the page: every number a link to the runs that it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winning_tickets.report.study.cells import Cell, label
from winning_tickets.report.study.grid_text import texts
from winning_tickets.report.study.grids import Form, Grid
from winning_tickets.report.study.observations import Observation


@dataclass(frozen=True)
class PageCell:
    """A place of a table.

    Attributes:
        text: what stands there.
        sort: what it is sorted by; empty sorts last.
        href: where its number comes from; empty for the paper's numbers and for empty places.
        best: set in bold.
        look: `partial`, `absent`, `published` or empty.
    """

    text: str
    sort: str = ""
    href: str = ""
    best: bool = False
    look: str = ""


@dataclass(frozen=True)
class Evidence:
    """The single numbers behind a mean.

    Attributes:
        anchor: its id on the page.
        title: which place of which table.
        mean: as it stands there.
        parts: for each run its axes, its number or its state, and the id of the run.
    """

    anchor: str
    title: str
    mean: str
    parts: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class PageTable:
    """A table of the page."""

    grid: Grid
    rows: tuple[tuple[tuple[str, ...], tuple[PageCell, ...]], ...]
    evidence: tuple[Evidence, ...]


def run_anchor(run_id: str) -> str:
    """The id of a run's line on the page."""
    return f"run-{run_id}"


def page_table(grid: Grid) -> PageTable:
    """A grid for the page."""
    best = grid.best()
    rows = []
    evidence: list[Evidence] = []
    for row, (labels, line) in enumerate(zip(grid.rows, texts(grid), strict=True)):
        cells = []
        for column, (head, text) in enumerate(zip(grid.heads, line, strict=True)):
            cell = grid.cells.get((row, column))
            if cell is None:
                cells.append(_without_runs(grid, row, column, text))
                continue
            href = f"#{run_anchor(cell.run_ids[0])}"
            if len(cell.observations) > 1:
                anchor = f"from-{grid.stem}-{row}-{column}"
                title = ", ".join([*labels, head.label])
                evidence.append(evidence_of(anchor, title, text, cell, head.form))
                href = f"#{anchor}"
            cells.append(_cell(cell, text, href, (row, column) in best))
        rows.append((labels, tuple(cells)))
    return PageTable(grid, tuple(rows), tuple(evidence))


def _without_runs(grid: Grid, row: int, column: int, text: str) -> PageCell:
    paper = grid.published.get((row, column))
    return PageCell("") if paper is None else PageCell(text, repr(paper.value), look="published")


def _cell(cell: Cell, text: str, href: str, best: bool) -> PageCell:
    summary = cell.summary
    if summary is None:
        return PageCell(text, "", href, look="absent")
    return PageCell(text, repr(summary.mean), href, best, "partial" if cell.partial else "")


def evidence_of(anchor: str, title: str, mean: str, cell: Cell, form: Form) -> Evidence:
    """The numbers behind one place.

    Args:
        anchor: its id on the page.
        title: where the mean stands.
        mean: the mean as it stands there.
        cell: the runs.
        form: how a number is written.
    """
    shared = shared_axes([one.axes for one in cell.observations])
    parts = tuple(
        (own_axes(one, shared), one.state if one.value is None else form(one.value), run_anchor(one.run.id))
        for one in cell.observations
    )
    return Evidence(anchor, title, mean, parts)


def shared_axes(many: Sequence[Mapping[str, Any]]) -> set[str]:
    """The axes that have one and the same value everywhere; they need not be repeated."""
    first = many[0] if many else {}
    return {axis for axis, value in first.items() if all(axis in axes and axes[axis] == value for axes in many)}


def own_axes(one: Observation, shared: set[str]) -> str:
    """What tells a number apart from its neighbours."""
    return ", ".join(f"{axis} {label(value)}" for axis, value in one.axes.items() if axis not in shared)
