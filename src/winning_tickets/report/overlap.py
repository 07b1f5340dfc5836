"""The table and the heat map of the overlap of tickets, of the verb `compare` and the analysis `similarity`."""

from __future__ import annotations

from winning_tickets.report.figures import Drawing, Tile, canvas, draw_heat_map, label_heat_map
from winning_tickets.report.tables import Column, Result, Table, columns, decimal


def similarity_table(result: Result) -> Table:
    """Return the similarity of each pair, and the chance level."""
    labels = result["labels"]
    rows = [
        {"ticket": label, "value": name, **dict(zip(labels, line, strict=True))}
        for name in ("jaccard", "chance")
        for label, line in zip(labels, result[name], strict=True)
    ]
    over = "all weights together" if result["average"] == "pooled" else "matrices, each with equal weight"
    notes = [
        f"Jaccard similarity of {result['of']} weights over {over}; chance: the expected value for independent random "
        "masks of the same densities."
    ]
    if not result["same_base"]:
        notes.append("The tickets were made for different weights.")
    heads = [*columns(ticket="Ticket", value="Value"), *(Column(label, label, decimal) for label in labels)]
    return Table(rows, heads, notes)


def similarity_figure(result: Result) -> Drawing:
    """Draw a heat map of all pairs, with the chance level in small print below each number (TAMT, Figure 8, right)."""
    labels = result["labels"]
    longest, side = max(map(len, labels)), 0.62 * len(labels)
    tiles = [
        Tile(j, i, value, f"{value:.2f}", below=f"({result['chance'][i][j]:.2f})")
        for i, line in enumerate(result["jaccard"])
        for j, value in enumerate(line)
    ]
    with canvas(max(5.4, side + 0.08 * longest + 0.6), side + 0.06 * longest + 1.0, "similarity") as (drawing, made):
        axes = drawing.add_subplot(aspect="equal")
        draw_heat_map(axes, tiles)
        label_heat_map(axes, labels, labels, turned=True)
        title = f"Similarity of {result['of']} weights\nJaccard; chance level in brackets"
        drawing.suptitle(title, fontsize=11, fontweight="bold")
    return made
