"""The tables and the figure of `analyse sharing`."""

from __future__ import annotations

import math
from typing import Any

from winning_tickets.data.tasks import task_title
from winning_tickets.report.figures import Drawing, add_legend, canvas, draw_pie, hide_frame, slice_look
from winning_tickets.report.style import GRID
from winning_tickets.report.tables import Column, Result, Table, columns, decimal, format_count, percent

_UNITS = {"heads": "Heads", "ffns": "FFNs", "neurons": "Neurons"}


def sharing_table(result: Result) -> Table:
    """Return the structures that each task keeps; further tables: tasks per structure, also by layer, and overlaps."""
    units, names = list(result["used_by"]), [task["task"] for task in result["tasks"]]
    sums = {"any task": result["union"], "every task": result["intersection"]}
    rows = [*result["tasks"], *({"task": name} | one for name, one in sums.items())]
    heads = [
        *columns(task="Task"),
        *columns(format_count, **{unit: _UNITS[unit] for unit in units}),
        *columns(percent, weight_remaining="Weight remaining", kept_of_matrices="Of the layers' matrices"),
    ]
    numbers = columns(format_count, **{str(n): str(n) for n in range(len(names) + 1)})
    used_by = [{"unit": _UNITS[unit]} | _by_count(counts) for unit, counts in result["used_by"].items()]
    layers = [
        {"layer": one["layer"], "ffn": one["ffns"].index(1)} | _by_count(one["heads"]) for one in result["layers"]
    ]
    further = {
        "used_by": Table(used_by, [*columns(unit="Used by so many tasks"), *numbers]),
        "layers": Table(
            layers, [*columns(layer="Layer: heads used by"), *numbers, *columns(format_count, ffn="FFN used by")]
        ),
        "overlap": _overlap(result),
    }
    return Table(rows, heads, _notes(result), further=further, unshown={"structures": _structures(result, names)})


def _by_count(counts: list[int]) -> dict[str, Any]:
    return {str(tasks): structures for tasks, structures in enumerate(counts)}


def _overlap(result: Result) -> Table:
    rows = [one | {"tasks": " | ".join(one["tasks"])} for one in result["overlap"]]
    heads = columns(tasks="Overlap (Jaccard)")
    for unit in result["used_by"]:
        heads += [Column(unit, _UNITS[unit], decimal), Column(f"{unit}_chance", "Chance", decimal)]
    return Table(rows, [*heads, *columns(decimal, weights="Weights")])


def _structures(result: Result, names: list[str]) -> Table:
    rows = []
    for one in result["structures"]:
        row: dict[str, Any] = one | {"n": len(one["tasks"]), "tasks": " ".join(one["tasks"])}
        for kind in ("by_task", "share"):
            row |= {f"{kind}.{name}": value for name, value in (one.get(kind) or {}).items()}
        rows.append(row)
    keys = ["unit", "layer", "index", "n", "tasks"]
    if result["importance"] is not None:
        keys += ["importance", *(f"{kind}.{name}" for kind in ("by_task", "share") for name in names)]
    return Table(rows, [Column(key, key) for key in keys])


def _notes(result: Result) -> list[str]:
    encoder, importance = result["encoder"], result["importance"]
    notes = [
        f"Weight remaining: of all {encoder['parameters']:,} parameters of {encoder['name']}, embeddings included; "
        "biases do not count. Chance: random tickets that keep as many."
    ]
    whole = [task["task"] for task in result["tasks"] if task["ticket_id"] is None]
    if whole:
        notes.append(f"Without a ticket, so the whole encoder: {', '.join(whole)}.")
    if importance is None:
        return [
            *notes,
            f"The tickets of {', '.join(result['without_importance'])} have no importance, so the figure shows which "
            "tasks keep what; --importances names their folders.",
        ]
    notes.append(
        f"Importance ({importance['definition']}): heads divided by the l2 norm of their layer, FFNs by that of all "
        "layers, mean over tasks; a task's share is its part of the sum."
    )
    # The structures of which one task has more than half say something only with three tasks or more.
    by_task = {task["task"]: 0 for task in result["tasks"]}
    for one in result["structures"]:
        for name, share in (one["share"] or {}).items():
            by_task[name] += share > 0.5
    dominated = sum(by_task.values())
    if dominated and len(by_task) > 2:
        named = ", ".join(f"{name} {structures}" for name, structures in by_task.items() if structures)
        notes.append(f"One task has more than half of {dominated} of {len(result['structures'])} structures: {named}.")
    return notes


_RADIUS = 0.46  # of the largest pie, in a cell of side 1
_GAP = 0.6  # between the heads and the column of FFNs


def sharing_figure(result: Result) -> Drawing:
    """Draw a grid of pies for heads and FFNs by layer: radius = importance, slices = tasks' shares.

    The pies of the largest head and FFN fill their cells. Without importances all pies are equal, and each task fills
    its own sector in the pies of the structures that it keeps.
    """
    with canvas(*sharing_size(result), "sharing") as (drawing, made):
        axes = drawing.add_subplot()
        draw_sharing(axes, result)
        weighted = result["importance"] is not None
        title = "Ticket importance (radius) and task share (slices)"
        drawing.suptitle(title if weighted else "Which tasks keep which heads and FFNs", fontsize=10, fontweight="bold")
        add_legend(drawing, _legend_columns(result), sharing_legend(result), fontsize=10)
    return made


def _cell(result: Result) -> float:
    """Return the side of a cell in inches: the figure grows with the encoder."""
    across, down = float(result["encoder"]["heads"]) + 1 + _GAP, float(result["encoder"]["layers"])
    return max(0.34, min(0.52, 9.0 / max(across, down)))


def _width(result: Result) -> float:
    return max(5.0, _cell(result) * (float(result["encoder"]["heads"]) + 1 + _GAP) + 1.0)


def _legend_columns(result: Result) -> int:
    return max(1, min(len(result["tasks"]), int(_width(result) / 0.95)))


def sharing_size(result: Result) -> tuple[float, float]:
    """Return width and height of the pies of a result in inches, including a legend of all tasks."""
    lines = math.ceil(len(result["tasks"]) / _legend_columns(result))
    return _width(result), max(2.4, _cell(result) * result["encoder"]["layers"] + 1.05) + 0.22 * lines


def sharing_legend(result: Result) -> list[Any]:
    """Return the entries of a legend of the tasks."""
    from matplotlib.patches import Patch

    return [Patch(label=task_title(task["task"]), **slice_look(index)) for index, task in enumerate(result["tasks"])]


def draw_sharing(axes: Any, result: Result) -> None:
    """Draw the pies of `sharing_figure` on axes."""
    encoder, names = result["encoder"], [task["task"] for task in result["tasks"]]
    layers, heads, weighted = encoder["layers"], encoder["heads"], result["importance"] is not None
    axes.set_aspect("equal")
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    largest: dict[str, float] = {}
    for one in result["structures"] if weighted else ():
        largest[one["unit"]] = max(one["importance"], largest.get(one["unit"], 0.0))
    for one in result["structures"]:
        center = (one["index"] if one["unit"] == "heads" else heads + _GAP, one["layer"])
        if weighted:
            top, shares = largest[one["unit"]], one["share"] or {}
            radius = _RADIUS * one["importance"] / top if top else 0.0
            draw_pie(axes, center, radius, [shares.get(name, 0.0) for name in names], filled=[True] * len(names))
        else:
            sectors = [1 / len(names)] * len(names)
            draw_pie(axes, center, 0.85 * _RADIUS, sectors, filled=[name in one["tasks"] for name in names])
    axes.set_xlim(-0.6, heads + _GAP + 0.6)
    axes.set_ylim(layers - 0.4, -0.6)
    axes.set_xticks([*range(heads), heads + _GAP], [*map(str, range(heads)), "FFN"], fontsize=8.5)
    axes.set_yticks(range(layers), list(map(str, range(layers))), fontsize=8.5)
    axes.axvline(heads - 0.5 + _GAP / 2, color=GRID, linewidth=1.0)
    hide_frame(axes)
