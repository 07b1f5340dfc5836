"""The tables of `analyse sharing`."""

from __future__ import annotations

from typing import Any

from winning_tickets.report import tables
from winning_tickets.report.analysis_table import AnalysisTable, Result
from winning_tickets.report.tables import Column

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
