"""The data of a study's figures: series of points, matched clouds, and matrices; and the tables of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from winning_tickets.analysis.statistics import correlate
from winning_tickets.runs.files import is_number
from winning_tickets.studies.report import grids
from winning_tickets.studies.report.grids import Cell, Form, Key, form_of, group_by, label, make_cell
from winning_tickets.studies.report.observations import (
    Observation,
    StudyRun,
    describe_absent,
    edited_error,
    observe,
    select_runs,
)
from winning_tickets.studies.schema import Figure, Published, Study, Value


@dataclass(frozen=True)
class PlotPoint:
    """A cell with its position: a number, a label, or the mean of another cell (`across`); `name` tells the runs."""

    x: Any
    cell: Cell
    name: str = ""
    across: Cell | None = None


@dataclass(frozen=True)
class Curve:
    """The points of a line, of a set of bars, or of a cloud."""

    name: str
    points: tuple[PlotPoint, ...]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: curves and horizontal levels, with a correlation of clouds, or the matrix of a heat map."""

    title: str
    curves: tuple[Curve, ...] = ()
    levels: Mapping[str, Cell] = field(default_factory=dict)
    matrix: Mapping[tuple[str, str], Cell] = field(default_factory=dict)
    correlation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Plot:
    """A figure's data; the path is that of the drawn values."""

    name: str
    figure: Figure
    path: str
    panels: tuple[Panel, ...]
    problems: tuple[str, ...] = ()

    @property
    def cells(self) -> list[Cell]:
        return [
            cell
            for panel in self.panels
            for cell in (
                *(point.cell for curve in panel.curves for point in curve.points),
                *panel.levels.values(),
                *panel.matrix.values(),
            )
        ]

    @property
    def empty(self) -> bool:
        return not any(cell.n for cell in self.cells)

    @property
    def x_name(self) -> str:
        return self.figure.x if isinstance(self.figure.x, str) else self.figure.x.value


def plot_of(study: Study, name: str, runs: Sequence[StudyRun]) -> Plot:
    """The data of one of the study's figures, from all its planned runs."""
    figure = study.figures[name]
    stage, path = (figure.stage, figure.y) if isinstance(figure.y, str) else (figure.y.stage, figure.y.value)
    own = select_runs(runs, stage, figure.where)
    observations = observe(own, path)
    needed = grids.required_places(observations, figure.average)
    drawn = []
    for (key,), inside in group_by(observations, [figure.panels]).items() if figure.panels else [(("",), observations)]:
        title = label(key) if figure.panels else ""
        if figure.kind == "heatmap":
            drawn.append(Panel(title, matrix=_matrix(figure, path, inside, needed)))
            continue
        curves = _curves(figure, inside, needed, runs)
        correlation = None
        if isinstance(figure.x, Value):
            correlation = correlate(*zip_pairs([point for curve in curves for point in curve.points]))
        drawn.append(Panel(title, curves, _levels(figure, path, runs, key), correlation=correlation))
    plot = Plot(name, figure, path, tuple(drawn))
    if not plot.empty:
        return plot
    return replace(plot, problems=tuple(f"{name}: {text}" for text in describe_absent(path, own)))


def zip_pairs(points: Sequence[PlotPoint]) -> tuple[list[float], list[float]]:
    """Positions and values of the points that are complete."""
    complete = [(float(point.x), point.cell.mean) for point in points if point.x is not None and not point.cell.partial]
    pairs = [(x, y) for x, y in complete if y is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _curves(
    figure: Figure, observations: Sequence[Observation], needed: frozenset[Key], runs: Sequence[StudyRun]
) -> tuple[Curve, ...]:
    groups = group_by(observations, [figure.series]) if figure.series else {("",): list(observations)}
    found = []
    for (key,), own in groups.items():
        if isinstance(figure.x, Value):
            points = match_points(figure.x, own, runs, figure.average)
        else:
            places = group_by(own, [figure.x]).items()
            points = [PlotPoint(x, make_cell(inside, figure.average, needed)) for (x,), inside in places]
        if figure.kind != "bar" and all(isinstance(point.x, int | float) for point in points):
            points.sort(key=lambda point: float(point.x))
        found.append(Curve(label(key) if figure.series else "", tuple(points)))
    return tuple(found)


def match_points(
    x: Value, observations: Sequence[Observation], runs: Sequence[StudyRun], average: Sequence[str] = ()
) -> list[PlotPoint]:
    """Points of two stages, matched by the axes that both have; other axes and those of `average` are averaged."""
    across = observe(select_runs(runs, x.stage), x.value)
    shared = [axis for axis in common_axes(observations, across) if axis not in average]
    positions = group_by(across, shared)
    points = []
    for key, own in group_by(observations, shared).items():
        if key in positions:
            position = make_cell(positions[key], other_axes(positions[key], shared))
            points.append(
                PlotPoint(position.mean, make_cell(own, other_axes(own, shared)), grids.row_label(key), position)
            )
    return points


def common_axes(first: Sequence[Observation], second: Sequence[Observation]) -> list[str]:
    """The axes that all observations of both have."""
    sets = [set(one.axes) for one in (*first, *second)]
    return sorted(set.intersection(*sets)) if first and second else []


def other_axes(observations: Sequence[Observation], axes: Sequence[str]) -> list[str]:
    """The axes of observations that are not among these."""
    return sorted({axis for one in observations for axis in one.axes} - set(axes))


def _levels(figure: Figure, path: str, runs: Sequence[StudyRun], panel: Any) -> dict[str, Cell]:
    """The mean of each stage drawn as a line, over the places that the figure averages."""
    found = {}
    for level in figure.level:
        value = Value(stage=level, value=path) if isinstance(level, str) else level
        own = observe(select_runs(runs, value.stage, value.where), value.value)
        if figure.panels and any(figure.panels in one.axes for one in own):
            own = [one for one in own if one.axes.get(figure.panels) == panel]
        if own:
            found[value.name or value.stage] = make_cell(own, figure.average)
    return found


def _matrix(
    figure: Figure, path: str, observations: Sequence[Observation], needed: frozenset[Key]
) -> dict[tuple[str, str], Cell]:
    found: dict[tuple[str, str], Cell] = {}
    for run in {one.run.id: one.run for one in observations}.values():
        found |= _stored_matrix(run, path)
    if found:
        return found
    axes = [figure.series, str(figure.x)] if figure.series else [str(figure.x)]
    for key, own in group_by(observations, axes).items():
        row = label(key[0]) if figure.series else ""
        found[row, label(key[-1])] = make_cell(own, figure.average, needed)
    return found


def _stored_matrix(run: StudyRun, path: str) -> dict[tuple[str, str], Cell]:
    """A matrix inside one result, such as that of `compare` or `analyse similarity`; empty where there is none."""
    result = run.result or {}
    node = result.get(path)
    names = result.get("labels", result.get("names"))
    if not (isinstance(node, list) and node and isinstance(node[0], list) and isinstance(names, list)):
        return {}
    whole = len(node) == len(names) and all(isinstance(line, list) and len(line) == len(names) for line in node)
    if not whole or not all(value is None or is_number(value) for line in node for value in line):
        raise edited_error(run, f"has a {path} that is no matrix of numbers for its {len(names)} names")
    return {
        (label(row), label(column)): Cell(
            (float(value),), 1, 0, (Observation(run, {"row": row, "column": column}, "done", float(value)),)
        )
        for row, line in zip(names, node, strict=True)
        for column, value in zip(names, line, strict=True)
        if value is not None
    }


def describe_reached(plot: Plot) -> list[str]:
    """A sentence for each line: where it first reaches the score, on measured positions and without interpolation."""
    figure, form = plot.figure, form_of(plot.path)
    sentences = []
    for panel in plot.panels if figure.reach is not None else ():
        target = _target(figure.reach, panel)
        where = f"{panel.title}: " if panel.title else ""
        if target is None:
            sentences.append(f"{where}{figure.reach} has no number yet, so nothing can reach it.")
            continue
        for curve in panel.curves:
            if curve.name == figure.reach:
                continue
            points = [(point.x, point.cell.mean) for point in curve.points]
            first = next((x for x, mean in points if mean is not None and mean >= target), None)
            how = f"reaches {form(target)} first at {figure.x_label or plot.x_name} {label(first)}"
            how = how if first is not None else f"does not reach {form(target)}"
            sentences.append(f"{where}{curve.name or 'it'} {how}.")
    return sentences


def _target(wanted: str | float | None, panel: Panel) -> float | None:
    if wanted is None or isinstance(wanted, float):
        return wanted
    if wanted in panel.levels:
        return panel.levels[wanted].mean
    means = [point.cell.mean for curve in panel.curves if curve.name == wanted for point in curve.points]
    return max((mean for mean in means if mean is not None), default=None)


_PARTIAL = {
    "line": "Partial points are hollow.",
    "bar": "Partial bars are hatched.",
    "scatter": "Partial points are not drawn.",
    "heatmap": "Partial values have a star.",
}

Parts = tuple[list[tuple[str, ...]], list[tuple[str, Form]], dict[tuple[int, int], Cell]]


def plot_grid(plot: Plot, published: Iterable[Published] = ()) -> grids.Grid:
    """The table of a figure, with the numbers of the paper for it."""
    figure = plot.figure
    rows, heads, cells = _by_point(plot, figure.x) if isinstance(figure.x, Value) else _by_position(plot)
    axes = [figure.panels] if figure.panels else []
    axes += [figure.series or "series", *(["runs"] if isinstance(figure.x, Value) else [])]
    notes = [grids.describe_cells(list(cells.values()))] if cells else []
    if any(cell.partial for cell in cells.values()):
        notes.append(_PARTIAL[figure.kind])
    notes += [*describe_reached(plot), *([figure.note] if figure.note else [])]
    further: dict[str, Any] = {"title": figure.title or plot.name, "problems": plot.problems, "kind": "figure"}
    return grids.make_grid(plot.name, axes, rows, heads, cells, published, notes=notes, **further)


def _by_position(plot: Plot) -> Parts:
    """A row for each line, a column for each position; a heat map as it is."""
    places: list[tuple[tuple[str, ...], str, Cell]] = []
    for panel in plot.panels:
        start = (panel.title,) if plot.figure.panels else ()
        places += [((*start, row), column, cell) for (row, column), cell in panel.matrix.items()]
        places += [((*start, one.name), label(point.x), point.cell) for one in panel.curves for point in one.points]
        places += [((*start, name), "level", cell) for name, cell in panel.levels.items()]
    rows = list(dict.fromkeys(row for row, _, _ in places))
    names = sorted(dict.fromkeys(column for _, column, _ in places), key=_position)
    cells = {(rows.index(row), names.index(column)): cell for row, column, cell in places}
    return rows, [(name, form_of(plot.path)) for name in names], cells


def _position(name: str) -> tuple[int, float]:
    """Sort numbers first, then labels in the order of their occurrence, then the level."""
    if name == "level":
        return (2, 0.0)
    try:
        return (0, float(name))
    except ValueError:
        return (1, 0.0)


def _by_point(plot: Plot, x: Value) -> Parts:
    """A row for each point, a column for each of its two values."""
    rows: list[tuple[str, ...]] = []
    cells: dict[tuple[int, int], Cell] = {}
    for panel in plot.panels:
        start = (panel.title,) if plot.figure.panels else ()
        points = [
            (curve.name, point.name, point.across, point.cell) for curve in panel.curves for point in curve.points
        ]
        levels = [(name, "level", None, cell) for name, cell in panel.levels.items()]
        for name, place, across, cell in [*points, *levels]:
            if across is not None:
                cells[len(rows), 0] = across
            cells[len(rows), 1] = cell
            rows.append((*start, name, place))
    return rows, [(path.replace("_", " "), form_of(path)) for path in (x.value, plot.path)], cells
