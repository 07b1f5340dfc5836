"""The tables of `analyse sharing`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from winning_tickets.analysis.report import tables
from winning_tickets.analysis.report.figures import (
    BLACK,
    BLUE,
    GREEN,
    GRID,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    canvas,
)
from winning_tickets.analysis.report.tables import AnalysisTable, Column, Result

UNIT_NAMES = {"heads": "Heads", "ffns": "FFNs", "neurons": "Neurons"}
_SUMS = {"union": "any task", "intersection": "every task"}


def sharing_table(result: Result) -> AnalysisTable:
    """What each task keeps; below it how many tasks use a structure, by layer too, and the overlap of each pair."""
    units = list(result["used_by"])
    rows = [*result["tasks"], *({"task": name} | result[key] for key, name in _SUMS.items())]
    columns = [
        Column("task", "Task"),
        *(Column(unit, UNIT_NAMES[unit], tables.count) for unit in units),
        Column("weight_remaining", "Weight remaining", tables.percent),
        Column("kept_of_matrices", "Of the layers' matrices", tables.percent),
    ]
    further = {"used_by": _used_by(result), "layers": _layers(result), "overlap": _overlap(result)}
    return AnalysisTable(rows, columns, _notes(result), further, {"structures": _structures(result)})


def _used_by(result: Result) -> AnalysisTable:
    rows = [
        {"unit": UNIT_NAMES[unit]} | {str(tasks): count for tasks, count in enumerate(counts)}
        for unit, counts in result["used_by"].items()
    ]
    return AnalysisTable(rows, [Column("unit", "Used by so many tasks"), *_numbers(result)])


def _layers(result: Result) -> AnalysisTable:
    """Heads of each layer by how many tasks use them, and how many use its FFN."""
    rows = [
        {"layer": one["layer"], "ffn": one["ffns"].index(1)} | {str(n): count for n, count in enumerate(one["heads"])}
        for one in result["layers"]
    ]
    columns = [Column("layer", "Layer: heads used by"), *_numbers(result), Column("ffn", "FFN used by", tables.count)]
    return AnalysisTable(rows, columns)


def _numbers(result: Result) -> list[Column]:
    return [Column(str(n), str(n), tables.count) for n in range(len(result["tasks"]) + 1)]


def _overlap(result: Result) -> AnalysisTable:
    rows = [one | {"tasks": " | ".join(one["tasks"])} for one in result["overlap"]]
    columns = [Column("tasks", "Overlap (Jaccard)")]
    for unit in result["used_by"]:
        columns += [Column(unit, UNIT_NAMES[unit], tables.decimal), Column(f"{unit}_chance", "Chance", tables.decimal)]
    return AnalysisTable(rows, [*columns, Column("weights", "Weights", tables.decimal)])


def _structures(result: Result) -> AnalysisTable:
    names = [task["task"] for task in result["tasks"]]
    rows = []
    for one in result["structures"]:
        row: dict[str, Any] = one | {"n": len(one["tasks"]), "tasks": " ".join(one["tasks"])}
        for kind in ("by_task", "share"):
            row |= {f"{kind}.{name}": value for name, value in (one.get(kind) or {}).items()}
        rows.append(row)
    keys = ["unit", "layer", "index", "n", "tasks"]
    if result["importance"] is not None:
        keys += ["importance", *(f"{kind}.{name}" for kind in ("by_task", "share") for name in names)]
    return AnalysisTable(rows, [Column(key, key) for key in keys])


def _notes(result: Result) -> list[str]:
    encoder = result["encoder"]
    notes = [
        f"Weight remaining: of all {encoder['parameters']:,} parameters of {encoder['name']}, embeddings included; "
        "biases do not count. Chance: random tickets that keep as many."
    ]
    whole = [task["task"] for task in result["tasks"] if task["ticket_id"] is None]
    if whole:
        notes.append(f"Without a ticket, so the whole encoder: {', '.join(whole)}.")
    importance = result["importance"]
    if importance is None:
        notes.append(
            f"No importance beside the tickets of {', '.join(result['without_importance'])}, so the figure shows which "
            "tasks keep what; --importances names their folders."
        )
        return notes
    notes.append(
        f"Importance ({importance['definition']}): heads over the l2 norm of their layer, FFNs over that of all "
        "layers, mean over tasks; a task's share is its part of the sum."
    )
    by_task = {task["task"]: 0 for task in result["tasks"]}
    dominated = 0
    for one in result["structures"]:
        top = max(one["share"].items(), key=lambda item: item[1]) if one["share"] else None
        if top is not None and top[1] > 0.5:
            by_task[top[0]] += 1
            dominated += 1
    if dominated and len(by_task) > 2:
        named = ", ".join(f"{name} {count}" for name, count in by_task.items() if count)
        notes.append(f"One task has more than half of {dominated} of {len(result['structures'])} structures: {named}.")
    return notes


_YELLOW = "#F0E442"
# On paper without colours tasks differ by grey and by hatch; all pies have them in one order, clockwise from the top.
_LOOKS = (
    (BLUE, ""),
    (_YELLOW, ""),
    (VERMILLION, "/////"),
    (SKY, "....."),
    (GREEN, "xxxxx"),
    (ORANGE, "-----"),
    (PURPLE, "|||||"),
    (BLACK, ""),
)
_RADIUS = 0.46
_GAP = 0.6
"""Of a pie in a cell of side 1, and between the heads and the column of FFNs."""
_PLAIN: dict[str, Any] = {"frameon": False, "loc": "outside lower center"}


def sharing_figure(result: Result) -> dict[str, bytes]:
    """A grid of layers and heads, a column for the FFNs: radius = importance, slices = tasks' shares.

    The largest head and the largest FFN fill their cells. Without importances all pies are equal, and each task fills
    its own sector of those that it keeps.
    """
    encoder, names = result["encoder"], [task["task"] for task in result["tasks"]]
    layers, heads = encoder["layers"], encoder["heads"]
    with_importance = result["importance"] is not None
    largest = {
        unit: max((one["importance"] for one in result["structures"] if one["unit"] == unit), default=0.0)
        for unit in ("heads", "ffns")
        if with_importance
    }
    across, down = heads + 1 + _GAP, layers
    cell = max(0.34, min(0.52, 9.0 / max(across, down)))
    width = max(5.0, cell * across + 1.0)
    columns = max(1, min(len(names), int(width / 0.95)))
    height = max(2.4, cell * down + 1.05) + 0.22 * math.ceil(len(names) / columns)
    with canvas(width, height, "sharing") as (drawing, made):
        import matplotlib as mpl

        mpl.rcParams["hatch.linewidth"] = 0.6
        axes = drawing.add_subplot()
        for one in result["structures"]:
            middle = _place(one, heads)
            if with_importance:
                radius = _RADIUS * one["importance"] / largest[one["unit"]] if largest[one["unit"]] else 0.0
                _pie(axes, middle, radius, [(one["share"] or {}).get(name, 0.0) for name in names])
            else:
                _sectors(axes, middle, [name in one["tasks"] for name in names])
        _frame(axes, layers, heads)
        drawing.suptitle(_title(with_importance), fontsize=10, fontweight="bold")
        drawing.legend(handles=_legend(names), ncols=columns, **_PLAIN)
    return made


def _place(structure: Mapping[str, Any], heads: int) -> tuple[float, float]:
    """The middle of a structure's cell; layers go down."""
    return structure["index"] if structure["unit"] == "heads" else heads + _GAP, structure["layer"]


def _pie(axes: Any, middle: tuple[float, float], radius: float, shares: Sequence[float]) -> None:
    """Slices clockwise from the top, as large as their shares, which add up to 1 or are all 0."""
    start = 0.0
    for index, share in enumerate(shares):
        if share:
            _slice(axes, middle, radius, start, start + share, _look(index))
        start += share


def _sectors(axes: Any, middle: tuple[float, float], kept: Sequence[bool]) -> None:
    """A sector for each task, always in its place; empty where the task does not keep the structure."""
    for index, one in enumerate(kept):
        look = _look(index) if one else ("white", "")
        _slice(axes, middle, 0.85 * _RADIUS, index / len(kept), (index + 1) / len(kept), look)


def _slice(
    axes: Any, middle: tuple[float, float], radius: float, start: float, end: float, look: tuple[str, str]
) -> None:
    """From one fraction of the circle to another; the outline is apart, as hatches have the colour of the edge."""
    from matplotlib.patches import Wedge

    # The axis of layers goes down, which turns angles from anticlockwise to clockwise.
    place = (middle, radius, 360 * start - 90, 360 * end - 90)
    axes.add_patch(Wedge(*place, facecolor=look[0], hatch=look[1], edgecolor="white", linewidth=0.0))
    axes.add_patch(Wedge(*place, facecolor="none", edgecolor=INK, linewidth=0.5))


def _look(index: int) -> tuple[str, str]:
    """Colour and hatch of a task; beyond the eighth they come again with one more hatch."""
    colour, hatch = _LOOKS[index % len(_LOOKS)]
    return colour, hatch + index // len(_LOOKS) * "\\\\\\\\"


def _frame(axes: Any, layers: int, heads: int) -> None:
    axes.set_xlim(-0.6, heads + _GAP + 0.6)
    axes.set_ylim(layers - 0.4, -0.6)
    axes.set_aspect("equal")
    axes.set_xticks([*range(heads), heads + _GAP], [*map(str, range(heads)), "FFN"], fontsize=8.5)
    axes.set_yticks(range(layers), list(map(str, range(layers))), fontsize=8.5)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.axvline(heads - 0.5 + _GAP / 2, color=GRID, linewidth=1.0)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _title(with_importance: bool) -> str:
    if with_importance:
        return "Ticket importance (radius) and task share (slices)"
    return "Which tasks keep which heads and FFNs"


def _legend(names: Sequence[str]) -> list[Any]:
    from matplotlib.patches import Patch

    found = []
    for index, name in enumerate(names):
        colour, hatch = _look(index)
        found.append(Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0.0, label=name))
    return found
