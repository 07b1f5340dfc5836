"""The tables and the figure of `analyse winning`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from winning_tickets.data.tasks import task_title
from winning_tickets.report import figures
from winning_tickets.report.comparisons import chance_note, unfair_note
from winning_tickets.report.figures import percents
from winning_tickets.report.style import DASHED, Look, in_words, looks
from winning_tickets.report.tables import (
    Column,
    Result,
    Row,
    Table,
    columns,
    format_count,
    format_interval,
    percent,
    signed_percent,
)

WORDS = {True: "yes", False: "no", None: "?"}
_RULES = {
    "exceeds": "its {statistic} is at least the full model's",
    "within-std": "its {statistic} is at least the full model's minus one standard deviation of {owner} (ddof=1)",
    "non-inferior": "it is surely less than {margin} points worse: one-sided 95 % bound of the mean difference, paired "
    "by seed",
}
_OWNERS = {"full": "the full model", "subnetwork": "the subnetwork", "max": "either, the larger one"}
_REASONS = {
    "constant": "the full model's predictions are constant, or no better than that",
    "majority": "the full model does not beat the most frequent class",
}


def winning_table(result: Result) -> Table:
    """Return the highest winning sparsities; a further table has the grid of verdicts, and a CSV file all cells."""
    heads = [
        *columns(task="Task", metric="Metric", group="Tickets"),
        *columns(percent, dense="Dense", dense_std="± (dense)", highest="Highest winning", unbroken="Unbroken"),
        *columns(percent, score="Score there", std="±"),
        *columns(format_count, n="Runs"),
        *columns(percent, share="Share of dense above chance"),
        *columns(signed_percent, difference="Against dense"),
        *columns(interval="95 %"),
    ]
    if result["report_seeds"] is not None:
        heads += columns(percent, reported="Other seeds", reported_std="± (other)")
        heads += columns(reported_wins="Wins there")
    if any(one["degenerate"] for one in result["tasks"]):
        heads += columns(degenerate="Degenerate")
    tasks = {one["task"]: one for one in result["tasks"]}
    there = {(cell["task"], cell["group"], cell["sparsity"]): cell for cell in result["cells"]}
    rows = [
        _row(one, tasks[one["task"]], there.get((one["task"], one["group"], one["highest"]), {}))
        for one in result["highest"]
    ]
    cells = [{**cell, "wins": WORDS[cell["wins"]]} for cell in result["cells"]]
    names = (
        "task",
        "group",
        "sparsity",
        "wins",
        "value",
        "threshold",
        "mean",
        "std",
        "median",
        "best",
        "n",
        "share_above_chance",
        "difference",
        "interval",
        "p",
        "constant",
    )
    all_cells = Table(cells, columns(**{name: name for name in names}))
    return Table(rows, heads, _notes(result), further={"grid": _grid(result)}, unshown={"cells": all_cells})


def _row(one: Result, task: Result, cell: Result) -> Row:
    at, reported = one["at_highest"] or {}, one["reported"] or {}
    return {
        **{key: one[key] for key in ("task", "group", "highest", "unbroken")},
        "metric": task["metric"],
        "dense": task["dense"]["mean"],
        "dense_std": task["dense"]["std"],
        "score": at.get("mean"),
        "std": at.get("std"),
        "n": at.get("n"),
        "share": cell.get("share_above_chance"),
        "difference": cell.get("difference"),
        "interval": cell.get("interval") and format_interval(cell["interval"], signed_percent),
        "reported": reported.get("mean"),
        "reported_std": reported.get("std"),
        "reported_wins": WORDS[reported["wins"]] if reported else None,
        "degenerate": ", ".join(task["degenerate"]) or None,
    }


def _grid(result: Result) -> Table:
    """Return the verdicts by task and sparsity; a star marks constant predictions."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in result["cells"]:
        row = rows.setdefault((cell["task"], cell["group"]), {"task": cell["task"], "group": cell["group"]})
        row[str(cell["sparsity"])] = WORDS[cell["wins"]] + ("*" if cell["constant"] else "")
    sparsities = sorted({cell["sparsity"] for cell in result["cells"]})
    heads = [*columns(task="Task", group="Tickets"), *(Column(str(s), f"{100 * s:g} %") for s in sparsities)]
    return Table(list(rows.values()), heads)


def _notes(result: Result) -> list[str]:
    rule = _RULES[result["criterion"]].format(
        statistic=result["statistic"], owner=_OWNERS[result["std_of"]], margin=f"{100 * result['margin']:g}"
    )
    notes = [
        f"A ticket wins where {rule}. Unbroken: all lower sparsities of the grid win too.",
        "Against dense, with its 95 % interval: the mean difference there, paired by seed, whatever the criterion.",
    ]
    if result["report_seeds"] is None:
        notes.append(
            "The highest sparsity is selected and reported on the same seeds, so its score is biased upwards; "
            "--select-seeds and --report-seeds keep them apart."
        )
    else:
        selected, other = (", ".join(map(str, result[key])) for key in ("select_seeds", "report_seeds"))
        notes.append(f"Verdicts and highest sparsities are of seeds {selected}; the other seeds are {other}.")
    cells = result["cells"]
    undecided = [cell["reason"] for cell in cells if cell["wins"] is None]
    if undecided:
        reasons = "; ".join(dict.fromkeys(undecided))
        notes.append(
            f"No verdict (?) for {len(undecided)} of {len(cells)} tickets, which counts as not won: {reasons}."
        )
    if single := sum(cell["n"] == 1 for cell in cells):
        notes.append(f"The verdict on {single} of {len(cells)} tickets rests on a single run.")
    if result["statistic"] == "best" and any(cell["n_judged"] != cell["n_full"] for cell in cells):
        notes.append(
            "The best of more seeds is higher by chance; ticket and full model have different numbers of seeds."
        )
    few = {cell["no_interval"]: None for cell in cells if cell["interval"] is None}
    if few:
        notes.append(f"No 95 % interval of the difference from the dense model: {'; '.join(few)}.")
    marked = chance_note(f"{cell['group']} at {100 * cell['sparsity']:g} %" for cell in cells if cell["constant"])
    notes += [f"*: {marked[0]}"] if marked else []
    for task in result["tasks"]:
        if task["degenerate"]:
            reasons = "; ".join(_REASONS[reason] for reason in task["degenerate"])
            notes.append(f"Results on {task['task']} are not informative: {reasons}.")
    unpaired = [f"{seed} on {cell['task']}" for cell in cells for seed in cell["unpaired_seeds"]]
    if unpaired:
        notes.append(f"Seeds that the dense model lacks were skipped: {', '.join(dict.fromkeys(unpaired))}.")
    return notes + unfair_note("the runs differ", result)


def winning_figure(result: Result) -> figures.Drawing:
    """Draw a panel per task: score by sparsity, full model dashed, filled dots win (BERT tickets, Figure 11)."""
    tasks, groups = result["tasks"], [one["group"] for one in result["groups"]]
    styles = dict(zip(groups, looks(groups), strict=True))
    across, down = figures.layout_panels(len(tasks), 4)
    with figures.canvas(max(6.0, 3.0 * across), 2.8 * down + 0.9, "winning") as (drawing, made):
        for task, axes in zip(tasks, figures.add_panels(drawing, len(tasks), 4), strict=True):
            _draw_task(axes, task, [cell for cell in result["cells"] if cell["task"] == task["task"]], styles)
        drawing.supylabel("score (x 100); filled: wins", fontsize=10)
        handles = [
            figures.swatch(group, marker="o", color=look.color, linestyle=look.dashes) for group, look in styles.items()
        ]
        figures.add_legend(drawing, 3, [*handles, figures.swatch("dense, ± deviation", **DASHED)])
    return made


def _draw_task(axes: Any, task: Result, cells: Sequence[Result], styles: Mapping[str, Look]) -> None:
    dense = task["dense"]
    figures.draw_level(axes, 100 * dense["mean"], 100 * (dense["std"] or 0.0))
    for group, look in styles.items():
        own = [cell for cell in cells if cell["group"] == group]
        x, y = percents(cell["sparsity"] for cell in own), percents(cell["mean"] for cell in own)
        color, deviations = look.color, percents(cell["std"] or 0.0 for cell in own)
        axes.errorbar(x, y, yerr=deviations, color=color, linestyle=look.dashes, linewidth=1.4, elinewidth=0.8)
        for place, value, cell in zip(x, y, own, strict=True):
            axes.plot([place], [value], "o", color=color, markerfacecolor=color if cell["wins"] else "white")
    flag = ", degenerate" if task["degenerate"] else ""
    axes.set_title(f"{task_title(task['task'])} ({in_words(task['metric'])}{flag})", fontsize=10)
    axes.grid(axis="y")
    axes.set_xlabel("sparsity (%)", fontsize=9)
    axes.margins(0.08)
