"""The data of a study's figures: series of points, matched clouds, and matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from winning_tickets.analysis.statistics import correlate
from winning_tickets.runs.files import is_number
from winning_tickets.studies.report.cells import Cell, Key, form_of, group, label, make_cell, required, row_label
from winning_tickets.studies.report.grids import Grid, Head, cells_note, with_published
from winning_tickets.studies.report.observations import (
    Observation,
    Run,
    absent_note,
    chosen,
    edited,
    observe,
    stages_of,
)
from winning_tickets.studies.schema import Figure, Published, Study, Value


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


def target_of(plot: Plot, panel: Panel) -> float | None:
    """The score that the lines of a panel are to reach; None where it is not known yet."""
    wanted = plot.figure.reach
    if wanted is None or isinstance(wanted, float):
        return wanted
    if wanted in panel.levels:
        summary = panel.levels[wanted].summary
        return None if summary is None else summary.mean
    means = [
        point.cell.summary.mean
        for series in panel.series
        for point in series.points
        if series.name == wanted and point.cell.summary is not None
    ]
    return max(means, default=None)


def reached(plot: Plot) -> list[str]:
    """A sentence for each line: where it first reaches the score, on measured positions and without interpolation."""
    if plot.figure.reach is None:
        return []
    sentences = []
    form = form_of(plot.path)
    for panel in plot.panels:
        target = target_of(plot, panel)
        where = f"{panel.title}: " if panel.title else ""
        if target is None:
            sentences.append(f"{where}{plot.figure.reach} has no number yet, so nothing can reach it.")
            continue
        for series in panel.series:
            if series.name == plot.figure.reach:
                continue
            first = next(
                (
                    point
                    for point in series.points
                    if point.cell.summary is not None and point.cell.summary.mean >= target
                ),
                None,
            )
            what = f"{where}{series.name or 'it'}"
            sentences.append(
                f"{what} does not reach {form(target)}."
                if first is None
                else f"{what} reaches {form(target)} first at {_axis(plot)} {label(first.x)}."
            )
    return sentences


def _axis(plot: Plot) -> str:
    x = plot.figure.x
    return plot.figure.x_label or (x if isinstance(x, str) else x.value)


def plot_grid(plot: Plot, published: Iterable[Published] = ()) -> Grid:
    """The table of a figure.

    Args:
        plot: its data.
        published: numbers of the paper; those of this figure are taken.
    """
    figure = plot.figure
    measured = isinstance(figure.x, Value)
    rows, columns, cells = _matched(plot, figure.x) if isinstance(figure.x, Value) else _by_position(plot)
    axes = [figure.panels] if figure.panels else []
    axes += [figure.series or "series", "runs"] if measured else [figure.series or "series"]
    notes = [cells_note(list(cells.values()))] if cells else []
    if any(cell.partial for cell in cells.values()):
        notes += [_PARTIAL[figure.kind]]
    notes += reached(plot)
    grid = Grid(
        plot.name,
        figure.title or plot.name,
        tuple(axes),
        tuple(rows),
        tuple(columns),
        cells,
        {},
        tuple(notes),
        plot.problems,
        "figure",
    )
    return with_published(grid, published)


_PARTIAL = {
    "line": "Partial points are hollow.",
    "bar": "Partial bars are hatched.",
    "scatter": "Partial points are not drawn.",
    "heatmap": "Partial values carry a star.",
}

Parts = tuple[list[tuple[str, ...]], list[Head], dict[tuple[int, int], Cell]]


def _by_position(plot: Plot) -> Parts:
    """A row for each line, a column for each position; a heat map as it is."""
    form = form_of(plot.path)
    places: list[tuple[tuple[str, ...], str, Cell]] = []
    for panel in plot.panels:
        start = (panel.title,) if plot.figure.panels else ()
        places += [((*start, row), column, cell) for (row, column), cell in panel.matrix.items()]
        places += [
            ((*start, series.name), label(point.x), point.cell) for series in panel.series for point in series.points
        ]
        places += [((*start, name), "level", cell) for name, cell in panel.levels.items()]
    rows = list(dict.fromkeys(row for row, _, _ in places))
    names = sorted(dict.fromkeys(column for _, column, _ in places), key=_position)
    cells = {(rows.index(row), names.index(column)): cell for row, column, cell in places}
    return rows, [Head(name, form) for name in names], cells


def _position(name: str) -> tuple[int, float]:
    """Numbers in their order; labels as they were met, the level last."""
    if name == "level":
        return (2, 0.0)
    try:
        return (0, float(name))
    except ValueError:
        return (1, 0.0)


def _matched(plot: Plot, x: Value) -> Parts:
    """A row for each point, a column for each of its two values."""
    rows: list[tuple[str, ...]] = []
    cells: dict[tuple[int, int], Cell] = {}
    for panel in plot.panels:
        start = (panel.title,) if plot.figure.panels else ()
        for series in panel.series:
            for point in series.points:
                if point.across is not None:
                    cells[len(rows), 0] = point.across
                cells[len(rows), 1] = point.cell
                rows.append((*start, series.name, point.name))
        for name, cell in panel.levels.items():
            cells[len(rows), 1] = cell
            rows.append((*start, name, "level"))
    heads = [Head(_name(x.value), form_of(x.value)), Head(_name(plot.path), form_of(plot.path))]
    return rows, heads, cells


def _name(path: str) -> str:
    return path.replace("_", " ")
