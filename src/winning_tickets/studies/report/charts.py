"""Drawing a study's figures with Matplotlib: lines with bands, bars, clouds with their correlation, heat maps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from winning_tickets.analysis.report import tables
from winning_tickets.analysis.report.analysis_figures import Cell as Tile
from winning_tickets.analysis.report.analysis_figures import draw_cells
from winning_tickets.analysis.report.figures import (
    BLACK,
    BLUE,
    GREEN,
    GRID,
    INK,
    ORANGE,
    PALETTE,
    PURPLE,
    SKY,
    VERMILLION,
    canvas,
)
from winning_tickets.analysis.statistics import SMALLEST
from winning_tickets.studies.report.cells import Cell, form_of, label
from winning_tickets.studies.report.grids import Grid
from winning_tickets.studies.report.plots import Panel, Plot, Point, Series
from winning_tickets.studies.schema import Value

TILE_INKS = ("#1f2a37", "#fdfeff")
"""Numbers on pale and on dark tiles of a heat map; tiles keep their colours on a dark page, and so do these."""
EDGE = "#fefefe"
"""Hatching of bars."""
PAPER, FRAME = "#ffffff", "#888888"

DARK = {
    PAPER: "#16191d",
    EDGE: "#16191d",
    INK: "#d9dde2",
    FRAME: "#868e98",
    GRID: "#343a42",
    BLUE: "#56a8e0",
    VERMILLION: "#f0813c",
    GREEN: "#2cc394",
    PURPLE: "#dd9bbf",
    ORANGE: "#f0b43a",
    SKY: "#8ccdf2",
    BLACK: "#f2f2f2",
}
"""Every colour of ours and its twin with the same contrast on a dark ground."""

_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}\b")


def dark_svg(svg: str) -> str:
    """The same figure for a dark ground."""
    return _replace(svg, DARK)


def page_svg(svg: str) -> str:
    """The same figure with the page's colours, so that it follows light and dark; alone it looks as before."""
    return _replace(svg, {light: f"var(--figure-{light[1:].lower()}, {light})" for light in DARK})


def page_variables(dark: bool) -> dict[str, str]:
    """What the page sets for `page_svg`."""
    return {f"--figure-{light[1:].lower()}": twin if dark else light for light, twin in DARK.items()}


def _replace(svg: str, colours: dict[str, str]) -> str:
    known = {light.lower(): colour for light, colour in colours.items()}

    def with_colours(attribute: re.Match[str]) -> str:
        return _COLOUR.sub(lambda found: known.get(found[0].lower(), found[0]), attribute[0])

    # Only these attributes hold colours: a hash in a link or in a text stays.
    return re.sub(r'\b(?:style|fill|stroke)="[^"]*"', with_colours, svg)


_MOST_INCHES = 40.0
_LONGEST_LABEL = 40
"""Names in results are labels, and must not decide how much memory a picture takes."""
_MARKERS = "osD^vPX*"
_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))


def draw(plot: Plot, formats: Sequence[str], grid: Grid) -> dict[str, bytes]:
    """A figure as files; the same data gives the same bytes.

    Args:
        plot: with at least one number.
        formats: of `png`, `svg`.
        grid: its table, for the numbers of the paper.
    """
    paper = _published(plot, grid)
    across = min(3, len(plot.panels))
    down = -(-len(plot.panels) // across)
    single = len(plot.panels) == 1
    width, height = (7.2, 4.2) if single else (3.7 * across, 3.0 * down + 0.6)
    if plot.figure.kind == "heatmap":
        width, height = _heat_size(plot, across, down)
    names = _names(plot)
    with canvas(min(_MOST_INCHES, width), min(_MOST_INCHES, height), plot.name, formats) as (drawing, made):
        places = list(drawing.subplots(down, across, squeeze=False).flat)
        for index, axes in enumerate(places):
            if index >= len(plot.panels):
                axes.set_visible(False)
                continue
            _panel(axes, plot, plot.panels[index], names)
            _draw_published(axes, plot, plot.panels[index], names, paper)
        handles: dict[str, Any] = {}
        for axes in places:
            handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        if len(handles) > 1 or (handles and "" not in handles):
            drawing.legend(
                handles.values(),
                handles.keys(),
                loc="outside lower center",
                ncols=min(4, len(handles)),
                frameon=False,
                fontsize=9,
            )
    return made


def _panel(axes: Any, plot: Plot, panel: Panel, names: Sequence[str]) -> None:
    figure = plot.figure
    if figure.kind == "heatmap":
        _heatmap(axes, plot, panel)
    else:
        for series in panel.series:
            look = names.index(series.name)
            {"line": _line, "bar": _bars, "scatter": _cloud}[figure.kind](axes, plot, series, look)
        if figure.kind == "line":
            _ticks(axes, panel)
        for index, (name, cell) in enumerate(panel.levels.items()):
            if cell.summary is not None:
                dashes = (0, (5 - index % 3, 3))
                axes.axhline(_scaled(plot, cell.summary.mean), color=INK, linewidth=1.2, linestyle=dashes, label=name)
        axes.grid(axis="both" if figure.kind == "scatter" else "y", color=GRID, linewidth=0.8)
        axes.set_ylabel(figure.y_label or value_label(plot.path))
    axes.set_xlabel(_x_label(plot, panel))
    if panel.title:
        axes.set_title(_cut(panel.title))


Published = dict[tuple[str, str, str], float]
"""The paper's numbers by panel, series and position."""


def _published(plot: Plot, grid: Grid) -> Published:
    if plot.figure.kind != "line":
        return {}
    labels = {
        place: (*([""] if not plot.figure.panels else []), *grid.rows[place[0]], grid.heads[place[1] - 1].label)
        for place in grid.published
    }
    return {(one[0], one[1], one[2]): grid.published[place].value for place, one in labels.items()}


def _draw_published(axes: Any, plot: Plot, panel: Panel, names: Sequence[str], paper: Published) -> None:
    """The paper's numbers as crosses, in the colours of our lines."""
    for series in panel.series:
        for point in series.points:
            value = paper.get((panel.title, series.name, label(point.x)))
            if value is not None:
                colour = PALETTE[names.index(series.name) % len(PALETTE)]
                axes.plot([point.x], [_scaled(plot, value)], "x", color=colour, markersize=7, label="paper")


def value_label(path: str) -> str:
    """How a value is named on an axis; numbers are drawn as the tables write them."""
    name = {"score": "score", "score.best": "best score"}.get(path, path.replace("_", " "))
    return f"{name} (x 100)" if form_of(path) is tables.percent else name


def _scaled(plot: Plot, value: float) -> float:
    return 100 * value if form_of(plot.path) is tables.percent else value


def _x_label(plot: Plot, panel: Panel) -> str:
    x = plot.figure.x
    text = plot.figure.x_label or (value_label(x.value) if isinstance(x, Value) else x.replace("_", " "))
    if plot.figure.kind == "scatter" and panel.correlation is not None:
        text += f"\n{correlation_text(panel.correlation)}"
    return text


def correlation_text(found: Any) -> str:
    """Pearson's r with its interval, Spearman's rho, and the number of points."""
    if found["pearson"] is None:
        few = f"fewer than {SMALLEST} points" if found["n"] < SMALLEST else "constant values"
        return f"no correlation: {few} (n = {found['n']})"
    low, high = found["pearson_interval"] or (None, None)
    within = "" if low is None else f" [{low:+.2f}, {high:+.2f}]"
    return f"r = {found['pearson']:+.2f}{within}, rho = {found['spearman']:+.2f}, n = {found['n']}"


def _drawn(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.cell.summary is not None and point.x is not None]


def _spread(plot: Plot, cell: Cell) -> tuple[float, float] | None:
    """Where the band or bar around a mean begins and ends."""
    summary = cell.summary
    if summary is None or summary.std is None or summary.interval is None or plot.figure.error is None:
        return None
    low, high = (
        summary.interval
        if plot.figure.error == "interval"
        else (summary.mean - summary.std, summary.mean + summary.std)
    )
    return _scaled(plot, low), _scaled(plot, high)


def _line(axes: Any, plot: Plot, series: Series, look: int) -> None:
    """A line with its band; a point that is partial is hollow."""
    points = _drawn(series.points)
    colour = PALETTE[look % len(PALETTE)]
    xs = [point.x if isinstance(point.x, int | float) else str(point.x) for point in points]
    ys = [_scaled(plot, point.cell.summary.mean) for point in points if point.cell.summary is not None]
    dashes = _DASHES[(look // len(PALETTE)) % len(_DASHES)]
    marker = _MARKERS[look % len(_MARKERS)]
    axes.plot(xs, ys, color=colour, linewidth=1.8, linestyle=dashes)
    # The legend's own, as the markers below may be hollow.
    axes.plot([], [], marker, color=colour, linewidth=1.8, linestyle=dashes, markersize=5, label=_cut(series.name))
    spreads = [_spread(plot, point.cell) or (y, y) for point, y in zip(points, ys, strict=True)]
    if any(low != high for low, high in spreads):
        axes.fill_between(
            xs, [low for low, _ in spreads], [high for _, high in spreads], color=colour, alpha=0.15, lw=0
        )
    for x, y, point in zip(xs, ys, points, strict=True):
        face = "none" if point.cell.partial else colour
        axes.plot([x], [y], marker, color=colour, markersize=5, markerfacecolor=face)


_MOST_TICKS = 9


def _ticks(axes: Any, panel: Panel) -> None:
    """A mark for each position that there is, as long as they are few."""
    positions = {point.x for series in panel.series for point in series.points if isinstance(point.x, int | float)}
    if 0 < len(positions) <= _MOST_TICKS:
        axes.set_xticks(sorted(positions), [label(x) for x in sorted(positions)])


def _bars(axes: Any, plot: Plot, series: Series, look: int) -> None:
    """Bars of one series, shifted to its place in each group; one that is partial is hatched."""
    names, groups = _names(plot), _groups(plot)
    width = 0.8 / max(1, len(names))
    shift = (names.index(series.name) - (len(names) - 1) / 2) * width
    colour, shown = PALETTE[look % len(PALETTE)], False
    for point in _drawn(series.points):
        y = _scaled(plot, point.cell.summary.mean) if point.cell.summary is not None else 0.0
        axes.bar(
            groups.index(label(point.x)) + shift,
            y,
            0.92 * width,
            color=colour,
            label="_nolegend_" if shown else _cut(series.name),
            hatch="///" if point.cell.partial else None,
            edgecolor=EDGE,
            linewidth=0.0,
        )
        shown = True
        spread = _spread(plot, point.cell)
        if spread is not None:
            middle = groups.index(label(point.x)) + shift
            axes.plot([middle, middle], spread, color=INK, linewidth=1.2)
    axes.set_xticks(range(len(groups)), map(_cut, groups))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.tick_params(axis="x", length=0)


def _names(plot: Plot) -> list[str]:
    """The series of all panels, which share their looks."""
    return list(dict.fromkeys(series.name for panel in plot.panels for series in panel.series))


def _groups(plot: Plot) -> list[str]:
    """The labels along the horizontal axis of bars."""
    points = (point for panel in plot.panels for series in panel.series for point in series.points)
    return list(dict.fromkeys(label(point.x) for point in points))


def _cloud(axes: Any, plot: Plot, series: Series, look: int) -> None:
    points = [point for point in _drawn(series.points) if not point.cell.partial]
    ys = [_scaled(plot, point.cell.summary.mean) for point in points if point.cell.summary is not None]
    axes.plot(
        [_across(plot, point.x) for point in points],
        ys,
        _MARKERS[look % len(_MARKERS)],
        color=PALETTE[look % len(PALETTE)],
        markersize=6.5,
        alpha=0.85,
        label=_cut(series.name),
    )
    axes.margins(0.1)


def _across(plot: Plot, x: float) -> float:
    measured = plot.figure.x
    return 100 * x if isinstance(measured, Value) and form_of(measured.value) is tables.percent else x


def _heatmap(axes: Any, plot: Plot, panel: Panel) -> None:
    """Rows go down; the darkest tile is the largest value, the palest the smallest."""
    rows, columns = _labels(panel)
    form = form_of(plot.path)
    means = {place: cell.summary.mean for place, cell in panel.matrix.items() if cell.summary is not None}
    if not means:
        axes.text(0.5, 0.5, "no run yet", ha="center", transform=axes.transAxes)
        return
    low, high = min(means.values()), max(means.values())
    span = high - low or 1.0
    tiles = [
        Tile(
            columns.index(column),
            rows.index(row),
            0.08 + 0.92 * (mean - low) / span,
            form(mean) + ("*" if panel.matrix[row, column].partial else ""),
        )
        for (row, column), mean in means.items()
    ]
    draw_cells(axes, tiles, inks=TILE_INKS)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if max(map(len, columns)) > 6 else {}
    axes.set_xticks([i + 0.5 for i in range(len(columns))], map(_cut, columns), **turned)
    axes.set_yticks([i + 0.5 for i in range(len(rows))], map(_cut, rows))


def _labels(panel: Panel) -> tuple[list[str], list[str]]:
    return list(dict.fromkeys(row for row, _ in panel.matrix)), list(
        dict.fromkeys(column for _, column in panel.matrix)
    )


def _heat_size(plot: Plot, across: int, down: int) -> tuple[float, float]:
    rows, columns = zip(*(_labels(panel) for panel in plot.panels), strict=True)
    longest = max((len(_cut(name)) for names in (*rows, *columns) for name in names), default=1)
    wide, high = max(map(len, columns)), max(map(len, rows))
    return (
        across * max(3.6, 0.75 * wide + 0.08 * longest + 0.8),
        down * max(2.4, 0.45 * high + 0.06 * longest + 1.2),
    )


def _cut(name: str) -> str:
    """A label as it is drawn."""
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 3]}..."
