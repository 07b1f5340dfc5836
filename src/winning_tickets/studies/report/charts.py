"""Drawing of a study's figures: lines with error bands, bars, scatter plots with their correlation, heat maps, pies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from winning_tickets.data.tasks import task_title
from winning_tickets.report import figures
from winning_tickets.report.correlations import SMALLEST
from winning_tickets.report.style import DASHED, FRAME, INK, Look, in_words, looks
from winning_tickets.report.tables import percent
from winning_tickets.studies.analysis.report.sharing import draw_sharing, sharing_legend, sharing_size
from winning_tickets.studies.expressions import number_of, without_axes
from winning_tickets.studies.report.grids import Cell, Grid, describe_minus, form_of, label
from winning_tickets.studies.report.plots import Curve, Panel, Plot
from winning_tickets.studies.schema import Value

_MOST_INCHES = 40.0
_MOST_TICKS = 9
_DARK, _LIGHT = 0.85, 0.18  # shades of cells that are marked, and of others


def draw_plot(plot: Plot, formats: Sequence[str], grid: Grid) -> figures.Drawing:
    """Draw a figure that has at least one value, and return its files by format; `grid` has the paper's numbers."""
    across, down = figures.layout_panels(len(plot.panels))
    width, height = (7.2, 4.2) if len(plot.panels) == 1 else (3.7 * across, 3.0 * down + 0.6)
    if plot.figure.kind == "heatmap":
        width, height = _heat_map_size(plot, across, down)
    if plot.figure.kind == "pies":
        sizes = [sharing_size(panel.result) for panel in plot.panels if panel.result is not None]
        width, height = across * max(size[0] for size in sizes), down * max(size[1] for size in sizes)
    paper = _paper_numbers(plot, grid)
    with figures.canvas(min(_MOST_INCHES, width), min(_MOST_INCHES, height), plot.name, formats) as (drawing, made):
        handles: dict[str, Any] = {}
        for panel, axes in zip(plot.panels, figures.add_panels(drawing, len(plot.panels)), strict=True):
            _draw_panel(axes, plot, panel, paper)
            handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
            if panel.result is not None:
                handles |= {patch.get_label(): patch for patch in sharing_legend(panel.result)}
        if handles:
            figures.add_legend(drawing, min(4, len(handles)), list(handles.values()), labels=list(handles))
    return made


def _draw_panel(axes: Any, plot: Plot, panel: Panel, paper: Mapping[tuple[str, ...], float]) -> None:
    figure = plot.figure
    axes.set_xlabel(_x_label(plot, panel))
    if panel.title:
        axes.set_title(figures.cut_label(_value_in_words(figure.panels, panel.title)))
    if figure.kind == "pies":
        if panel.result is None:
            _say_empty(axes)
        else:
            draw_sharing(axes, panel.result)
        return
    if figure.kind == "heatmap":
        _draw_matrix(axes, plot, panel)
        return
    # A curve looks the same in all panels, and a bar has the same place in all of them.
    names = _line_names(plot)
    curves = {curve.name: curve for curve in panel.curves}
    series = [
        _series(plot, curves.get(name, Curve(name, ())), index, look)
        for index, (name, look) in enumerate(zip(names, looks(names, apart=figure.kind == "bar"), strict=True))
    ]
    drawn = [one for one in series if one.y]
    if figure.kind == "bar":
        groups = dict.fromkeys(_value_in_words(figure.x, label(point.x)) for point in plot.points)
        figures.draw_bars(axes, series, list(groups))
        if figure.minus is not None:
            axes.axhline(0.0, color=FRAME, linewidth=1.0)
    elif figure.kind == "scatter":
        for one in drawn:
            look = {"color": one.color, "markersize": 6.5, "alpha": 0.85, "label": one.name or "_nolegend_"}
            axes.plot(one.x, one.y, one.marker, **look)
        for name, point in panel.points.items():
            if point.complete and isinstance(figure.x, Value):
                place = [_scaled(figure.x.value, point.x)], [_scaled(plot.path, point.cell.mean or 0.0)]
                named = figures.cut_label(f"{name} (star)")  # a line may have the name alone
                axes.plot(*place, "*", color=INK, markersize=12, linestyle="", label=named)
        axes.margins(0.1)
    else:
        for one in drawn:
            figures.draw_line(axes, one)
        log = figure.x_scale == "log"
        if log:
            axes.set_xscale("log")
        positions = dict(sorted(_places(plot).items(), key=lambda item: item[1]))
        if len(positions) == 1:
            axes.margins(x=1.0)  # lines are then points side by side in the middle
        elif positions and not log and plot.figure.x_value is None:
            first, *_, last = positions.values()
            moved = max(abs(_shift(plot, index)) for index in range(len(names)))
            room = 0.05 * (last - first) + moved
            axes.set_xlim(first - room, last + room)  # the same in all panels
        if plot.figure.x_value is not None and plot.figure.x_value.value.endswith("weight_remaining"):
            axes.invert_xaxis()  # from the whole model to the smallest ticket, as in the publication
        words = any(isinstance(x, str) for x in positions)
        few = len(positions) <= _MOST_TICKS
        if positions and (words or log or (few and figure.x_at is None)):
            shown = positions if few else _thin(positions, log=log)
            ticks = [x if figure.x_at is None or isinstance(x, str) else float(f"{at:.2g}") for x, at in shown.items()]
            axes.set_xticks(list(shown.values()), [_tick(x, log=log, of=plot.x_name) for x in ticks])
            axes.minorticks_off()
        # Numbers of the paper are crosses in the color of the line of this study.
        for index, name in enumerate(names):
            for point in curves[name].points if name in curves else ():
                x = positions.get(point.x)
                if (value := paper.get((panel.title, name, label(point.x)))) is not None and x is not None:
                    place = [x + _shift(plot, index)], [_scaled(plot.path, value)]
                    axes.plot(*place, "x", color=series[index].color, markersize=7, label="paper")
    # Reference values, such as the score of the dense model, are horizontal dashed lines.
    for index, (name, cell) in enumerate(panel.levels.items()):
        if cell.mean is not None:
            look = DASHED | {"linestyle": (0, (5 - index % 3, 3)), "label": name}
            axes.axhline(_scaled(plot.path, cell.mean), **look)
    axes.grid(axis="both" if figure.kind == "scatter" else "y")
    axes.set_ylabel(figure.y_label or _y_label(plot))


def _say_empty(axes: Any) -> None:
    axes.text(0.5, 0.5, "no run yet", ha="center", transform=axes.transAxes)


def _y_label(plot: Plot) -> str:
    minus = plot.figure.minus
    return name_value(plot.path) + ("" if minus is None else f"\nminus {describe_minus(minus)}")


def _places(plot: Plot) -> dict[Any, float]:
    """Return where each position of a line chart is drawn; words such as `all` come after the largest number."""
    found = dict.fromkeys(point.x for point in plot.points if point.x is not None)
    numbers = sorted(x for x in found if isinstance(x, int | float))
    words = [x for x in found if not isinstance(x, int | float)]
    at = plot.figure.x_value
    places: dict[Any, float] = {x: float(x) if at is None else _scaled(at.value, x) for x in numbers}
    last, log = max(places.values(), default=0.0), plot.figure.x_scale == "log"
    first = min(places.values(), default=0.0)
    step = (last - first) / max(1, len(numbers) - 1) if last > first else 1.0
    for index, word in enumerate(words, 1):
        places[word] = last * 2.0**index if log and last > 0 else last + index * step
    return places


def _shift(plot: Plot, index: int) -> float:
    """Return how far the line of this index is moved, so that points with error bars do not hide each other.

    If all lines have the same single position, all are moved, and else those that are a single point in every panel.
    """
    places, names = sorted(_places(plot).values()), _line_names(plot)
    if plot.figure.x_value is not None or (len(places) > 1 and plot.figure.x_scale == "log"):
        return 0.0
    longest = dict.fromkeys(names, 0)
    for panel in plot.panels:
        for curve in panel.curves:
            drawn = sum(point.cell.mean is not None for point in curve.points)
            longest[curve.name] = max(drawn, longest[curve.name])
    moved = names if len(places) == 1 else [name for name, count in longest.items() if count == 1]
    if names[index] not in moved:
        return 0.0
    step = 0.01 * (abs(places[0]) or 1.0) if len(places) == 1 else 0.02 * (places[-1] - places[0])
    return step * (moved.index(names[index]) - (len(moved) - 1) / 2)


def _line_names(plot: Plot) -> list[str]:
    return list(dict.fromkeys(curve.name for panel in plot.panels for curve in panel.curves))


def _tick(x: Any, *, log: bool, of: str) -> str:
    """Return the label of a position; thousands on a logarithmic axis, which has little room, are `10k`."""
    if log and isinstance(x, int | float) and x >= 1000:
        return f"{x / 1000:g}k"
    return _value_in_words(of, label(x)).removesuffix(" %")


def _value_in_words(axis: Any, value: str) -> str:
    """Return a value of an axis as people write it: tasks by their names, sparsity levels in percent."""
    if axis == "task":
        return task_title(value)
    if axis == "sparsity" and (number := number_of(value)) is not None and 0 <= number <= 1:
        return f"{100 * number:g} %"
    return value


def _thin(positions: Mapping[Any, float], *, log: bool) -> dict[Any, float]:
    """Return the positions whose labels have room: words, and numbers that are far enough from the one before."""
    found: dict[Any, float] = {}
    ordered = list(positions.values())
    room = (ordered[-1] - ordered[0]) / _MOST_TICKS
    before: float | None = None
    for x, place in positions.items():
        far = before is None or (place >= 1.9 * before if log and before > 0 else place - before >= room)
        if isinstance(x, str) or far:
            found[x] = before = place
    return found


def _series(plot: Plot, curve: Curve, index: int, look: Look) -> figures.Series:
    """Return a curve to draw; points that still lack runs are hollow in lines, hatched in bars, absent in clouds."""
    kind = plot.figure.kind
    points = [point for point in curve.points if point.cell.mean is not None and point.x is not None]
    if kind == "scatter":
        points = [point for point in points if not point.cell.partial]
    marks: list[figures.Mark] = ["hollow" if p.cell.partial else "filled" for p in points]
    xs = [point.x if isinstance(point.x, int | float) else str(point.x) for point in points]
    if kind == "bar":
        xs = [_value_in_words(plot.figure.x, label(point.x)) for point in points]
    elif kind == "line":
        places, shift = _places(plot), _shift(plot, index)
        xs = [places[point.x] + shift for point in points]
    elif isinstance(plot.figure.x, Value):
        xs = [_scaled(plot.figure.x.value, point.x) for point in points]
    marker, dashes = ("", (0, (5, 3))) if curve.gap else (look.marker, look.dashes)
    singles = [] if kind == "scatter" else [[_scaled(plot.path, one) for one in p.cell.values] for p in points]
    return figures.Series(
        figures.cut_label(_value_in_words(plot.figure.series, curve.name)),
        xs,
        [_scaled(plot.path, point.cell.mean) for point in points if point.cell.mean is not None],
        [_spread(plot, point.cell) for point in points],
        marks,
        singles,
        look.color,
        marker,
        dashes,
    )


def _spread(plot: Plot, cell: Cell) -> tuple[float, float] | None:
    """Return both ends of the error band or error bar around a mean, if the figure has them."""
    summary = cell.summary
    if summary is None or summary.std is None or summary.interval is None or plot.figure.error is None:
        return None
    ends = summary.interval
    if plot.figure.error == "std":
        ends = (summary.mean - summary.std, summary.mean + summary.std)
    return _scaled(plot.path, ends[0]), _scaled(plot.path, ends[1])


def _paper_numbers(plot: Plot, grid: Grid) -> dict[tuple[str, ...], float]:
    """Return the paper's numbers of a line chart by panel, curve and position."""
    if plot.figure.kind != "line":
        return {}
    start, labels = [] if plot.figure.panels else [""], grid.labels
    places = grid.published.items()
    return {(*start, *labels[row], grid.columns[at - 1].title): one.value for (row, at), one in places}


def name_value(path: str) -> str:
    """Return the name of a value on an axis; fractions are multiplied by 100, as in the tables."""
    name = {"score": "score", "score.best": "best score"}.get(path, in_words(without_axes(path)))
    return f"{name} (x 100)" if form_of(path) is percent else name


def _scaled(path: str, value: float) -> float:
    return 100 * value if form_of(path) is percent else value


def _x_label(plot: Plot, panel: Panel) -> str:
    x = plot.figure.x
    if plot.figure.kind == "pies":
        return "head"
    if plot.figure.series is None and any(row for row, _ in panel.matrix):
        return plot.figure.x_label or ""  # the names of a stored matrix, not the levels of an axis
    value = plot.figure.x_value
    name = "sparsity (%)" if x == "sparsity" else str(x).replace("_", " ")
    text = plot.figure.x_label or (name_value(value.value) if value is not None else name)
    if plot.figure.kind == "scatter" and panel.correlation is not None:
        # One line would be wider than a panel.
        text += "\n" + describe_correlation(panel.correlation).replace(", rho", "\nrho")
    return text


def describe_correlation(found: Mapping[str, Any]) -> str:
    """Write a correlation as text: Pearson's r with its interval, Spearman's rho, and the number of points."""
    if found["pearson"] is None:
        few = f"fewer than {SMALLEST} points" if found["n"] < SMALLEST else "constant values"
        return f"no correlation: {few} (n = {found['n']})"
    low, high = found["pearson_interval"] or (None, None)
    interval = "" if low is None else f" [{low:+.2f}, {high:+.2f}]"
    inside = found["within_method"]["pearson"]
    within = "" if inside is None else f", within methods {inside:+.2f}"
    return f"r = {found['pearson']:+.2f}{interval}, rho = {found['spearman']:+.2f}, n = {found['n']}{within}"


def _draw_matrix(axes: Any, plot: Plot, panel: Panel) -> None:
    """Draw a heat map: larger values, or marked cells, are darker; a star marks a mean that lacks runs."""
    rows, columns = _names_of(panel)
    form = plot.form
    means = {place: cell.mean for place, cell in panel.matrix.items() if cell.mean is not None}
    if not means:
        _say_empty(axes)
        return
    low, minus = min(means.values()), plot.figure.minus is not None
    span = (max(means.values()) - low) or 1.0
    largest = max(map(abs, means.values())) or 1.0
    tiles = []
    for (row, column), mean in means.items():
        star = "*" if panel.matrix[row, column].partial else ""
        shade = _scaled(plot.path, mean) if minus else 0.08 + 0.92 * (mean - low) / span
        if plot.figure.mark_at_least is not None:
            shade = _DARK if (row, column) in panel.marked else _LIGHT
        tiles.append(figures.Tile(columns.index(column), rows.index(row), shade, form(mean) + star))
    # The counts of dark cells are a column of their own on the right.
    if plot.figure.count:
        columns.append(plot.figure.count)
        for row, cell in panel.counts.items():
            text = "–" if cell.mean is None else f"{cell.mean:.0f}"
            tiles.append(figures.Tile(len(columns) - 1, rows.index(row), 0.0, text))
    diverging = "" if not minus or plot.figure.mark_at_least is not None else _y_label(plot)
    figures.draw_heat_map(axes, tiles, _scaled(plot.path, largest) if diverging else 1.0, diverging=diverging)
    axes_of = {"columns": plot.x_name, "rows": plot.figure.series}
    across, down = (
        [figures.cut_label(_value_in_words(axes_of[place], name)) for name in names]
        for place, names in {"columns": columns, "rows": rows}.items()
    )
    figures.label_heat_map(axes, across, down, turned=max(map(len, columns)) > 6)


def _names_of(panel: Panel) -> tuple[list[str], list[str]]:
    rows, columns = dict.fromkeys(row for row, _ in panel.matrix), dict.fromkeys(column for _, column in panel.matrix)
    return list(rows), list(columns)


def _heat_map_size(plot: Plot, across: int, down: int) -> tuple[float, float]:
    rows, columns = zip(*(_names_of(panel) for panel in plot.panels), strict=True)
    longest = max((len(figures.cut_label(name)) for names in (*rows, *columns) for name in names), default=1)
    wide, high = max(map(len, columns)) + (plot.figure.count is not None), max(map(len, rows))
    return (
        across * max(3.6, 0.75 * wide + 0.08 * longest + 0.8),
        down * max(2.4, 0.45 * high + 0.06 * longest + 1.2),
    )
