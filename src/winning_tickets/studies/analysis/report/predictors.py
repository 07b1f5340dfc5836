"""The tables and the figure of `analyse predictors`."""

from __future__ import annotations

from itertools import cycle

from winning_tickets.report import figures, tables
from winning_tickets.report.comparisons import chance_note, unfair_note
from winning_tickets.report.style import DASHED, FRAME, MARKERS, in_words, looks
from winning_tickets.report.tables import Result, Table, columns


def predictors_table(result: Result) -> Table:
    """Return the predictors and the scores of each ticket, and the correlations."""
    rows = [
        {**{key: row[key] for key in ("label", "method", "sparsity", "mean")}, **row["predictors"], **row["scores"]}
        for row in result["rows"]
    ]
    heads = [
        *columns(label="Ticket", method="Method"),
        *columns(tables.percent, sparsity="Sparsity"),
        *(tables.Column(name, name, tables.decimal) for name in result["predictors"]),
        *(tables.Column(task, task, tables.percent) for task in result["tasks"]),
        *columns(tables.percent, mean="Mean"),
    ]
    notes = [
        "Intervals: 95 %, by leaving out one method after the other. Within methods and within sparsities: after "
        "subtracting the mean of each from both, over those with several tickets. No correlation includes the dense "
        "model. A loss or a distance that predicts well has a correlation near -1, within methods too."
    ]
    few = dict.fromkeys(one["no_interval"] for one in result["correlations"] if one["no_interval"])
    notes += [f"Without an interval: {'; '.join(few)}."] if few else []
    for key, what in (("not_transferred", "Evaluated, not fine-tuned"), ("not_evaluated", "Fine-tuned, not evaluated")):
        if result[key]:
            notes.append(f"{what}: {', '.join(result[key])}.")
    notes += chance_note(f"{one['group']} on {one['task']} with seed {one['seed']}" for one in result["degenerate"])
    notes += unfair_note("the transfer runs differ", result)
    return Table(rows, heads, notes, further={"correlations": _correlations(result)})


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _correlations(result: Result) -> Table:
    rows = []
    for one in result["correlations"]:
        row = {key: one[key] for key in ("predictor", "task", "n", "methods", "pearson", "spearman")}
        row["interval"] = one["pearson_interval"] and tables.format_interval(one["pearson_interval"], _signed)
        for group in ("method", "sparsity"):
            inside = one[f"within_{group}"]
            row |= {f"n_{group}": inside["n"], f"pearson_{group}": inside["pearson"]}
            row[f"spearman_{group}"] = inside["spearman"]
        rows.append(row)
    heads = [
        *columns(predictor="Predictor", task="Task"),
        *columns(tables.format_count, n="Tickets", methods="Methods"),
        *columns(_signed, pearson="Pearson"),
        *columns(interval="Interval"),
        *columns(_signed, spearman="Spearman"),
    ]
    for group, title in (("method", "methods"), ("sparsity", "sparsities")):
        heads += columns(tables.format_count, **{f"n_{group}": f"Tickets within {title}"})
        heads += columns(_signed, **{f"pearson_{group}": f"Pearson within {title}"})
        heads += columns(_signed, **{f"spearman_{group}": f"Spearman within {title}"})
    return Table(rows, heads)


def predictors_figure(result: Result) -> figures.Drawing:
    """Draw one panel per predictor: its value before fine-tuning against the mean score (TAMT, Figure 5)."""
    names = result["predictors"]
    tickets = [row for row in result["rows"] if row["ticket_id"] is not None]
    scored = [row for row in tickets if row["mean"] is not None]
    dense = [row["mean"] for row in result["rows"] if row["ticket_id"] is None and row["mean"] is not None]
    methods = sorted({row["method"] for row in tickets})
    colors = {method: look.color for method, look in zip(methods, looks(methods, apart=True), strict=True)}
    sparsities = sorted({round(row["sparsity"], 3) for row in tickets})
    markers = dict(zip(sparsities, cycle(MARKERS), strict=False))
    across, down = figures.layout_panels(len(names))
    with figures.canvas(max(6.0, 3.5 * across), 3.0 * down + 1.0, "predictors") as (drawing, made):
        for name, axes in zip(names, figures.add_panels(drawing, len(names), sharey=True), strict=True):
            for row in scored:
                if (value := row["predictors"].get(name)) is not None:
                    look = {"marker": markers[round(row["sparsity"], 3)], "color": colors[row["method"]]}
                    axes.plot([value], [100 * row["mean"]], linestyle="", markersize=7, alpha=0.85, **look)
            if not scored:
                axes.text(0.5, 0.5, "no ticket has all tasks", ha="center", transform=axes.transAxes, fontsize=9)
            for score in dense:
                axes.axhline(100 * score, **DASHED)
            axes.set_title(in_words(name), fontsize=10)
            axes.set_xlabel(_correlation_text(result, name), fontsize=9)
            axes.grid()
            axes.margins(0.12)
        drawing.supylabel("score after fine-tuning, mean over tasks (x 100)", fontsize=10)
        handles = [figures.swatch(method, marker="o", linestyle="", color=color) for method, color in colors.items()]
        handles += [
            figures.swatch(f"{100 * sparsity:g} % sparsity", marker=marker, linestyle="", color=FRAME)
            for sparsity, marker in markers.items()
        ]
        figures.add_legend(drawing, 4, [*handles, *([figures.swatch("dense", **DASHED)] if dense else [])])
    return made


def _correlation_text(result: Result, name: str) -> str:
    one = next(one for one in result["correlations"] if one["predictor"] == name)
    if one["spearman"] is None:
        return f"{one['n']} tickets"
    within = one["within_method"]["spearman"]
    inside = "" if within is None else f", within methods {within:+.2f}"
    return f"Spearman {one['spearman']:+.2f}{inside} (n = {one['n']})"
