"""The table and the figure of `analyse gain`."""

from __future__ import annotations

from collections.abc import Sequence

from winning_tickets.data.tasks import task_title
from winning_tickets.report import tables
from winning_tickets.report.comparisons import chance_note, describe_effect, describe_silent, unfair_note
from winning_tickets.report.figures import Drawing, canvas, percents
from winning_tickets.report.style import BLUE, GRID, INK, ORANGE, in_words
from winning_tickets.report.tables import Result, Table, columns, format_count, percent


def gain_table(result: Result) -> Table:
    """Return the mean scores and the gain of each task with its interval, and their mean over tasks."""
    mean, share = result["mean"], result["dense_share"]
    average = {"task": "mean over tasks", "dense": share["dense"] if share else None, **mean}
    rows = [
        {**row, "interval": row["interval"] and tables.format_interval(row["interval"], tables.signed_percent)}
        for row in [*result["tasks"], average]
    ]
    heads = [
        *columns(task="Task", metric="Metric"),
        *columns(percent, baseline="Baseline", target="Target"),
        *columns(tables.signed_percent, gain="Gain"),
        *columns(percent, gain_std="± (seeds)"),
        *columns(interval="95 %"),
        *columns(format_count, n="Cells", wins="Better", ties="Equal", losses="Worse"),
        *(columns(percent, dense="Dense") if share else []),
        *columns(percent, constant="One answer"),
    ]
    return Table(rows, heads, _notes(result))


def _notes(result: Result) -> list[str]:
    mean, share = result["mean"], result["dense_share"]
    counted = [one["task"] for one in result["tasks"] if one["task"] not in result["not_counted"]]
    alone = f" It is about {counted[0]} alone." if len(counted) == 1 and mean["interval"] is not None else ""
    notes = [
        f"Mean gain {describe_effect(mean['gain'], mean, tables.signed_percent)}; better in {mean['wins']} of "
        f"{mean['n']} cells and on the average of {mean['tasks_won']} of {mean['tasks']} tasks.{alone}"
    ]
    if share:
        kept = (
            tables.MISSING if share[name] is None else f"{percent(share[name])} %{_interval(share[f'{name}_interval'])}"
            for name in ("target", "baseline")
        )
        constant = "" if share["constant"] is None else f", one answer for all examples {percent(share['constant'])} %"
        notes.append("Of the dense average the target keeps {}, the baseline {}{}.".format(*kept, constant))
        if share["no_interval"]:
            notes[-1] += f" Without an interval: {share['no_interval']}."
    notes += [describe_silent(result["not_counted"])] if result["not_counted"] else []
    notes += chance_note(f"{one['group']} on {one['task']} with seed {one['seed']}" for one in result["degenerate"])
    if result["missing"]:
        left = ", ".join(f"{one['task']} seed {one['seed']} ({one['group']})" for one in result["missing"])
        notes.append(f"Left out because a group lacks them: {left}.")
    return notes + unfair_note("the groups differ", result)


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f" {tables.format_interval(ends, percent)}"


def gain_figure(result: Result) -> Drawing:
    """Draw each cell's gain, each task's mean, and the mean over tasks with its interval."""
    tasks, mean = result["tasks"], result["mean"]
    last = len(tasks)
    with canvas(7.2, 1.5 + 0.42 * (last + 1), "gain") as (drawing, made):
        axes = drawing.add_subplot(xlabel="gain over the baseline (points)")
        axes.axvline(0.0, color=INK, linewidth=1.0)
        for position, task in enumerate(tasks):
            gains = percents(cell["gain"] for cell in result["cells"] if cell["task"] == task["task"])
            axes.plot(gains, [position] * len(gains), "o", color=ORANGE, markersize=5, alpha=0.75)
            axes.plot([100 * task["gain"]], [position], "|", color=BLUE, markersize=16, markeredgewidth=2.5)
        if mean["interval"] is not None:
            axes.plot(percents(mean["interval"]), [last, last], color=BLUE, linewidth=2.5)
        axes.plot([100 * mean["gain"]], [last], "D", color=BLUE, markersize=8)
        axes.axhline(last - 0.5, color=GRID, linewidth=0.8)
        names = (f"{task_title(task['task'])} ({in_words(task['metric'])})" for task in tasks)
        axes.set_yticks(range(last + 1), [*names, "mean over tasks"])
        axes.set_ylim(last + 0.6, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_title("Gain of each run (dots), mean, and 95 % interval")
    return made
