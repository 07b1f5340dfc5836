"""The table and the figure of `analyse winning`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from winning_tickets.analysis.report import tables
from winning_tickets.analysis.report.figures import GRID, INK, PALETTE, canvas
from winning_tickets.analysis.report.tables import AnalysisTable, Column, Result

WORDS = {True: "yes", False: "no", None: "?"}
_RULES = {
    "exceeds": "its {statistic} is at least the full model's",
    "within-std": "its {statistic} is at least the full model's minus one standard deviation of {owner} (ddof=1)",
    "non-inferior": "it is surely less than {margin} points worse: one-sided 95 % bound of the mean difference, paired "
    "by seed, by Student's t",
}
_OWNERS = {"full": "the full model", "subnetwork": "the subnetwork", "max": "either, the larger one"}
_REASONS = {
    "constant": "the full model's predictions are constant",
    "majority": "the full model does not beat the most frequent class",
}


def winning_table(result: Result) -> AnalysisTable:
    """The highest winning sparsities; below them the grid of verdicts, and stored only all cells."""
    full = {one["task"]: one for one in result["tasks"]}
    rows = []
    for one in result["highest"]:
        task, at, reported = full[one["task"]], one["at_highest"] or {}, one["reported"] or {}
        rows.append(
            {
                **{key: one[key] for key in ("task", "group", "highest", "unbroken")},
                "metric": task["metric"],
                "dense": task["dense"]["mean"],
                "dense_std": task["dense"]["std"],
                "score": at.get("mean"),
                "std": at.get("std"),
                "n": at.get("n"),
                "reported": reported.get("mean"),
                "reported_std": reported.get("std"),
                "reported_wins": WORDS[reported["wins"]] if reported else None,
                "degenerate": ", ".join(task["degenerate"]) or None,
            }
        )
    columns = [
        Column("task", "Task"),
        Column("metric", "Metric"),
        Column("group", "Tickets"),
        Column("dense", "Dense", tables.percent),
        Column("dense_std", "± (dense)", tables.percent),
        Column("highest", "Highest winning", tables.percent),
        Column("unbroken", "Unbroken", tables.percent),
        Column("score", "Score there", tables.percent),
        Column("std", "±", tables.percent),
        Column("n", "Runs", tables.count),
    ]
    if result["report_seeds"] is not None:
        columns += [
            Column("reported", "Other seeds", tables.percent),
            Column("reported_std", "± (other)", tables.percent),
            Column("reported_wins", "Wins there"),
        ]
    if any(one["degenerate"] for one in result["tasks"]):
        columns.append(Column("degenerate", "Degenerate"))
    return AnalysisTable(rows, columns, _notes(result), {"grid": _grid(result)}, {"cells": _cells(result)})


def _grid(result: Result) -> AnalysisTable:
    """Verdicts by task and sparsity; a star marks constant predictions."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in result["cells"]:
        row = rows.setdefault((cell["task"], cell["group"]), {"task": cell["task"], "group": cell["group"]})
        row[str(cell["sparsity"])] = WORDS[cell["wins"]] + ("*" if cell["constant"] else "")
    sparsities = sorted({cell["sparsity"] for cell in result["cells"]})
    columns = [Column("task", "Task"), Column("group", "Tickets")]
    return AnalysisTable(list(rows.values()), [*columns, *(Column(str(s), f"{100 * s:g} %") for s in sparsities)])


_CELL = ("task", "group", "sparsity", "wins", "value", "threshold", "mean", "std", "median", "best", "n", "constant")


def _cells(result: Result) -> AnalysisTable:
    rows = [{**cell, "wins": WORDS[cell["wins"]]} for cell in result["cells"]]
    return AnalysisTable(rows, [Column(key, key) for key in _CELL])


def _notes(result: Result) -> list[str]:
    rule = _RULES[result["criterion"]].format(
        statistic=result["statistic"], owner=_OWNERS[result["std_of"]], margin=f"{100 * result['margin']:g}"
    )
    notes = [f"A ticket wins where {rule}. Unbroken: all lower sparsities of the grid win too."]
    if result["report_seeds"] is None:
        notes.append(
            "The highest sparsity is chosen on the very scores it is shown with, which flatters; --select-seeds and "
            "--report-seeds keep them apart."
        )
    else:
        chosen, other = (", ".join(map(str, result[key])) for key in ("select_seeds", "report_seeds"))
        notes.append(f"Verdicts and highest sparsities are of seeds {chosen}; the other seeds are {other}.")
    cells = result["cells"]
    undecided = dict.fromkeys(cell["reason"] for cell in cells if cell["wins"] is None)
    if undecided:
        count = sum(cell["wins"] is None for cell in cells)
        notes.append(
            f"No verdict (?) for {count} of {len(cells)} tickets, which counts as not won: {'; '.join(undecided)}."
        )
    single = sum(cell["n"] == 1 for cell in cells)
    if single:
        notes.append(f"One run alone speaks for {single} of {len(cells)} tickets.")
    if result["statistic"] == "best" and any(cell["n_judged"] != cell["n_full"] for cell in cells):
        notes.append("The best of more seeds is higher by chance; here ticket and full model have not equally many.")
    if any(cell["constant"] for cell in cells):
        notes.append("*: one and the same prediction for everything, in some run.")
    for task in result["tasks"]:
        if task["degenerate"]:
            reasons = "; ".join(_REASONS[reason] for reason in task["degenerate"])
            notes.append(f"On {task['task']} winning says nothing: {reasons}.")
    unpaired = [f"{seed} on {cell['task']}" for cell in cells for seed in cell["unpaired_seeds"]]
    if unpaired:
        notes.append(f"Seeds that the dense model lacks were passed over: {', '.join(dict.fromkeys(unpaired))}.")
    different = [f"{one['setting']} on {one['task']}" for one in result["different_settings"]]
    if different:
        notes.append(f"Not a fair comparison: the runs differ in {', '.join(different)}.")
    return notes


def winning_figure(result: Result) -> dict[str, bytes]:
    """A panel for each task: score by sparsity, the full model dashed, filled dots win (BERT tickets, Figure 11)."""
    tasks, groups = result["tasks"], [one["group"] for one in result["groups"]]
    across = min(4, len(tasks))
    down = -(-len(tasks) // across)
    with canvas(max(6.0, 3.0 * across), 2.8 * down + 0.9, "winning") as (drawing, made):
        grid = drawing.subplots(down, across, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index >= len(tasks):
                axes.set_visible(False)
                continue
            _panel(axes, tasks[index], [c for c in result["cells"] if c["task"] == tasks[index]["task"]], groups)
        drawing.supylabel("score (x 100); filled: wins", fontsize=10)
        drawing.legend(handles=_legend(groups), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return made


def _panel(axes: Any, task: Result, cells: Sequence[Result], groups: Sequence[str]) -> None:
    dense = task["dense"]
    axes.axhline(100 * dense["mean"], color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
    if dense["std"] is not None:
        low, high = (100 * (dense["mean"] + sign * dense["std"]) for sign in (-1, 1))
        axes.axhspan(low, high, color=GRID, alpha=0.6, linewidth=0)
    for index, group in enumerate(groups):
        own = [cell for cell in cells if cell["group"] == group]
        x, y = [100 * cell["sparsity"] for cell in own], [100 * cell["mean"] for cell in own]
        colour = PALETTE[index % len(PALETTE)]
        deviations = [100 * (cell["std"] or 0.0) for cell in own]
        axes.errorbar(x, y, yerr=deviations, color=colour, linewidth=1.4, elinewidth=0.8)
        for place, value, cell in zip(x, y, own, strict=True):
            axes.plot([place], [value], "o", color=colour, markerfacecolor=colour if cell["wins"] else "white")
    flag = ", degenerate" if task["degenerate"] else ""
    axes.set_title(f"{task['task']} ({task['metric']}{flag})", fontsize=10)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel("sparsity (%)", fontsize=9)
    axes.margins(0.08)


def _legend(groups: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", color=PALETTE[index % len(PALETTE)], label=group)
        for index, group in enumerate(groups)
    ]
    return [*handles, Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (5, 3)), label="dense, ± deviation")]
