"""Tables and figures of the analyses of masks: `distance`, `densities`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from winning_tickets.report.figures import (
    PALETTE,
    Drawing,
    Tile,
    add_legend,
    canvas,
    draw_heat_map,
    label_heat_map,
)
from winning_tickets.report.tables import Column, Result, Row, Table, columns, decimal, format_count, percent


def distance_table(result: Result) -> Table:
    """Return the distances of each checkpoint; those from the reference also by kind of matrix."""
    points = [(one, point) for one in result["searches"] for point in one["checkpoints"]]
    rows = [{"search": one["label"], "sparsity": one["sparsity"], **point, **point["by_kind"]} for one, point in points]
    kinds = dict.fromkeys(kind for _, point in points for kind in point["by_kind"])
    heads = [
        *columns(search="Search"),
        *columns(percent, sparsity="Sparsity"),
        *columns(format_count, step="Step"),
        *columns(decimal, to_reference="From OMP" if result["reference"] is None else "From reference"),
        *columns(decimal, to_first="From first", to_previous="From previous", chance="Chance"),
        *(Column(kind, kind, decimal) for kind in kinds),
    ]
    reference = result["reference"] or "the OMP ticket of the same weights, sparsity, ranking and rounding"
    notes = [
        f"Distance: 1 - Jaccard similarity of kept weights. The columns after Chance: from {reference}, by kind of "
        "matrix. Chance: the distance of an independent random mask from it."
    ]
    return Table(rows, heads, notes)


def distance_figure(result: Result) -> Drawing:
    """Draw the distances along each search: from OMP, from its first and previous tickets, and by kind of matrix."""
    searches = result["searches"]
    several = len({one["sparsity"] for one in searches}) > 1
    reference = "OMP" if result["reference"] is None else "the reference"
    with canvas(11.0, 3.6 + 0.22 * len(searches), "distance") as (drawing, made):
        first, second, third = drawing.subplots(1, 3)
        for index, one in enumerate(searches):
            name = f"{one['label']} ({100 * one['sparsity']:g} %)" if several else one["label"]
            points, last = one["checkpoints"], one["checkpoints"][-1]["by_kind"]
            steps = [point["step"] for point in points]
            style = {"color": PALETTE[index % len(PALETTE)], "markersize": 4.5, "linewidth": 1.6, "clip_on": False}
            first.plot(steps, [point["to_reference"] for point in points], "o-", label=name, **style)
            second.plot(steps, [point["to_first"] for point in points], "o-", **style)
            if len(points) > 1:
                second.plot(steps[1:], [point["to_previous"] for point in points[1:]], "o:", **style)
            shift = 0.5 * ((index + 0.5) / len(searches) - 0.5)
            third.plot([i + shift for i in range(len(last))], list(last.values()), "o", **style)
            third.set_xticks(range(len(last)), ["emb." if kind == "embeddings" else kind for kind in last])
        titles = (f"From {reference}", "From first (—) and previous (···)", f"From {reference}, last ticket")
        for axes, title in zip((first, second, third), titles, strict=True):
            axes.set_title(title)
            axes.set_ylim(bottom=0.0)
            axes.grid(axis="y")
            axes.set_xlabel("kind of matrix" if axes is third else "search step")
        for axes in (first, second):
            axes.set_xlim(left=0.0)
        first.set_ylabel("distance (1 - Jaccard)")
        add_legend(drawing, min(4, len(searches)))
    return made


_MEASURES = {"kept": "kept", "empty_rows": "empty rows", "empty_columns": "empty columns"}
_SHOWN = 0.0005  # a smaller fraction would be shown as 0.0 %
_KEYS = ("ticket", "value", "layer")  # the keys of a row of densities that are not kinds of matrices


def densities_table(result: Result) -> Table:
    """Return a table of densities by layer and kind of matrix, with a note for values that are all equal or zero."""
    rows: list[Row] = []
    notes = []
    for ticket in result["tickets"]:
        for key, name in _MEASURES.items():
            values = [matrix[key] for matrix in ticket["matrices"]]
            if key == "kept" and ticket["constant"]:
                share = percent(values[0])
                notes.append(f"{ticket['label']}: every matrix keeps {share} %, as ranking inside each matrix does.")
            elif max(values) < _SHOWN:
                found = f"less than 0.05 % {name} in every matrix" if any(values) else f"no {name} in any matrix"
                notes.append(f"{ticket['label']}: {found}.")
            else:
                # Most layers have no empty rows and columns, and are left out there.
                rows += [
                    line
                    for line in _layer_rows(ticket, key, name)
                    if key == "kept" or any(value >= _SHOWN for kind, value in line.items() if kind not in _KEYS)
                ]
    kinds = dict.fromkeys(matrix["kind"] for ticket in result["tickets"] for matrix in ticket["matrices"])
    if rows:
        notes.append(
            "Percent of a matrix's weights that are kept, of its output rows and of its input columns without a kept "
            "weight."
        )
    heads = [*columns(ticket="Ticket", value="Value", layer="Layer"), *(Column(kind, kind, percent) for kind in kinds)]
    return Table(rows, heads, notes)


def _layer_rows(ticket: Result, key: str, name: str) -> list[dict[str, Any]]:
    """Return one row per layer with one key per kind of matrix; matrices outside the layers have a row of their own.

    Several matrices of one kind in a layer (the two parts of a gated FFN) are averaged.
    """
    layers: dict[Any, dict[str, list[float]]] = {}
    for matrix in ticket["matrices"]:
        layers.setdefault(matrix["layer"], {}).setdefault(matrix["kind"], []).append(matrix[key])
    return [
        {"ticket": ticket["label"], "value": name, "layer": layer}
        | {kind: statistics.fmean(values) for kind, values in kinds.items()}
        for layer, kinds in layers.items()
    ]


def densities_figure(result: Result) -> Drawing:
    """Draw heat maps of the kept weights and the empty rows and columns of each ticket, by layer and kind of matrix."""
    tickets = result["tickets"]
    heights = [0.3 * len({matrix["layer"] for matrix in ticket["matrices"]}) + 1.1 for ticket in tickets]
    with canvas(10.2, sum(heights), "densities") as (drawing, made):
        grid = drawing.subplots(len(tickets), 3, squeeze=False, height_ratios=heights)
        for line, ticket in zip(grid, tickets, strict=True):
            for axes, (key, title) in zip(line, _MEASURES.items(), strict=True):
                _draw_density(axes, _layer_rows(ticket, key, title), key)
                axes.set_title(f"{title} (%)", fontsize=10, fontweight="normal")
            line[0].set_ylabel(ticket["label"], fontsize=10, fontweight="bold")
    return made


def _draw_density(axes: Any, rows: Sequence[Row], key: str) -> None:
    """Draw layers downwards and kinds of matrices across; a matrix outside the layers takes a whole line."""
    inside = dict.fromkeys(kind for row in rows if row["layer"] is not None for kind in row if kind not in _KEYS)
    kinds = list(inside) or [""]
    tiles: list[Tile] = []
    names: list[str] = []
    for row in rows:
        values = {kind: value for kind, value in row.items() if kind not in _KEYS}
        if row["layer"] is not None:
            tiles += [Tile(kinds.index(kind), len(names), v, f"{100 * v:.1f}") for kind, v in values.items()]
            names.append(f"layer {row['layer']}")
            continue
        for kind, value in values.items():
            tiles.append(Tile(0, len(names), value, f"{100 * value:.1f}", len(kinds)))
            names.append(kind)
    # Empty rows and columns are few, so their darkest tile is the largest value, but at least 0.1.
    draw_heat_map(axes, tiles, 1.0 if key == "kept" else max([0.1, *(tile.value for tile in tiles)]))
    label_heat_map(axes, kinds, names, fontsize=8.5)
