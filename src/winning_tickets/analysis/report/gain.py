"""The table and the figure of `analyse gain`."""

from __future__ import annotations

from winning_tickets.analysis.report import tables
from winning_tickets.analysis.report.figures import BLUE, GRID, INK, ORANGE, Drawing, canvas, percents
from winning_tickets.analysis.report.tables import Result, Table, columns, format_count, percent


def gain_table(result: Result) -> Table:
    """Return the mean scores and the gain of each task, and their mean over tasks."""
    mean, share = result["mean"], result["dense_share"]
    average = {"task": "mean over tasks", "dense": share["dense"] if share else None}
    average |= {key: mean[key] for key in ("target", "baseline", "gain", "n", "wins", "ties", "losses")}
    heads = [
        *columns(task="Task", metric="Metric"),
        *columns(percent, baseline="Baseline", target="Target"),
        *columns(tables.signed_percent, gain="Gain"),
        *columns(percent, gain_std="± (seeds)"),
        *columns(format_count, n="Cells", wins="Better", ties="Equal", losses="Worse"),
        *(columns(percent, dense="Dense") if share else []),
    ]
    return Table([*result["tasks"], average], heads, _notes(result))


def _notes(result: Result) -> list[str]:
    mean, share = result["mean"], result["dense_share"]
    interval, inside = (
        tables.format_interval(mean[key], tables.signed_percent) for key in ("interval", "interval_within_tasks")
    )
    notes = [
        f"Mean gain {tables.signed_percent(mean['gain'])}, 95 % interval {interval} (bootstrap over {mean['n']} "
        f"cells); better in {mean['wins']} of {mean['n']} cells and on the average of {mean['tasks_won']} of "
        f"{mean['tasks']} tasks. With seeds resampled within each task: {inside}."
    ]
    alone = [one["task"] for one in result["tasks"] if one["n"] == 1]
    if alone and mean["interval_within_tasks"] is not None:
        notes[0] += f" The latter is too narrow, as there is only one seed of {', '.join(alone)}."
    if share:
        kept = (
            tables.MISSING
            if share[name] is None
            else f"{percent(share[name])} % {tables.format_interval(share[f'{name}_interval'], percent)}"
            for name in ("target", "baseline")
        )
        notes.append("Of the dense average the target keeps {}, the baseline {}.".format(*kept))
    if result["missing"]:
        left = ", ".join(f"{one['task']} seed {one['seed']} ({one['group']})" for one in result["missing"])
        notes.append(f"Left out because a group lacks them: {left}.")
    return notes + unfair_note("the groups differ", result)


def unfair_note(how: str, result: Result) -> list[str]:
    """Return a warning if compared runs differ in their settings; empty otherwise."""
    found = dict.fromkeys(f"{one['setting']} on {one['task']}" for one in result["different_settings"])
    return [f"Not a fair comparison: {how} in {', '.join(found)}."] if found else []


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
        axes.set_yticks(range(last + 1), [*(f"{task['task']} ({task['metric']})" for task in tasks), "mean over tasks"])
        axes.set_ylim(last + 0.6, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_title("Gain of each run (dots), mean, and 95 % interval")
    return made
