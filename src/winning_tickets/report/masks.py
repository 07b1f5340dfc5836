"""A picture of the masks of a ticket: which weights of each matrix remain, and which rows and columns are gone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from winning_tickets.report.figures import Drawing, canvas, swatch
from winning_tickets.report.style import DIVERGING, ORANGE, SEQUENTIAL, TILE_INKS
from winning_tickets.runs.errors import UsageError

if TYPE_CHECKING:
    from winning_tickets.tickets.ticket import Ticket

CELLS = 48
"""A matrix is drawn with at most as many cells in each direction; a cell has the mean of its weights."""
_STRIP = 2  # cells at the left and at the top, for rows and columns without a weight


def mask_figure(ticket: Ticket, title: str = "", *, before: Ticket | None = None) -> Drawing:
    """Return a figure of the masks of a ticket: a row for each layer, a column for each kind of matrix.

    A cell is darker the more of its weights remain. Orange marks at the left and at the top show output rows and input
    columns of a matrix that keep no weight. Matrices outside of the layers, such as embeddings, come last.

    Args:
        ticket: The ticket. Weights of heads, FFNs, neurons and layers that it removed count as removed.
        title: Title of the figure.
        before: Another ticket of the same matrices. The colors of cells are then the change since it, in percent of
            all weights of a cell: blue where more weights remain, red where fewer do.

    Raises:
        UsageError: `before` has other matrices.

    Example:
        >>> mask_figure(Ticket.from_pretrained("my-ticket"))["svg"]  # doctest: +SKIP
    """
    masks, since = _matrices(ticket), {} if before is None else _matrices(before)
    if before is not None and {n: m.shape for n, m in masks.items()} != {n: m.shape for n, m in since.items()}:
        raise UsageError("--before needs a ticket with the same matrices; these two are of other models or scopes.")
    places = _places(masks)
    rows = list(dict.fromkeys(row for row, _ in places.values()))
    kinds = list(dict.fromkeys(kind for _, kind in places.values()))
    cells = {place: _means(masks[name]) for name, place in places.items()}
    for name, mask in since.items():
        cells[places[name]] = cells[places[name]] - _means(mask)
    most = max(float(abs(one).max()) for one in cells.values()) or 1.0
    colors = _Colors(SEQUENTIAL, 0.0, most) if before is None else _Colors(DIVERGING, -most, most)
    width, height = 1.0 + 1.05 * len(kinds), 1.1 + 0.75 * len(rows)
    with canvas(max(4.5, width), height, "masks") as (drawing, drawn):
        panels = drawing.subplots(len(rows), len(kinds), squeeze=False)
        # Kinds name the columns, and layers the rows; a place without a matrix stays empty.
        for column, kind in enumerate(kinds):
            panels[0][column].set_title(kind.replace(".", "\n"), fontsize=8, fontweight="normal", loc="center", pad=4)
        for line, row in zip(panels, rows, strict=True):
            line[0].set_ylabel(row, fontsize=8, rotation=0, ha="right", va="center")
        for axes in panels.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for name, (row, kind) in places.items():
            axes = panels[rows.index(row)][kinds.index(kind)]
            axes.imshow(_colored(masks[name], cells[row, kind], colors), aspect="auto", interpolation="nearest")
        words = "weights remaining (%)" if before is None else "change of weights remaining (% of all weights)"
        _add_legend(drawing, panels, colors, words, gone=any(_is_gone(mask) for mask in masks.values()))
        if title:
            drawing.suptitle(title, fontsize=10, fontweight="bold")
    return drawn


class _Colors(NamedTuple):
    """A color map and the values of its ends."""

    name: str
    low: float
    high: float

    def of(self, values: Any) -> Any:
        """Return the colors of numbers as red, green and blue."""
        import matplotlib as mpl

        return mpl.colormaps[self.name]((values - self.low) / (self.high - self.low))[..., :3]


def _matrices(ticket: Ticket) -> dict[str, Any]:
    return {name: mask.reshape(mask.shape[0], -1).numpy() for name, mask in ticket.masks.items()}


def _places(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the row and the column of each matrix: its layer, and the shortest name that no other kind has."""
    kinds: dict[str, tuple[str, list[str]]] = {}
    for name in names:
        outside, layer, inside = re.fullmatch(r"(?:(.*?)\.(\d+)\.)?(.+)", name).groups()[0:3]  # type: ignore[union-attr]
        parts = [part for part in inside.split(".") if part not in ("weight", "dense", "parametrizations")]
        kinds[name] = (f"layer {int(layer) + 1}" if outside else "other", parts)
    known = {tuple(parts) for _, parts in kinds.values()}

    def shortest(parts: list[str]) -> str:
        for count in range(1, len(parts)):
            tail = tuple(parts[-count:])
            if sum(one[-count:] == tail for one in known) == 1:
                return ".".join(tail)
        return ".".join(parts)

    layered = {name: place for name, place in kinds.items() if place[0] != "other"}
    rest = {name: place for name, place in kinds.items() if place[0] == "other"}
    return {name: (row, shortest(parts)) for name, (row, parts) in (layered | rest).items()}


def _edges(length: int) -> Any:
    """Return where the cells of an axis begin: cells of nearly equal size, and never more than weights."""
    return np.linspace(0, length, min(length, CELLS) + 1).astype(int)[:-1]


def _means(mask: Any) -> Any:
    """Return the fraction of weights that remains in each cell."""
    down, across = _edges(mask.shape[0]), _edges(mask.shape[1])
    sums = np.add.reduceat(np.add.reduceat(mask, down, 0, dtype=np.int64), across, 1)
    sizes = np.outer(np.diff([*down, mask.shape[0]]), np.diff([*across, mask.shape[1]]))
    return sums / sizes


def _is_gone(mask: Any) -> bool:
    return not (mask.any(0).all() and mask.any(1).all())


def _colored(mask: Any, means: Any, colors: _Colors) -> Any:
    """Return the picture of a matrix: its cells, and strips with the rows and columns that keep no weight."""
    import matplotlib as mpl

    picture = np.ones((means.shape[0] + _STRIP, means.shape[1] + _STRIP, 3))
    picture[_STRIP:, _STRIP:] = colors.of(means)
    orange = np.array(mpl.colors.to_rgb(ORANGE))
    for axis, strip in ((1, picture[_STRIP:, :_STRIP]), (0, picture[:_STRIP, _STRIP:])):
        # The share of rows (or columns) of a cell that are gone is the strength of its mark.
        gone = ~mask.any(axis)
        edges = _edges(len(gone))
        share = np.add.reduceat(gone, edges, dtype=np.int64) / np.diff([*edges, len(gone)])
        share = share.reshape((-1, 1, 1) if axis else (1, -1, 1))
        strip[:] = 1 - share * (1 - orange)
    return picture


def _add_legend(drawing: Any, panels: Any, colors: _Colors, words: str, *, gone: bool) -> None:
    """Add the color bar, in percent, and the meaning of the orange marks."""
    import matplotlib as mpl
    from matplotlib.ticker import MaxNLocator

    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(100 * colors.low, 100 * colors.high), colors.name)
    bar = drawing.colorbar(scale, ax=panels, location="bottom", fraction=0.04, aspect=40, pad=0.02)
    bar.set_label(words, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.ax.xaxis.set_major_locator(MaxNLocator(5))
    bar.outline.set_visible(False)
    if gone:
        mark = swatch("rows (left) and columns (top) without a weight", color=ORANGE, marker="s", linestyle="")
        drawing.legend(handles=[mark], loc="outside lower center", fontsize=8, labelcolor=TILE_INKS[0])
