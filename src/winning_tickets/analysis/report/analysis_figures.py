"""Figures of analyses, as PNG, SVG and PDF: the same analysis gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winning_tickets.analysis.report.analysis_tables import LAYER_KEYS, layer_rows
from winning_tickets.analysis.report.cards import cards_figure
from winning_tickets.analysis.report.figures import BLUE, GRID, INK, ORANGE, PALETTE, canvas
from winning_tickets.analysis.report.sensitivity import sensitivity_figure
from winning_tickets.analysis.report.sharing import sharing_figure
from winning_tickets.analysis.report.tables import Result
from winning_tickets.analysis.report.winning import winning_figure


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map.

    Attributes:
        column: where it begins, from the left.
        row: from the top.
        value: what its colour shows.
        text: its number.
        width: in columns.
        below: a second, small number.
    """

    column: int
    row: int
    value: float
    text: str
    width: int = 1
    below: str = ""


def figure(result: Result) -> dict[str, bytes]:
    """The figure of an analysis.

    Args:
        result: what a function of `ANALYSES` returned.

    Returns:
        The bytes of a file for each of `FORMATS`.
    """
    return FIGURES[result["kind"]](result)


def _gain(result: Result) -> dict[str, bytes]:
    """Each cell's gain, each task's mean, and the mean over tasks with its interval."""
    tasks, mean = result["tasks"], result["mean"]
    with canvas(7.2, 1.5 + 0.42 * (len(tasks) + 1), "gain") as (drawing, made):
        axes = drawing.add_subplot()
        axes.axvline(0.0, color=INK, linewidth=1.0)
        for position, task in enumerate(tasks):
            gains = [100 * cell["gain"] for cell in result["cells"] if cell["task"] == task["task"]]
            axes.plot(gains, [position] * len(gains), "o", color=ORANGE, markersize=5, alpha=0.75)
            axes.plot([100 * task["gain"]], [position], "|", color=BLUE, markersize=16, markeredgewidth=2.5)
        last = len(tasks)
        if mean["interval"] is not None:
            axes.plot([100 * end for end in mean["interval"]], [last, last], color=BLUE, linewidth=2.5)
        axes.plot([100 * mean["gain"]], [last], "D", color=BLUE, markersize=8)
        axes.axhline(last - 0.5, color=GRID, linewidth=0.8)
        axes.set_yticks(range(last + 1), [*(f"{task['task']} ({task['metric']})" for task in tasks), "mean over tasks"])
        axes.set_ylim(last + 0.6, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_xlabel("gain over the baseline (points)")
        axes.set_title("Gain of each run (dots), mean, and 95 % interval")
    return made


_INKS = (INK, "white")


def draw_cells(axes: Any, cells: Iterable[Cell], scale: float = 1.0, inks: tuple[str, str] = _INKS) -> None:
    """Coloured cells with their numbers; rows go down, and vector formats stay sharp.

    Args:
        axes: where to draw.
        cells: what is shown.
        scale: the value of the darkest colour.
        inks: colours of the numbers on pale and on dark cells.
    """
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    colours = mpl.colormaps["Blues"]
    right = bottom = 0.0
    for cell in cells:
        shade = min(1.0, cell.value / scale) if scale > 0 else 0.0
        corner = (cell.column, cell.row)
        axes.add_patch(Rectangle(corner, cell.width, 1, facecolor=colours(shade), edgecolor="white", linewidth=1.0))
        ink = inks[shade > 0.5]
        middle = cell.column + cell.width / 2
        axes.text(
            middle,
            cell.row + (0.4 if cell.below else 0.5),
            cell.text,
            ha="center",
            va="center",
            color=ink,
            fontsize=8.5,
        )
        if cell.below:
            axes.text(middle, cell.row + 0.75, cell.below, ha="center", va="center", color=ink, fontsize=6.5)
        right, bottom = max(right, cell.column + cell.width), max(bottom, cell.row + 1)
    axes.set_xlim(0, right)
    axes.set_ylim(bottom, 0)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _similarity(result: Result) -> dict[str, bytes]:
    """A heat map of all pairs, the chance level small below each number (TAMT, Figure 8, right)."""
    labels = result["labels"]
    longest = max(map(len, labels))
    side = 0.62 * len(labels)
    cells = [
        Cell(j, i, value, f"{value:.2f}", below=f"({result['chance'][i][j]:.2f})")
        for i, line in enumerate(result["jaccard"])
        for j, value in enumerate(line)
    ]
    with canvas(max(5.4, side + 0.08 * longest + 0.6), side + 0.06 * longest + 1.0, "similarity") as (drawing, made):
        axes = drawing.add_subplot()
        draw_cells(axes, cells)
        axes.set_aspect("equal")
        middles = [i + 0.5 for i in range(len(labels))]
        axes.set_xticks(middles, labels, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(middles, labels)
        drawing.suptitle(
            f"Similarity of {result['of']} weights\nJaccard; chance level in brackets", fontsize=11, fontweight="bold"
        )
    return made


def _densities(result: Result) -> dict[str, bytes]:
    """For each ticket what is kept, and which rows and columns are empty, by layer and kind of matrix."""
    tickets = result["tickets"]
    heights = [len({matrix["layer"] for matrix in ticket["matrices"]}) for ticket in tickets]
    with canvas(10.2, sum(0.3 * height + 1.1 for height in heights), "densities") as (drawing, made):
        grid = drawing.subplots(
            len(tickets), 3, squeeze=False, height_ratios=[0.3 * height + 1.1 for height in heights]
        )
        for line, ticket in zip(grid, tickets, strict=True):
            for axes, (key, title) in zip(line, _DENSITIES.items(), strict=True):
                _density(axes, layer_rows(ticket, key, title), key)
                axes.set_title(title, fontsize=10, fontweight="normal")
            line[0].set_ylabel(ticket["label"], fontsize=10, fontweight="bold")
    return made


_DENSITIES = {"kept": "kept (%)", "empty_rows": "empty rows (%)", "empty_columns": "empty columns (%)"}


def _density(axes: Any, rows: Sequence[Result], key: str) -> None:
    """Layers downwards, kinds of matrices across; what lies outside the layers takes a whole line."""
    inside = dict.fromkeys(kind for row in rows if row["layer"] is not None for kind in row if kind not in LAYER_KEYS)
    columns = list(inside) or ["matrix"]
    cells: list[Cell] = []
    names: list[str] = []
    for row in rows:
        kinds = [kind for kind in row if kind not in LAYER_KEYS]
        if row["layer"] is not None:
            cells += [_density_cell(columns.index(kind), len(names), row[kind]) for kind in kinds]
            names.append(f"layer {row['layer']}")
            continue
        for kind in kinds:
            cells.append(_density_cell(0, len(names), row[kind], len(columns)))
            names.append(kind)
    # Empty rows and columns are few; their darkest cell is the fullest one, at least a tenth.
    scale = 1.0 if key == "kept" else max([0.1, *(cell.value for cell in cells)])
    draw_cells(axes, cells, scale)
    axes.set_xticks([i + 0.5 for i in range(len(columns))], columns if inside else [""], fontsize=8.5)
    axes.set_yticks([i + 0.5 for i in range(len(names))], names, fontsize=8.5)


def _density_cell(column: int, row: int, value: float, width: int = 1) -> Cell:
    return Cell(column, row, value, f"{100 * value:.1f}", width)


def _distance(result: Result) -> dict[str, bytes]:
    """Distance from OMP along each search, from its first and previous tickets, and by kind of matrix."""
    searches = result["searches"]
    several = len({one["sparsity"] for one in searches}) > 1
    names = [f"{one['label']} ({100 * one['sparsity']:g} %)" if several else one["label"] for one in searches]
    reference = "OMP" if result["reference"] is None else "the reference"
    with canvas(11.0, 3.6 + 0.22 * len(searches), "distance") as (drawing, made):
        first, second, third = drawing.subplots(1, 3)
        for index, (one, name) in enumerate(zip(searches, names, strict=True)):
            colour, points = PALETTE[index % len(PALETTE)], one["checkpoints"]
            steps = [point["step"] for point in points]
            style = {"color": colour, "markersize": 4.5, "linewidth": 1.6, "clip_on": False}
            first.plot(steps, [point["to_reference"] for point in points], "o-", label=name, **style)
            second.plot(steps, [point["to_first"] for point in points], "o-", **style)
            if len(points) > 1:
                second.plot(steps[1:], [point["to_previous"] for point in points[1:]], "o:", **style)
            last = points[-1]["by_kind"]
            shift = (index + 0.5) / len(searches) - 0.5
            third.plot([i + 0.5 * shift for i in range(len(last))], list(last.values()), "o", **style)
            third.set_xticks(range(len(last)), [_SHORT.get(kind, kind) for kind in last])
        first.set_title(f"From {reference}")
        second.set_title("From first (—) and previous (···)")
        third.set_title(f"From {reference}, last ticket")
        for axes in (first, second, third):
            axes.set_ylim(bottom=0.0)
            axes.grid(axis="y", color=GRID, linewidth=0.8)
            axes.set_xlabel("kind of matrix" if axes is third else "search step")
        for axes in (first, second):
            axes.set_xlim(left=0.0)
        first.set_ylabel("distance (1 - Jaccard)")
        drawing.legend(loc="outside lower center", ncols=min(4, len(searches)), frameon=False, fontsize=9)
    return made


_SHORT = {"embeddings": "emb."}


def _predictors(result: Result) -> dict[str, bytes]:
    """One panel a predictor: what was measured before fine-tuning against the mean score (TAMT, Figure 5)."""
    names = result["predictors"]
    tickets = [row for row in result["rows"] if row["ticket_id"] is not None]
    colours = _assigned((row["method"] for row in tickets), PALETTE)
    markers = _assigned((round(row["sparsity"], 3) for row in tickets), "osD^vPX<>*")
    dense = [row["mean"] for row in result["rows"] if row["ticket_id"] is None and row["mean"] is not None]
    across = min(3, len(names))
    down = -(-len(names) // across)
    with canvas(max(6.0, 3.5 * across), 3.0 * down + 1.0, "predictors") as (drawing, made):
        grid = drawing.subplots(down, across, squeeze=False, sharey=True)
        for index, axes in enumerate(grid.flat):
            if index >= len(names):
                axes.set_visible(False)
                continue
            for row in tickets:
                value = row["predictors"].get(names[index])
                if value is not None and row["mean"] is not None:
                    look = (colours[row["method"]], markers[round(row["sparsity"], 3)])
                    axes.plot([value], [100 * row["mean"]], look[1], color=look[0], markersize=7, alpha=0.85)
            if not any(row["mean"] is not None for row in tickets):
                axes.text(0.5, 0.5, "no ticket has all tasks", ha="center", transform=axes.transAxes, fontsize=9)
            for value in dense:
                axes.axhline(100 * value, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
            axes.set_title(names[index], fontsize=10)
            axes.set_xlabel(_correlation_text(result, names[index]), fontsize=9)
            axes.grid(color=GRID, linewidth=0.8)
            axes.margins(0.12)
        drawing.supylabel("score after fine-tuning, mean over tasks (x 100)", fontsize=10)
        drawing.legend(
            handles=_legend(colours, markers, bool(dense)),
            loc="outside lower center",
            ncols=4,
            frameon=False,
            fontsize=9,
        )
    return made


def _correlation_text(result: Result, name: str) -> str:
    one = next(one for one in result["correlations"] if one["predictor"] == name)
    if one["spearman"] is None:
        return f"{one['n']} tickets"
    within = one["within_sparsity"]["spearman"]
    inside = "" if within is None else f", within sparsity {within:+.2f}"
    return f"Spearman {one['spearman']:+.2f}{inside} (n = {one['n']})"


def _assigned(values: Iterable[Any], looks: Sequence[str]) -> dict[Any, str]:
    """A look for each different value, in sorted order."""
    return {value: looks[index % len(looks)] for index, value in enumerate(sorted(set(values)))}


def _legend(colours: Mapping[str, str], markers: Mapping[float, str], dense: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in colours.items()]
    handles += [
        Line2D([], [], marker=marker, linestyle="", color="#888888", label=f"{100 * sparsity:g} % pruned")
        for sparsity, marker in markers.items()
    ]
    if dense:
        handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (5, 3)), label="dense"))
    return handles


FIGURES: dict[str, Callable[[Result], dict[str, bytes]]] = {
    "similarity": _similarity,
    "distance": _distance,
    "densities": _densities,
    "predictors": _predictors,
    "gain": _gain,
    "winning": winning_figure,
    "sharing": sharing_figure,
    "sensitivity": sensitivity_figure,
    "cards": cards_figure,
}
"""The figure of each analysis, by its kind."""
