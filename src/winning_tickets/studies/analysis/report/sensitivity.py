"""The tables and the figure of `analyse sensitivity`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winning_tickets.report.comparisons import chance_note
from winning_tickets.report.figures import GRID, MARKERS, PALETTE, Drawing, add_legend, canvas, percents
from winning_tickets.report.tables import Result, Table, columns, format_count, format_interval, percent

_NAMES = {"learning_rate": "learning rate", "batch_size": "batch size", "steps": "steps"}


def sensitivity_table(result: Result) -> Table:
    """Return a row per group; further tables have each setting, and the differences from the dense model."""
    rows = [
        {**one, "seeds": len(one["seeds"]), "best_setting": _setting(result, one["best_setting"])}
        for one in result["groups"]
    ]
    heads = [
        *columns(group="Model or tickets"),
        *columns(percent, mean="Mean"),
        *columns(_fine, over_seeds="Std over seeds", over_settings="Std over settings", range="Range"),
        *columns(best_setting="Best setting"),
        *columns(percent, best_mean="Mean there"),
        *columns(format_count, settings="Settings", seeds="Seeds"),
    ]
    settings = [{**one, "setting": _setting(result, one)} for one in result["settings"]]
    setting_heads = [
        *columns(group="Model or tickets", setting="Setting"),
        *columns(percent, mean="Mean"),
        *columns(_fine, std="Std"),
        *columns(percent, best="Best", min="Min"),
        *columns(format_count, n="Seeds"),
    ]
    further = {"settings": Table(settings, setting_heads)}
    if result["differences"]:
        further["differences"] = _differences(result)
    return Table(rows, heads, _notes(result), further=further)


def _fine(value: float) -> str:
    """Return a deviation, times 100, with two decimals as in the paper."""
    return f"{100 * value:.2f}"


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}"


def _setting(result: Result, setting: Mapping[str, Any]) -> str:
    """Return, as text, the settings that vary in the analysis, or else the learning rate."""
    varied = [key for key in _NAMES if len({one[key] for one in result["settings"]}) > 1] or ["learning_rate"]
    return ", ".join(f"{_NAMES[key]} {setting[key]:g}" for key in varied)


def _differences(result: Result) -> Table:
    rows = []
    for one in result["differences"]:
        row = {**one, "setting": _setting(result, one), "interval": None, "surely": None}
        if one["interval"] is not None:
            low, high = one["interval"]
            row |= {"interval": format_interval((low, high), _signed), "surely": "yes" if low > 0 or high < 0 else "no"}
        rows.append(row)
    heads = [
        *columns(group="Tickets", setting="Setting"),
        *columns(_signed, difference=f"Against {result['baseline']}"),
        *columns(interval="95 %", surely="Differs"),
        *columns(format_count, wins="Wins", losses="Losses", n="Seeds"),
    ]
    return Table(rows, heads)


def _notes(result: Result) -> list[str]:
    notes = [
        f"{result['task']}, {result['metric']}, {result['score']} score of each seed. Std over seeds: of the mean over "
        "settings, over the seeds that all settings have; over settings: of the mean over seeds (ddof=1)."
    ]
    if result["baseline"] is None:
        notes.append("There is no dense model, or there are several, so nothing is compared with it.")
    elif result["differences"]:
        reasons = dict.fromkeys(one["no_interval"] for one in result["differences"] if one["interval"] is None)
        lacking = f" Without an interval: {'; '.join(reasons)}." if reasons else ""
        notes.append(f"Differences are paired by seed, with 95 % intervals over seeds.{lacking}")
    few = [one["group"] for one in result["groups"] if one["over_seeds"] is None]
    if few:
        notes.append(f"Fewer than two common seeds, so no deviation over seeds: {', '.join(few)}.")
    return notes + chance_note(one["group"] for one in result["settings"] if one["degenerate"])


def sensitivity_figure(result: Result) -> Drawing:
    """Draw each setting's seeds (dots), and their mean with one deviation on both sides."""
    groups = [one["group"] for one in result["groups"]]
    settings = list(dict.fromkeys(_setting(result, one) for one in result["settings"]))
    with canvas(max(6.0, 1.0 + 0.45 * len(settings) * (len(groups) + 1)), 4.2, "sensitivity") as (drawing, made):
        axes = drawing.add_subplot(ylabel=f"{result['metric']} (x 100)")
        for index, group in enumerate(groups):
            look = {"color": PALETTE[index % len(PALETTE)], "marker": MARKERS[index % len(MARKERS)]}
            label = group
            for one in result["settings"]:
                if one["group"] != group:
                    continue
                x = settings.index(_setting(result, one)) + 0.8 * ((index + 0.5) / len(groups) - 0.5)
                values, mean, std = percents(one["values"]), 100 * one["mean"], 100 * (one["std"] or 0.0)
                axes.plot([x - 0.04] * len(values), values, linestyle="", markersize=4, alpha=0.5, **look)
                axes.errorbar([x + 0.04], [mean], [std], markersize=8, capsize=3, label=label, **look)
                label = "_nolegend_"
        axes.set_xticks(range(len(settings)), [setting.replace(", ", "\n") for setting in settings], fontsize=9)
        axes.set_xlim(-0.5, len(settings) - 0.5)
        for place in range(len(settings) - 1):
            axes.axvline(place + 0.5, color=GRID, linewidth=0.8)
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="y")
        axes.set_title(f"{result['task']}: seeds (small), mean and deviation")
        add_legend(drawing, min(3, len(groups)))
    return made
