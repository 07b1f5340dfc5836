"""What a figure draws, as a table: the same cells, and the paper's numbers beside them."""

from __future__ import annotations

from collections.abc import Iterable

from winning_tickets.report.study.cells import Cell, form_of, label
from winning_tickets.report.study.grids import Grid, Head, cells_note, with_published
from winning_tickets.report.study.plots import Plot
from winning_tickets.report.study.reach import reached
from winning_tickets.study.schema import Published, Value


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
