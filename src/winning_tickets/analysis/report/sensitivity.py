"""The tables and the figure of `analyse sensitivity`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winning_tickets.analysis.report import tables
from winning_tickets.analysis.report.figures import GRID, PALETTE, canvas
from winning_tickets.analysis.report.tables import AnalysisTable, Column, Result

_NAMES = {"learning_rate": "learning rate", "batch_size": "batch size", "steps": "steps"}
_MARKERS = "osD^vPX<>*"


def sensitivity_table(result: Result) -> AnalysisTable:
    """A row a group; below it each setting, and the differences to the dense model."""
    rows = [
        {**one, "seeds": len(one["seeds"]), "best_setting": _setting(result, one["best_setting"])}
        for one in result["groups"]
    ]
    columns = [
        Column("group", "Model or tickets"),
        Column("mean", "Mean", tables.percent),
        Column("over_seeds", "Std over seeds", _fine),
        Column("over_settings", "Std over settings", _fine),
        Column("range", "Range", _fine),
        Column("best_setting", "Best setting"),
        Column("best_mean", "Mean there", tables.percent),
        Column("settings", "Settings", tables.count),
        Column("seeds", "Seeds", tables.count),
    ]
    further = {"settings": _settings(result)}
    if result["differences"]:
        further["differences"] = _differences(result)
    return AnalysisTable(rows, columns, _notes(result), further)


def _fine(value: float) -> str:
    """A deviation, times 100, with two decimals as in the paper."""
    return f"{100 * value:.2f}"


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}"


def _setting(result: Result, setting: Mapping[str, Any]) -> str:
    """What differs among the settings of the analysis; the learning rate at least."""
    varied = [key for key in _NAMES if len({one[key] for one in result["settings"]}) > 1] or ["learning_rate"]
    return ", ".join(f"{_NAMES[key]} {setting[key]:g}" for key in varied)


def _settings(result: Result) -> AnalysisTable:
    rows = [{**one, "setting": _setting(result, one)} for one in result["settings"]]
    columns = [
        Column("group", "Model or tickets"),
        Column("setting", "Setting"),
        Column("mean", "Mean", tables.percent),
        Column("std", "Std", _fine),
        Column("best", "Best", tables.percent),
        Column("min", "Min", tables.percent),
        Column("n", "Seeds", tables.count),
    ]
    return AnalysisTable(rows, columns)


def _differences(result: Result) -> AnalysisTable:
    rows = []
    for one in result["differences"]:
        low, high = one["interval"] or (None, None)
        interval = None if low is None or high is None else f"[{_signed(low)}, {_signed(high)}]"
        surely = None if low is None or high is None else "yes" if low > 0 or high < 0 else "no"
        rows.append({**one, "setting": _setting(result, one), "interval": interval, "surely": surely})
    columns = [
        Column("group", "Tickets"),
        Column("setting", "Setting"),
        Column("difference", f"Against {result['baseline']}", _signed),
        Column("interval", "95 %"),
        Column("surely", "Differs"),
        Column("wins", "Wins", tables.count),
        Column("losses", "Losses", tables.count),
        Column("n", "Seeds", tables.count),
    ]
    return AnalysisTable(rows, columns)


def _notes(result: Result) -> list[str]:
    notes = [
        f"{result['task']}, {result['metric']}, {result['score']} score of each seed. Std over seeds: of the mean over "
        "settings, over the seeds that all settings have; over settings: of the mean over seeds (ddof=1)."
    ]
    if result["baseline"] is None:
        notes.append("There is no dense model, or there are several, so nothing is compared with it.")
    elif result["differences"]:
        notes.append(
            "Differences are paired by seed; intervals by Student's t (a paired t-test differs at 5 % where zero lies "
            "outside)."
        )
    few = [one["group"] for one in result["groups"] if one["over_seeds"] is None]
    if few:
        notes.append(f"Fewer than two common seeds, so no deviation over seeds: {', '.join(few)}.")
    constant = dict.fromkeys(one["group"] for one in result["settings"] if one["degenerate"])
    if constant:
        notes.append(f"One and the same prediction for everything, in some run: {', '.join(constant)}.")
    return notes


def sensitivity_figure(result: Result) -> dict[str, bytes]:
    """Each setting's seeds (dots), and their mean with one deviation on both sides."""
    groups = [one["group"] for one in result["groups"]]
    settings = list(dict.fromkeys(_setting(result, one) for one in result["settings"]))
    with canvas(max(6.0, 1.0 + 0.45 * len(settings) * (len(groups) + 1)), 4.2, "sensitivity") as (drawing, made):
        axes = drawing.add_subplot()
        for index, group in enumerate(groups):
            look = {"color": PALETTE[index % len(PALETTE)], "marker": _MARKERS[index % len(_MARKERS)]}
            name: str | None = group
            for one in result["settings"]:
                if one["group"] != group:
                    continue
                place = settings.index(_setting(result, one)) + 0.8 * ((index + 0.5) / len(groups) - 0.5)
                values = [100 * value for value in one["values"]]
                axes.plot([place - 0.04] * len(values), values, linestyle="", markersize=4, alpha=0.5, **look)
                spread = 100 * (one["std"] or 0.0)
                axes.errorbar(
                    [place + 0.04], [100 * one["mean"]], [spread], markersize=8, capsize=3, label=name, **look
                )
                name = None
        axes.set_xticks(range(len(settings)), [setting.replace(", ", "\n") for setting in settings], fontsize=9)
        axes.set_xlim(-0.5, len(settings) - 0.5)
        for between in range(len(settings) - 1):
            axes.axvline(between + 0.5, color=GRID, linewidth=0.8)
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_ylabel(f"{result['metric']} (x 100)")
        axes.set_title(f"{result['task']}: seeds (small), mean and deviation")
        drawing.legend(loc="outside lower center", ncols=min(3, len(groups)), frameon=False, fontsize=9)
    return made
