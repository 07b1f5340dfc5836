"""The data of a study's figures: series of points, matched clouds, and matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from winning_tickets.correlation import correlate
from winning_tickets.files import is_number
from winning_tickets.report.study.cells import Cell, Key, group, label, make_cell, required, row_label
from winning_tickets.report.study.observations import Observation, absent_note, edited, observe
from winning_tickets.report.study.runs import Run
from winning_tickets.report.study.select import chosen, stages_of
from winning_tickets.study.schema import Figure, Study, Value


@dataclass(frozen=True)
class Point:
    """A mean with its deviation.

    Attributes:
        x: position: a number, or a label.
        cell: what is above it.
        name: which runs it stands for, where the position does not say it.
        across: of a scatter or of a measured x: the cell that the position comes from.
    """

    x: Any
    cell: Cell
    name: str = ""
    across: Cell | None = None


@dataclass(frozen=True)
class Series:
    """A line, a set of bars, or a cloud."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: value of the panels' axis; empty where there is one panel.
        series: what is drawn.
        levels: horizontal lines by name.
        matrix: of a heat map, by label of row and column.
        correlation: of a scatter, as `correlation.correlate` gives it.
    """

    title: str
    series: tuple[Series, ...] = ()
    levels: Mapping[str, Cell] = field(default_factory=dict)
    matrix: Mapping[tuple[str, str], Cell] = field(default_factory=dict)
    correlation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Plot:
    """A figure's data.

    Attributes:
        name: of its files and its anchor.
        figure: what declares it.
        path: of the values that are drawn, for their format.
        panels: one or more.
        problems: what is wrong with its declaration.
    """

    name: str
    figure: Figure
    path: str
    panels: tuple[Panel, ...]
    problems: tuple[str, ...] = ()

    @property
    def cells(self) -> list[Cell]:
        """All that is drawn."""
        return [
            cell
            for panel in self.panels
            for cell in (
                *(point.cell for series in panel.series for point in series.points),
                *panel.levels.values(),
                *panel.matrix.values(),
            )
        ]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw yet."""
        return not any(cell.n for cell in self.cells)


def plot_of(study: Study, name: str, runs: Sequence[Run]) -> Plot:
    """The data of one of the study's figures.

    Args:
        study: what declares it.
        name: of the figure.
        runs: all planned runs of the study.
    """
    figure = study.figures[name]
    stages, path = _source(figure)
    observations = observe(chosen(runs, stages, figure.where), path)
    panels = group(observations, [figure.panels]) if figure.panels else {("",): observations}
    needed = required(observations, figure.average)
    drawn = []
    for (key,), own in panels.items():
        title = label(key) if figure.panels else ""
        if figure.kind == "heatmap":
            drawn.append(Panel(title, matrix=_matrix(figure, path, own, needed)))
            continue
        series = _series(figure, own, needed, runs)
        levels = _levels(figure, path, runs, key)
        drawn.append(Panel(title, series, levels, correlation=_correlation(series) if _measured(figure) else None))
    plot = Plot(name, figure, path, tuple(drawn))
    return plot if not plot.empty else replace(plot, problems=tuple(_problems(name, figure, path, runs)))


def _problems(name: str, figure: Figure, path: str, runs: Sequence[Run]) -> list[str]:
    stages, _ = _source(figure)
    return [f"{name}: {text}" for text in absent_note(path, chosen(runs, stages, figure.where))]


def _source(figure: Figure) -> tuple[tuple[str, ...], str]:
    if isinstance(figure.y, Value):
        return (figure.y.stage,), figure.y.value
    return stages_of(figure.stage), figure.y


def _measured(figure: Figure) -> bool:
    return isinstance(figure.x, Value)


def _series(
    figure: Figure, observations: Sequence[Observation], needed: frozenset[Key], runs: Sequence[Run]
) -> tuple[Series, ...]:
    groups = group(observations, [figure.series]) if figure.series else {("",): list(observations)}
    found = []
    for (key,), own in groups.items():
        points = (
            matched(figure.x, own, runs, figure.average)
            if isinstance(figure.x, Value)
            else [
                Point(x, make_cell(inside, figure.average, needed)) for (x,), inside in group(own, [figure.x]).items()
            ]
        )
        if figure.kind != "bar" and all(isinstance(point.x, int | float) for point in points):
            points = sorted(points, key=lambda point: float(point.x))
        found.append(Series(label(key) if figure.series else "", tuple(points)))
    return tuple(found)


def matched(
    x: Value, observations: Sequence[Observation], runs: Sequence[Run], average: Sequence[str] = ()
) -> list[Point]:
    """Points of two stages, matched by the axes that both have; axes that only one has are averaged.

    Args:
        x: what the positions are measured by.
        observations: of the other stage.
        runs: all planned runs of the study.
        average: axes of theirs that are averaged even where both stages have them.
    """
    across = observe(chosen(runs, (x.stage,)), x.value)
    shared = [axis for axis in common_axes(observations, across) if axis not in average]
    positions = group(across, shared)
    points = []
    for key, own in group(observations, shared).items():
        cell = make_cell(own, _others(own, shared))
        here = positions.get(key)
        if here is None:
            continue
        position = make_cell(here, _others(here, shared))
        x_mean = position.summary.mean if position.summary else None
        points.append(Point(x_mean, cell, row_label(key), position))
    return points


def common_axes(first: Sequence[Observation], second: Sequence[Observation]) -> list[str]:
    """The axes that every record of both has."""
    sets = [set(one.axes) for one in (*first, *second)]
    return sorted(set.intersection(*sets)) if first and second else []


def _others(observations: Sequence[Observation], shared: Sequence[str]) -> list[str]:
    return sorted({axis for one in observations for axis in one.axes} - set(shared))


def _levels(figure: Figure, path: str, runs: Sequence[Run], panel: Any) -> dict[str, Cell]:
    """The mean of each stage drawn as a line, over the places that the figure averages."""
    found = {}
    for level in figure.level:
        stage, own_path = (level, path) if isinstance(level, str) else (level.stage, level.value)
        own = observe(chosen(runs, (stage,)), own_path)
        if figure.panels and any(figure.panels in one.axes for one in own):
            own = [one for one in own if one.axes.get(figure.panels) == panel]
        if own:
            found[stage] = make_cell(own, figure.average)
    return found


def _correlation(series: Sequence[Series]) -> Mapping[str, Any]:
    pairs = [
        (float(point.x), point.cell.summary.mean)
        for one in series
        for point in one.points
        if point.x is not None and point.cell.summary is not None and not point.cell.partial
    ]
    return correlate([x for x, _ in pairs], [y for _, y in pairs])


def _matrix(
    figure: Figure, path: str, observations: Sequence[Observation], needed: frozenset[Key]
) -> dict[tuple[str, str], Cell]:
    found: dict[tuple[str, str], Cell] = {}
    for run in {one.run.id: one.run for one in observations}.values():
        found |= _stored_matrix(run, path)
    if found:
        return found
    axes = [figure.series, figure.x] if figure.series else [figure.x]
    for key, own in group(observations, [str(axis) for axis in axes]).items():
        row = label(key[0]) if figure.series else ""
        found[row, label(key[-1])] = make_cell(own, figure.average, needed)
    return found


def _stored_matrix(run: Run, path: str) -> dict[tuple[str, str], Cell]:
    """A matrix inside one result, as those of `compare` and `analyse similarity`; empty where there is none."""
    result = run.result or {}
    node = result.get(path)
    names = result.get("labels", result.get("names"))
    if not (isinstance(node, list) and node and isinstance(node[0], list) and isinstance(names, list)):
        return {}
    whole = len(node) == len(names) and all(isinstance(line, list) and len(line) == len(names) for line in node)
    if not whole or not all(value is None or is_number(value) for line in node for value in line):
        raise edited(run, f"has a {path} that is no matrix of numbers for its {len(names)} names")
    return {
        (label(row), label(column)): Cell(
            (float(value),), 1, 0, (Observation(run, {"row": row, "column": column}, "done", float(value)),)
        )
        for row, line in zip(names, node, strict=True)
        for column, value in zip(names, line, strict=True)
        if value is not None
    }
