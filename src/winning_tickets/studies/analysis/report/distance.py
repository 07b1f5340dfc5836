"""The table and the figure of `analyse distance`."""

from __future__ import annotations

from winning_tickets.report.figures import (
    Drawing,
    add_legend,
    add_panels,
    canvas,
    layout_panels,
)
from winning_tickets.report.style import looks
from winning_tickets.report.tables import Column, Result, Table, columns, decimal, format_count, percent


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
    across, down = layout_panels(3)
    with canvas(11.0 * across / 3, 1.4 + 2.2 * down + 0.22 * len(searches), "distance") as (drawing, made):
        first, second, third = add_panels(drawing, 3)
        styles = looks((one["label"] for one in searches), apart=True)
        for index, (one, look) in enumerate(zip(searches, styles, strict=True)):
            name = f"{one['label']} ({100 * one['sparsity']:g} %)" if several else one["label"]
            points, last = one["checkpoints"], one["checkpoints"][-1]["by_kind"]
            steps = [point["step"] for point in points]
            style = {"color": look.color, "markersize": 4.5, "linewidth": 1.6, "clip_on": False}
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
