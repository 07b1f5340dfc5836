"""The table, the trade-off curve and the page of `shrink`, and the model card of each small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from winning_tickets.report.figures import Drawing, Series, canvas, draw_line, page_svg
from winning_tickets.report.page import fill_template
from winning_tickets.report.style import DASHED, ORANGE
from winning_tickets.report.tables import Result, Row, Table, columns, decimal, format_count
from winning_tickets.runs.escapes import markdown_cell, markdown_code
from winning_tickets.runs.files import write_text
from winning_tickets.tickets.cards import CARD, base_facts, front_matter

PAGE = "report.html"
_QUALITY = {"kd_loss": "KD loss", "embedding_distance": "Embedding distance"}
_LOWER_IS_BETTER = (*_QUALITY, "pairs_from", "pairs")


def shrink_table(result: Result) -> Table:
    """Return a row for the dense model, for each small model and for its exports."""
    metrics = _metrics(result)
    heads = [
        *columns(model="Model"),
        *columns(format_count, parameters="Parameters"),
        *columns(lambda value: f"{value / 1e9:.2f}", flops="GFLOPs"),
        *columns(lambda value: f"{1000 * value:.1f}", latency="Latency (ms)"),
        *columns(lambda value: f"{value:.1f}", texts="Texts per second"),
        *columns(str, speedup="Speed-up"),
        *columns(decimal, **_QUALITY),
        *columns(lambda value: f"{100 * value:.2f}", **{name: name.replace("_", " ") for name in metrics}),
    ]
    rows: list[Row] = []
    for name, facts in _models(result):
        speed = facts["speedup"]
        low, high = speed["lower_quartile"], speed["upper_quartile"]
        rows.append(
            {
                "model": name,
                "parameters": facts.get("parameters"),
                "flops": facts.get("flops"),
                "latency": facts["latency_seconds"]["median"],
                "texts": facts["texts_per_second"]["median"],
                "speedup": f"{speed['median']:.2f} [{low:.2f}, {high:.2f}]",
            }
            | facts["quality"]
        )
    notes = [
        f"Batch of {result['batch']} texts of {result['length']} tokens, {_threads(result)}, "
        f"{result['repeats']} passes of each model in turns; speed-ups are medians of ratios of adjacent passes, with "
        "quartiles.",
        "KD loss and embedding distance: 1 - cosine to the dense model, of all states and of pooled embeddings, on "
        "text that the model was not trained on; early stopping saw it.",
    ]
    notes += [
        f"The format {form} of {name} failed: {reason}"
        for name, forms in result.get("failed_formats", {}).items()
        for form, reason in forms.items()
    ]
    return Table(rows, heads, notes, title=f"{base_facts(result['model'])['base']}, dense and small")


def _models(result: Result) -> list[tuple[str, Result]]:
    """Return the names and measurements of all models: dense, small, and exports."""
    found = [("dense", result["dense"])]
    for one in result["models"]:
        found.append((one["name"], one))
        found += [(f"{one['name']}, {form}", one[form]) for form in ("onnx", "int8") if form in one]
    return found


def _metrics(result: Result) -> list[str]:
    """Return the names of the scores of the task or of the similarity."""
    return [name for name in result["dense"]["quality"] if name not in _LOWER_IS_BETTER]


def shrink_figure(result: Result) -> Drawing:
    """Draw the last score, or the KD loss if there is no score, against the speed-up of the dense and small models."""
    metric = (_metrics(result) or ["kd_loss"])[-1]
    models = [result["dense"], *sorted(result["models"], key=lambda one: one["speedup"]["median"])]
    speeds = [one["speedup"] for one in models]
    label = metric.replace("_", " ")
    with canvas(5.6, 3.6, f"shrink {label}") as (drawing, made):
        axes = drawing.add_subplot(xlabel="speed-up", ylabel=label)
        axes.axhline(models[0]["quality"][metric], **DASHED)
        xs = [speed["median"] for speed in speeds]
        draw_line(axes, Series("", xs, [one["quality"][metric] for one in models], color=ORANGE, marker="o"))
        axes.grid(axis="y")
        axes.set_title("Quality by speed-up")
    return made


def write_report(result: dict[str, Any], folder: Path) -> None:
    """Write `report.html`, and the table into the model card of each small model."""
    table = shrink_table(result)
    drawn = page_svg(shrink_figure(result)["svg"].decode().strip()) if len(result["models"]) > 1 else None
    values = {
        "result": result,
        "table": table,
        "curve": drawn,
        "layers": [layer_table(one) for one in result["models"]],
    }
    write_text(folder / PAGE, fill_template("shrink.html.j2", values))
    for one in result["models"]:
        write_text(folder / one["folder"] / "model" / CARD, _card(result, one, table))


def _threads(result: Result) -> str:
    return f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"


def layer_table(one: Result) -> Table:
    """Return the numbers of heads and neurons in the layers of a small model."""
    heads = [*columns(layer="Layer of the dense model"), *columns(format_count, heads="Heads", neurons="Neurons")]
    return Table(one["layers"], heads, title=f"Layers of {one['name']}")


def _card(result: Result, one: Result, table: Table) -> str:
    """Return a model card in Markdown."""
    dense = base_facts(result["model"])
    known = {"base_model": dense["base"] if dense["on_hub"] else None, "license": dense["license"]}
    metadata = {"library_name": "transformers"} | {key: value for key, value in known.items() if value}
    lines = ["---", front_matter(metadata | {"tags": ["winning-tickets"]}), "---", ""]
    lines += [f"# {markdown_cell(dense['base'])}, made faster", ""]
    speed, recovery = one["speedup"]["median"], one["recovery"]
    lines.append(
        f"Made from {markdown_code(dense['base'])} by `tickets shrink`: heads, neurons and layers were removed, and "
        f"the rest learned for {recovery['steps']:,} steps to follow the dense model. It is {speed:.2f} times as fast "
        f"at batches of {result['batch']} texts of {result['length']} tokens on {_threads(result)}."
    )
    lines += ["", table.markdown(), layer_table(one).markdown()]
    if one["remote_code"]:
        lines += [
            "Load it with `AutoModel.from_pretrained(DIR, trust_remote_code=True)`, or in sentence-transformers with "
            "`SentenceTransformer(DIR, trust_remote_code=True)`.",
            "",
            result["note"],
        ]
    else:
        lines += ["It loads as an ordinary model of its class, without remote code."]
    return "\n".join(lines) + "\n"


def as_text(result: Result) -> str:
    """Return the table and the folders for a terminal."""
    table = shrink_table(result)
    shown = [column for column in table.columns if any(row.get(column.key) is not None for row in table.rows)]
    lines = [Table(table.rows, shown).text()]
    for one in result["models"]:
        recovery = one["recovery"]
        lines.append(
            f"{one['name']}: {recovery['steps']} steps in {recovery['seconds']:.0f} s, held-out loss "
            f"{recovery['before']['sum']:.4f} -> {recovery['after']['sum']:.4f}"
        )
    if "note" in result:
        lines.append(result["note"])
    return "\n".join(lines)
