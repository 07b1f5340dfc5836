"""The data of a study's figures: series of points, clouds of matched points, matrices and pies; and their tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from winning_tickets.report.correlations import correlate, correlate_within
from winning_tickets.report.effects import clustered_correlation
from winning_tickets.report.tables import format_count, percent
from winning_tickets.runs.files import is_number
from winning_tickets.runs.statistics import TIE
from winning_tickets.studies.analysis.results import method_name
from winning_tickets.studies.expressions import is_reference, number_of, without_axes
from winning_tickets.studies.references import target_id
from winning_tickets.studies.report import grids
from winning_tickets.studies.report.grids import (
    Cell,
    Form,
    average_others,
    common_axes,
    form_of,
    group_by,
    label,
    make_cell,
    subtract,
)
from winning_tickets.studies.report.observations import (
    Key,
    Observation,
    StudyRun,
    absent_values,
    edited_error,
    observe_value,
    select_runs,
)
from winning_tickets.studies.schema import Figure, Published, Study, Value


@dataclass(frozen=True)
class PlotPoint:
    """A cell with its position: a number, a label, or the mean of the cell `across`; `name` identifies the runs."""

    x: Any
    cell: Cell
    name: str = ""
    across: Cell | None = None
    method: str = ""  # method that found the ticket; points of one method are not independent

    @property
    def complete(self) -> bool:
        return self.x is not None and not self.cell.partial and self.cell.mean is not None


@dataclass(frozen=True)
class Curve:
    """The points of a line, of a set of bars, or of a cloud."""

    name: str
    points: tuple[PlotPoint, ...]
    gap: bool = False  # the difference of two other lines


@dataclass(frozen=True)
class Panel:
    """One pair of axes: curves and levels, with the correlation of a cloud; the matrix of a heat map; or pies."""

    title: str
    curves: tuple[Curve, ...] = ()
    levels: Mapping[str, Cell] = field(default_factory=dict)
    points: Mapping[str, PlotPoint] = field(default_factory=dict)  # further points of a cloud, besides its curves
    matrix: Mapping[tuple[str, str], Cell] = field(default_factory=dict)
    marked: frozenset[tuple[str, str]] = frozenset()  # dark cells of a matrix
    counts: Mapping[str, Cell] = field(default_factory=dict)  # number of dark cells by row
    correlation: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None  # result of `analyse sharing`, for pies


@dataclass(frozen=True)
class Plot:
    """The data of a figure; `path` is the path of the drawn values in a result."""

    name: str
    figure: Figure
    path: str
    panels: tuple[Panel, ...]
    problems: tuple[str, ...] = ()

    @property
    def points(self) -> list[PlotPoint]:
        """The points of all curves."""
        return [point for panel in self.panels for curve in panel.curves for point in curve.points]

    @property
    def empty(self) -> bool:
        points = [*self.points, *(point for panel in self.panels for point in panel.points.values())]
        drawn = [cell for panel in self.panels for cell in (*panel.levels.values(), *panel.matrix.values())]
        return not any(cell.n for cell in (*(point.cell for point in points), *drawn))

    @property
    def x_name(self) -> str:
        return self.figure.x if isinstance(self.figure.x, str) else self.figure.x.value

    @property
    def form(self) -> Form:
        """The format of the drawn values."""
        return form_of(self.path, signed=self.figure.minus is not None)


def plot_of(study: Study, name: str, runs: Sequence[StudyRun]) -> Plot:
    """Return the data of one of the study's figures, made from all its planned runs."""
    figure = study.figures[name]
    path = figure.drawn.value
    if figure.kind == "pies":
        return Plot(name, figure, "share", tuple(_pies(figure, select_runs(runs, figure.drawn))))
    observations = subtract(observe_value(runs, figure.drawn), figure.minus, runs)
    needed = grids.required_places(observations, figure.average)
    drawn = []
    for key, inside in _split(observations, figure.panels).items():
        title = grids.panel_title(figure.panels, key)
        if figure.kind == "heatmap":
            drawn.append(_mark(figure, Panel(title, matrix=_matrix(figure, path, inside, needed)), runs))
            continue
        curves = _curves(figure, inside, needed, runs)
        correlation = None
        if isinstance(figure.x, Value):
            correlation = correlate_points([point for curve in curves for point in curve.points])
        levels, points = _levels(figure, path, runs, key), _points(figure, runs, key)
        drawn.append(Panel(title, curves, levels, points, correlation=correlation))
    plot = Plot(name, figure, path, tuple(drawn))
    return replace(plot, problems=absent_values(name, [figure.drawn], runs)) if plot.empty else plot


def correlate_points(points: Sequence[PlotPoint]) -> dict[str, Any]:
    """Return both correlations of the complete points; the interval of r leaves out one method after the other."""
    xs, ys, methods = coordinates([point for point in points if point.complete])
    effect = clustered_correlation(xs, ys, methods)
    return {
        **correlate(xs, ys),
        "pearson_interval": None if effect is None else effect.interval,
        "within_method": correlate_within(xs, ys, methods),
    }


def coordinates(points: Sequence[PlotPoint]) -> tuple[list[float], list[float], list[str]]:
    """Return the positions, the means and the methods of complete points."""
    xs, ys = [float(point.x) for point in points], [point.cell.mean or 0.0 for point in points]
    return xs, ys, [point.method for point in points]


def _split(observations: Sequence[Observation], axis: str | None) -> dict[Any, Sequence[Observation]]:
    """Return observations by their values on an axis; without an axis, all of them by an empty text."""
    if not axis:
        return {"": observations}
    return {key: own for (key,), own in group_by(observations, [axis]).items()}


def _curves(
    figure: Figure, observations: Sequence[Observation], needed: frozenset[Key], runs: Sequence[StudyRun]
) -> tuple[Curve, ...]:
    found = []
    for key, own in _split(observations, figure.series).items():
        if isinstance(figure.x, Value):
            points = match_points(figure.x, own, runs, figure.average)
        else:
            places = _split(own, figure.x).items()
            points = [PlotPoint(x, make_cell(inside, figure.average, needed)) for x, inside in places]
            if figure.x_at is not None:
                points = _move(points, figure.x, figure.x_at, own, runs=runs)
        if figure.kind != "bar":
            # Words such as `all` come after the numbers.
            points.sort(key=lambda point: float(point.x) if isinstance(point.x, int | float) else float("inf"))
        found.append(Curve(label(key), tuple(points)))
    if figure.gap is not None:
        found += _gap(*figure.gap, found)
    return tuple(found)


def _move(
    points: Sequence[PlotPoint], axis: str, at: Value, observations: Sequence[Observation], *, runs: Sequence[StudyRun]
) -> list[PlotPoint]:
    """Return points moved to the mean of another value, such as the hours after so many steps; drop those without."""
    steps = frozenset(point.x for point in points)
    across = observe_value(runs, at, steps)
    shared = [other for other in common_axes(observations, across) if other != axis]
    own = grids.required_places(observations, shared)
    moved = []
    for point in points:
        cell = make_cell([one for one in across if one.axes.get(axis) == point.x and one.place(shared) in own])
        if cell.observations:
            moved.append(replace(point, x=cell.mean, name=label(point.x), across=cell))
    return moved


def _gap(first: str, second: str, curves: Sequence[Curve]) -> list[Curve]:
    """Return the difference of two lines as a curve, at positions that both have; incomplete points have no value."""
    points = {curve.name: {point.x: point.cell for point in curve.points} for curve in curves}
    found = []
    for x, upper in points.get(first, {}).items():
        lower = points.get(second, {}).get(x)
        if lower is not None:
            ends = (upper.mean, lower.mean)
            values = () if None in ends or upper.partial or lower.partial else ((ends[0] or 0.0) - (ends[1] or 0.0),)
            found.append(PlotPoint(x, Cell(values, 1, 0, (*upper.observations, *lower.observations))))
    return [Curve(f"{first} - {second}", tuple(found), gap=True)] if found else []


def match_points(
    x: Value, observations: Sequence[Observation], runs: Sequence[StudyRun], average: Sequence[str]
) -> list[PlotPoint]:
    """Return points of two stages, matched by their common axes; other axes and those of `average` are averaged."""
    across = observe_value(runs, x)
    shared = [axis for axis in common_axes(observations, across) if axis not in average]
    positions = group_by(across, shared)
    searches = {run.id: run for run in runs if run.verb == "search"}
    points = []
    for key, own in group_by(observations, shared).items():
        if key in positions:
            position, cell = average_others(positions[key], shared), average_others(own, shared)
            points.append(PlotPoint(position.mean, cell, grids.row_label(key), position, _method(own[0].run, searches)))
    return points


def _method(run: StudyRun, searches: Mapping[str, StudyRun]) -> str:
    """Return the method that found the run's ticket, with its objective; without a search, the run's axis or its id."""
    target = run.config.get("target")
    search = searches.get(target_id(str(target))) if is_reference(target) else None
    if search is None:
        return str(run.axes.get("method", run.id))
    settings = {**dict(search.settings or ()), **search.config}
    return method_name(str(settings.get("method", search.id)), settings.get("objective"))


def _levels(figure: Figure, path: str, runs: Sequence[StudyRun], panel: Any) -> dict[str, Cell]:
    """Return the mean of each stage or value that is drawn as a horizontal line, over the axes that are averaged."""
    found = {}
    for level in figure.level:
        value = level if isinstance(level, Value) else _level_of(level, path, figure, runs)
        own = _in_panel(figure, observe_value(runs, value), panel)
        if own:
            found[value.title] = make_cell(own, figure.average)
    return found


def _level_of(stage: str, path: str, figure: Figure, runs: Sequence[StudyRun]) -> Value:
    """Return the values of a stage, named by the runs' value on the axis of the lines if all have the same."""
    series = figure.series or ""
    names = {str(run.axes[series]) for run in runs if run.stage == stage and series in run.axes}
    return Value(stage=stage, value=path, name=names.pop() if len(names) == 1 else None)


def _points(figure: Figure, runs: Sequence[StudyRun], panel: Any) -> dict[str, PlotPoint]:
    """Return the further points of a cloud, such as the full model: the means of all their runs."""
    found = {}
    for name, point in figure.points.items():
        x, y = (_in_panel(figure, observe_value(runs, one), panel) for one in (point.x, point.y))
        if x and y:
            across = average_others(x)
            found[name] = PlotPoint(across.mean, make_cell(y, figure.average), "point", across)
    return found


def _in_panel(figure: Figure, observations: list[Observation], panel: Any) -> list[Observation]:
    """Return the observations of one panel; those without its axis belong to all panels."""
    if not figure.panels or not any(figure.panels in one.axes for one in observations):
        return observations
    return [one for one in observations if one.axes.get(figure.panels) == panel]


def _matrix(
    figure: Figure, path: str, observations: Sequence[Observation], needed: frozenset[Key]
) -> dict[tuple[str, str], Cell]:
    found: dict[tuple[str, str], Cell] = {}
    for run in {one.run.id: one.run for one in observations}.values():
        found |= _stored_matrix(run, path)
    return found or {
        (label(row) if figure.series else "", label(column)): make_cell(own, figure.average, needed)
        for (row, column), own in group_by(observations, [figure.series or "", str(figure.x)]).items()
    }


def _stored_matrix(run: StudyRun, path: str) -> dict[tuple[str, str], Cell]:
    """Return a matrix inside one result, such as that of `compare`; empty if there is none."""
    result = run.result or {}
    node = result.get(path)
    names = result.get("labels", result.get("names"))
    if not (isinstance(node, list) and node and isinstance(node[0], list) and isinstance(names, list)):
        return {}
    whole = len(node) == len(names) and all(isinstance(line, list) and len(line) == len(names) for line in node)
    if not whole or not all(value is None or is_number(value) for line in node for value in line):
        raise edited_error(run, f"has a {path} that is no matrix of numbers for its {len(names)} names")
    return {
        (label(row), label(column)): _stored_cell(run, value, row=row, column=column)
        for row, line in zip(names, node, strict=True)
        for column, value in zip(names, line, strict=True)
        if value is not None
    }


def _stored_cell(run: StudyRun, value: float, **axes: Any) -> Cell:
    """Return the cell of one number inside a result."""
    return Cell((float(value),), 1, 0, (Observation(run, axes, "done", float(value)),))


def _mark(figure: Figure, panel: Panel, runs: Sequence[StudyRun]) -> Panel:
    """Return the panel of a heat map with its dark cells, which reach a limit, and with their number in each row."""
    if figure.mark_at_least is None:
        return panel
    limits = _limits(figure, panel, runs)
    reached = {
        place
        for place, cell in panel.matrix.items()
        if cell.mean is not None and (limit := limits.get(place[1])) is not None and cell.mean >= limit - TIE
    }
    counts = {}
    for row in dict.fromkeys(row for row, _ in panel.matrix) if figure.count else ():
        own = {place: cell for place, cell in panel.matrix.items() if place[0] == row}
        # A row has a count only if all its cells are complete and have a limit to compare with.
        whole = all(not cell.partial and limits.get(place[1]) is not None for place, cell in own.items())
        observations = tuple(one for cell in own.values() for one in cell.observations)
        failed = int(any(cell.failed for cell in own.values()))
        counts[row] = Cell((float(len(reached & own.keys())),) if whole else (), 1, failed, observations)
    return replace(panel, marked=frozenset(reached), counts=counts)


def _limits(figure: Figure, panel: Panel, runs: Sequence[StudyRun]) -> dict[str, float | None]:
    """Return by column the number that a dark cell must reach."""
    wanted, columns = figure.mark_at_least, dict.fromkeys(column for _, column in panel.matrix)
    if isinstance(wanted, float):
        return dict.fromkeys(columns, wanted)
    if isinstance(wanted, Value):
        own = _split(observe_value(runs, wanted), str(figure.x))
        cells = {label(key): make_cell(inside) for key, inside in own.items()}
    else:
        named = {(row.casefold(), column): cell for (row, column), cell in panel.matrix.items()}
        cells = {column: named[place] for column in columns if (place := (column.casefold(), column)) in named}
    found: dict[str, float | None] = {}
    for column, cell in cells.items():
        margin = figure.mark_margin
        below = (cell.summary.std if cell.summary else None) if margin == "std" else margin
        found[column] = None if cell.mean is None or below is None else cell.mean - below
    return found


IMPORTANCE = "importance"


def _pies(figure: Figure, runs: Sequence[StudyRun]) -> Iterable[Panel]:
    """Yield a panel for each result of `analyse sharing`: importance and tasks' shares of each head and FFN."""
    for run in {run.id: run for run in runs}.values():
        result, title = run.result or {}, label(run.axes.get(figure.panels)) if figure.panels else ""
        found: dict[tuple[str, str], Cell] = {}
        for one in result.get("structures", ()):
            unit = "FFN" if one["unit"] == "ffns" else one["unit"].removesuffix("s")
            row = f"{unit} {one['layer']}" if unit == "FFN" else f"{unit} {one['layer']}.{one['index']}"
            for column, value in {IMPORTANCE: one["importance"], **(one["share"] or {})}.items():
                if is_number(value):
                    found[row, column] = _stored_cell(run, value, structure=row, of=column)
        yield Panel(title, matrix=found, result=result if found else None)


def describe_reached(plot: Plot) -> list[str]:
    """Return a sentence for each line: the measured position at which it first reaches the score, not interpolated."""
    figure, form = plot.figure, plot.form
    sentences = []
    for panel in plot.panels if figure.reach is not None else ():
        target = _target(figure.reach, panel)
        where = f"{panel.title}: " if panel.title else ""
        if target is None:
            sentences.append(f"{where}{figure.reach} has no number yet, so nothing can reach it.")
            continue
        for curve in panel.curves:
            if curve.name == figure.reach or curve.gap:
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
    for name, cell in panel.levels.items():
        if wanted in (name, *(seen.run.stage for seen in cell.observations)):
            return cell.mean
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
    """Return the table of a figure, with the paper's numbers."""
    figure = plot.figure
    rows, heads, cells = _by_position(plot) if figure.x_value is None else _by_point(plot, figure.x_value)
    rows_are = "structure" if figure.kind == "pies" else figure.series or "series"
    axes = [rows_are, *(["runs"] if isinstance(figure.x, Value) else [figure.x] if figure.x_at else [])]
    notes = [grids.describe_cells(list(cells.values()))] if cells and figure.kind != "pies" else []
    if figure.minus is not None:
        notes.append(f"Differences from {grids.describe_minus(figure.minus)}, inside each repetition first.")
    if any(cell.partial for cell in cells.values()) and figure.kind in _PARTIAL:
        notes.append(_PARTIAL[figure.kind])
    notes += [*_describe_marks(figure), *describe_reached(plot), *([figure.note] if figure.note else [])]
    further: dict[str, Any] = {"title": figure.title or plot.name, "problems": plot.problems, "kind": "figure"}
    columns = {name: at for at, (name, _) in enumerate(heads)}
    marked = {
        (rows.index((panel.title, row)), columns[column]) for panel in plot.panels for row, column in panel.marked
    }
    if figure.panels:
        axes = [figure.panels, *axes]
    else:
        rows = [row[1:] for row in rows]
    return grids.make_grid(
        plot.name, axes, rows, heads, cells=cells, published=published, notes=notes, marked=marked, **further
    )


def _describe_marks(figure: Figure) -> list[str]:
    """Return a sentence on the dark cells of a heat map."""
    wanted, margin = figure.mark_at_least, figure.mark_margin
    if wanted is None:
        return []
    what = wanted.title if isinstance(wanted, Value) else label(wanted)
    if wanted == "same":
        what = "the cell of the same name"
    below = " minus its standard deviation" if margin == "std" else f" minus {margin:g}" if margin else ""
    count = f" {figure.count}: the number of these." if figure.count else ""
    return [f"Dark, and bold in the table: at least as high as {what}{below}.{count}"]


def _by_position(plot: Plot) -> Parts:
    """Return a row for each line and a column for each position, or a heat map with the counts of its rows."""
    count = plot.figure.count or ""
    forms: dict[str, Form] = {count: lambda value: format_count(round(value))}
    if plot.figure.kind == "pies":
        forms = {IMPORTANCE: form_of(IMPORTANCE)}
    found: dict[tuple[tuple[str, ...], str], Cell] = {}
    for panel in plot.panels:
        own = dict(panel.matrix)
        own |= {(curve.name, label(point.x)): point.cell for curve in panel.curves for point in curve.points}
        own |= {(name, "level"): cell for name, cell in panel.levels.items()}
        own |= {(row, count): cell for row, cell in panel.counts.items()}
        found |= {((panel.title, row), column): cell for (row, column), cell in own.items()}

    def position(name: str) -> tuple[bool, bool, float]:
        number = number_of(name)
        return name in ("level", plot.figure.count), number is None, number or 0.0

    rows = {row: index for index, row in enumerate(dict.fromkeys(row for row, _ in found))}
    names = sorted(dict.fromkeys(column for _, column in found), key=position)  # labels stay in order
    columns = {name: index for index, name in enumerate(names)}
    form = percent if plot.figure.kind == "pies" else plot.form
    cells = {(rows[row], columns[column]): cell for (row, column), cell in found.items()}
    return list(rows), [(name, forms.get(name, form)) for name in names], cells


def _by_point(plot: Plot, x: Value) -> Parts:
    """Return a row for each point and a column for each of its two values."""
    rows: list[tuple[str, ...]] = []
    cells: dict[tuple[int, int], Cell] = {}
    for panel in plot.panels:
        points = [(curve.name, point) for curve in panel.curves for point in curve.points]
        points += panel.points.items()
        points += [(name, PlotPoint(None, cell, "level")) for name, cell in panel.levels.items()]
        for name, point in points:
            if point.across is not None:
                cells[len(rows), 0] = point.across
            cells[len(rows), 1] = point.cell
            rows.append((panel.title, name, point.name))
    names = [without_axes(path).replace("_", " ") for path in (x.value, plot.path)]
    heads = list(zip(names, (form_of(x.value), plot.form), strict=True))
    return rows, heads, cells
