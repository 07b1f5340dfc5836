"""The output of `tickets demo`: one table, and one HTML page with figures that explains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from winning_tickets.analysis.report import figures, tables
from winning_tickets.analysis.report.figures import Series, page_svg
from winning_tickets.analysis.report.page import fill_template
from winning_tickets.analysis.report.tables import Table, columns

Result = Mapping[str, Any]

MASK_TRAINING = "mask training (KD)"
_COLORS = {"dense": figures.BLACK, "random": figures.PURPLE, "magnitude": figures.ORANGE, MASK_TRAINING: figures.BLUE}
_KINDS = {"attention.output": "attention output", "intermediate": "FFN in", "output": "FFN out"}
_TREND_STEPS = 8


def table(result: Result) -> Table:
    """The demo's table."""
    heads = [
        *columns(name="Method"),
        *columns(tables.percent, sparsity="Sparsity"),
        *columns(tables.decimal, kd_in="KD in", kd_out="KD out"),
        *columns(tables.percent, accuracy="Accuracy", accuracy_best="Best"),
        *columns(tables.seconds, seconds="Search"),
    ]
    return Table(result["rows"], heads, title="Results")


def build(result: Result) -> str:
    """The demo's report as a self-contained HTML page, from the result that `tickets demo` stores."""
    rows = {row["name"]: row for row in result["rows"]}
    trained, magnitude = rows[MASK_TRAINING], rows["magnitude"]
    ratios = None
    if magnitude["kd_in"] and magnitude["kd_out"]:
        ratios = [f"{trained[key] / magnitude[key]:.2f}" for key in ("kd_in", "kd_out")]
    changed = {_KINDS.get(kind, kind): value for kind, value in result["changed_by_kind"].items()}
    values = {
        "result": result,
        "table": table(result),
        "share": f"{100 * result['sparsity']:.0f}",
        "majority": tables.percent(result["majority"]),
        "ratios": ratios,
        "trend_steps": _TREND_STEPS,
        "search": _search_figure(result["search_log"], magnitude["kd_in"]),
        "preserved": _preserved_figure([row for row in result["rows"] if row["sparsity"]]),
        "transfer": _transfer_figure(result),
        "changed": _changed_figure(changed),
        "unmoved": ", ".join(kind for kind, value in changed.items() if value == 0),
        "facts": _facts(result),
    }
    return fill_template("demo.html.j2", values, Path(__file__).parent / "report" / "templates")


def _figure(svg: str, *alt: str) -> dict[str, str]:
    return {"svg": page_svg(svg), "alt": " ".join(alt)}


def _search_figure(log: Sequence[Result], magnitude: float) -> dict[str, str]:
    steps, losses = [entry["step"] for entry in log], [entry["kd"] for entry in log]
    lines = [Series("", steps, losses), Series("mask training", steps, trailing_mean(losses, _TREND_STEPS))]
    title = "KD loss along the search"
    svg = figures.line_chart(lines, "optimizer step", "KD loss", title, {"magnitude": magnitude})
    ends = f"from {losses[0]:.3f} at step {steps[0]} to {losses[-1]:.3f} at step {steps[-1]}"
    return _figure(svg, f"Line chart: KD loss {ends}; magnitude has {magnitude:.3f}.")


def trailing_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and the up to `width - 1` values before it."""
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _preserved_figure(rows: Sequence[Result]) -> dict[str, str]:
    groups = ["in domain", "out of domain"]
    bars = [
        Series(row["name"], groups, [row["kd_in"], row["kd_out"]], color=_COLORS.get(row["name"], figures.BLUE))
        for row in rows
    ]
    svg = figures.bar_chart(groups, bars, "", "KD loss", "KD loss before fine-tuning")
    values = (f"{row['name']}: {row['kd_in']:.3f} and {row['kd_out']:.3f}." for row in rows)
    return _figure(svg, "Bar chart of KD loss in and out of domain.", *values)


def _transfer_figure(result: Result) -> dict[str, str]:
    lines = [
        Series(
            name,
            [entry["step"] for entry in log],
            figures.percents(entry["accuracy"] for entry in log),
            color=_COLORS.get(name, figures.BLUE),
            marker="o",
        )
        for name, log in result["transfer_logs"].items()
        if log
    ]
    levels = {"majority class": 100 * result["majority"]}
    svg = figures.line_chart(lines, "fine-tuning step", "accuracy (%)", "Accuracy along fine-tuning", levels)
    ends = (f"{one.name} ends at {one.y[-1]:.1f} %." for one in lines)
    return _figure(svg, "Line chart of accuracy along fine-tuning.", *ends)


def _changed_figure(changed: Mapping[str, float]) -> dict[str, str]:
    bars = [Series("", list(changed), figures.percents(changed.values()))]
    title = "Difference from magnitude, by kind of matrix"
    svg = figures.bar_chart(list(changed), bars, "kind of matrix", "mask entries changed (%)", title)
    values = (f"{kind}: {100 * value:.2f} %." for kind, value in changed.items())
    return _figure(svg, "Bar chart of the share of mask entries that differ from magnitude.", *values)


def _facts(result: Result) -> dict[str, str]:
    """Names and values that are needed to repeat the run."""
    by_matrix = list(result["by_matrix"].values())
    facts = {
        "Model": result["model"],
        "Search": f"{result['steps']} steps, {result['sparsity']:.0%} sparsity",
        "Whole demo": f"{result['seconds']:.0f} seconds",
        "Sparsity by matrix": f"{min(by_matrix):.4%} to {max(by_matrix):.4%} over {len(by_matrix)} matrices",
    }
    for group in ("corpus", "pydocs", "machine", "versions"):
        facts |= {f"{group}: {name}".replace("_", " "): _fact(value) for name, value in result[group].items()}
    return facts


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or tables.MISSING
    return tables.MISSING if value is None else str(value)
