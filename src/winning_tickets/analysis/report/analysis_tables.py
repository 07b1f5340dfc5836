"""Analyses as tables: what a terminal shows and what `table.csv` holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from winning_tickets.analysis.report import tables
from winning_tickets.analysis.report.cards import cards_table
from winning_tickets.analysis.report.sensitivity import sensitivity_table
from winning_tickets.analysis.report.sharing import sharing_table
from winning_tickets.analysis.report.tables import MISSING, AnalysisTable, Column, Result, Row
from winning_tickets.analysis.report.winning import winning_table


def signed_percent(value: float) -> str:
    """A difference of fractions, times 100, with its sign."""
    return f"{100 * value:+.1f}"


def between(interval: Sequence[float] | None, form: Callable[[float], str]) -> str:
    """An interval in brackets."""
    return MISSING if interval is None else f"[{form(interval[0])}, {form(interval[1])}]"


def _gain(result: Result) -> AnalysisTable:
    mean, share = result["mean"], result["dense_share"]
    average = {
        "task": "mean over tasks",
        **{key: mean[key] for key in ("target", "baseline", "gain", "n", "wins", "ties", "losses")},
        "dense": share["dense"] if share else None,
    }
    columns = [
        Column("task", "Task"),
        Column("metric", "Metric"),
        Column("baseline", "Baseline", tables.percent),
        Column("target", "Target", tables.percent),
        Column("gain", "Gain", signed_percent),
        Column("gain_std", "± (seeds)", tables.percent),
        Column("n", "Cells", tables.count),
        Column("wins", "Better", tables.count),
        Column("ties", "Equal", tables.count),
        Column("losses", "Worse", tables.count),
    ]
    if share:
        columns.append(Column("dense", "Dense", tables.percent))
    notes = [
        f"Mean gain {signed_percent(mean['gain'])}, 95 % interval {between(mean['interval'], signed_percent)} "
        f"(bootstrap over {mean['n']} cells); better in {mean['wins']} of {mean['n']} cells and on the average of "
        f"{mean['tasks_won']} of {mean['tasks']} tasks. Seeds drawn within each task: "
        f"{between(mean['interval_within_tasks'], signed_percent)}."
    ]
    alone = [one["task"] for one in result["tasks"] if one["n"] == 1]
    if alone and mean["interval_within_tasks"] is not None:
        notes[0] += f" The latter is too narrow, as seeds of {', '.join(alone)} cannot be drawn: there is one."
    if share:
        notes.append(
            "Of the dense average the target keeps "
            f"{_share(share, 'target')}, the baseline {_share(share, 'baseline')}."
        )
    if result["missing"]:
        left = ", ".join(f"{one['task']} seed {one['seed']} ({one['group']})" for one in result["missing"])
        notes.append(f"Left out because a group lacks them: {left}.")
    notes += _settings_note(result["different_settings"])
    return AnalysisTable([*result["tasks"], average], columns, notes)


def _share(share: Result, name: str) -> str:
    if share[name] is None:
        return MISSING
    return f"{tables.percent(share[name])} % {between(share[f'{name}_interval'], tables.percent)}"


def _settings_note(differences: Sequence[Result]) -> list[str]:
    found = dict.fromkeys(f"{one['setting']} on {one['task']}" for one in differences)
    return [f"Not a fair comparison: the groups differ in {', '.join(found)}."] if found else []


def _similarity(result: Result) -> AnalysisTable:
    labels = result["labels"]
    rows = [
        {"ticket": label, "value": name, **dict(zip(labels, line, strict=True))}
        for name in ("jaccard", "chance")
        for label, line in zip(labels, result[name], strict=True)
    ]
    columns = [Column("ticket", "Ticket"), Column("value", "Value"), *(Column(x, x, tables.decimal) for x in labels)]
    over = "all weights together" if result["average"] == "pooled" else "matrices, each with equal weight"
    notes = [
        f"Jaccard similarity of {result['of']} weights over {over}; chance: what independent random masks of the same "
        "densities would have."
    ]
    if not result["same_base"]:
        notes.append("The tickets were made for different weights.")
    return AnalysisTable(rows, columns, notes)


def _distance(result: Result) -> AnalysisTable:
    rows = [
        {"search": one["label"], "sparsity": one["sparsity"], **point, **point["by_kind"]}
        for one in result["searches"]
        for point in one["checkpoints"]
    ]
    kinds = dict.fromkeys(
        kind for one in result["searches"] for point in one["checkpoints"] for kind in point["by_kind"]
    )
    columns = [
        Column("search", "Search"),
        Column("sparsity", "Sparsity", tables.percent),
        Column("step", "Step", tables.count),
        Column("to_reference", "From OMP" if result["reference"] is None else "From reference", tables.decimal),
        Column("to_first", "From first", tables.decimal),
        Column("to_previous", "From previous", tables.decimal),
        Column("chance", "Chance", tables.decimal),
        *(Column(kind, kind, tables.decimal) for kind in kinds),
    ]
    reference = "the OMP ticket of the same weights, sparsity, ranking and rounding"
    if result["reference"] is not None:
        reference = str(result["reference"])
    notes = [
        f"Distance: 1 - Jaccard similarity of kept weights. The columns after Chance: from {reference}, by kind of "
        "matrix. Chance: the distance of an independent random mask from it."
    ]
    return AnalysisTable(rows, columns, notes)


_MEASURES = {"kept": "kept", "empty_rows": "empty rows", "empty_columns": "empty columns"}


def _densities(result: Result) -> AnalysisTable:
    rows: list[dict[str, Any]] = []
    notes = []
    for ticket in result["tickets"]:
        for key, name in _MEASURES.items():
            values = [matrix[key] for matrix in ticket["matrices"]]
            if key == "kept" and ticket["constant"]:
                notes.append(
                    f"{ticket['label']}: every matrix keeps {tables.percent(values[0])} %, as ranking inside each "
                    "matrix does."
                )
            elif max(values) < 0.0005:  # would all be shown as 0.0
                notes.append(
                    f"{ticket['label']}: "
                    + (f"less than 0.05 % {name} in every matrix." if any(values) else f"no {name} in any matrix.")
                )
            else:
                lines = layer_rows(ticket, key, name)
                # Of empty rows and columns only the layers that have some: most have none.
                rows += lines if key == "kept" else [line for line in lines if _shows(line)]
    kinds = dict.fromkeys(matrix["kind"] for ticket in result["tickets"] for matrix in ticket["matrices"])
    columns = [
        Column("ticket", "Ticket"),
        Column("value", "Value"),
        Column("layer", "Layer"),
        *(Column(kind, kind, tables.percent) for kind in kinds),
    ]
    if rows:
        notes.append(
            "Percent of a matrix's weights that are kept, of its output rows and of its input columns without a kept "
            "weight."
        )
    return AnalysisTable(rows, columns, notes)


def _shows(line: Row) -> bool:
    """Whether some value of a layer's row would not be shown as 0.0."""
    return any(line[kind] >= 0.0005 for kind in line if kind not in LAYER_KEYS)


LAYER_KEYS = ("ticket", "value", "layer")
"""What a row of `layer_rows` has beside the kinds of matrices."""


def layer_rows(ticket: Result, key: str, name: str) -> list[dict[str, Any]]:
    """One row a layer, one key a kind of matrix; what lies outside the layers comes first.

    Several matrices of one kind in a layer (the two parts of a gated FFN) give their mean.
    """
    layers = dict.fromkeys(matrix["layer"] for matrix in ticket["matrices"])
    rows = []
    for layer in layers:
        row: dict[str, Any] = {"ticket": ticket["label"], "value": name, "layer": layer}
        by_kind: dict[str, list[float]] = {}
        for matrix in ticket["matrices"]:
            if matrix["layer"] == layer:
                by_kind.setdefault(matrix["kind"], []).append(matrix[key])
        rows.append(row | {kind: statistics.fmean(values) for kind, values in by_kind.items()})
    return rows


def correlation(value: float) -> str:
    """A correlation with two decimals and its sign."""
    return f"{value:+.2f}"


def _predictors(result: Result) -> AnalysisTable:
    rows = [
        {**{key: row[key] for key in ("label", "method", "sparsity", "mean")}, **row["predictors"], **row["scores"]}
        for row in result["rows"]
    ]
    columns = [
        Column("label", "Ticket"),
        Column("method", "Method"),
        Column("sparsity", "Sparsity", tables.percent),
        *(Column(name, name, tables.decimal) for name in result["predictors"]),
        *(Column(task, task, tables.percent) for task in result["tasks"]),
        Column("mean", "Mean", tables.percent),
    ]
    notes = [
        "Intervals: 95 %, bootstrap over tickets. Within: after taking away each sparsity's mean from both, over "
        "sparsities with several tickets. The dense model is no part of any correlation. A loss or a distance that "
        "predicts well has a correlation near -1."
    ]
    for key, what in (("not_transferred", "Evaluated, not fine-tuned"), ("not_evaluated", "Fine-tuned, not evaluated")):
        if result[key]:
            notes.append(f"{what}: {', '.join(result[key])}.")
    differences = dict.fromkeys(f"{one['setting']} on {one['task']}" for one in result["different_settings"])
    if differences:
        notes.append(f"Not a fair comparison: the transfer runs differ in {', '.join(differences)}.")
    return AnalysisTable(rows, columns, notes, {"correlations": _correlations(result)})


def _correlations(result: Result) -> AnalysisTable:
    rows = []
    for one in result["correlations"]:
        row = {key: one[key] for key in ("predictor", "task", "n", "pearson", "spearman")}
        for name in ("pearson", "spearman"):
            row[f"{name}_interval"] = None if one[name] is None else between(one[f"{name}_interval"], correlation)
            row[f"{name}_within"] = one["within_sparsity"][name]
        rows.append(row | {"n_within": one["within_sparsity"]["n"]})
    columns = [
        Column("predictor", "Predictor"),
        Column("task", "Task"),
        Column("n", "Tickets", tables.count),
        Column("pearson", "Pearson", correlation),
        Column("pearson_interval", "Interval"),
        Column("spearman", "Spearman", correlation),
        Column("spearman_interval", "Interval"),
        Column("n_within", "Tickets within", tables.count),
        Column("pearson_within", "Pearson within", correlation),
        Column("spearman_within", "Spearman within", correlation),
    ]
    return AnalysisTable(rows, columns)


TABLES: dict[str, Callable[[Result], AnalysisTable]] = {
    "similarity": _similarity,
    "distance": _distance,
    "densities": _densities,
    "predictors": _predictors,
    "gain": _gain,
    "winning": winning_table,
    "sharing": sharing_table,
    "sensitivity": sensitivity_table,
    "cards": cards_table,
}
"""The table of each analysis, by its kind."""


def table(result: Result) -> AnalysisTable:
    """The table of an analysis.

    Args:
        result: what a function of `ANALYSES` returned.
    """
    return TABLES[result["kind"]](result)
