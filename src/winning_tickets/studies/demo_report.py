"""What `tickets demo` shows: one table for the terminal, and one HTML page with figures that explains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from winning_tickets.analysis.report import figures, tables
from winning_tickets.analysis.report.html import Figure, Section, Table, render
from winning_tickets.analysis.report.tables import Column

if TYPE_CHECKING:
    from rich.table import Table as ConsoleTable

Result = Mapping[str, Any]

MASK_TRAINING = "mask training (KD)"
_COLORS = {"dense": figures.BLACK, "random": figures.PURPLE, "magnitude": figures.ORANGE, MASK_TRAINING: figures.BLUE}
_KINDS = {"attention.output": "attention output", "intermediate": "FFN in", "output": "FFN out"}
_TREND_STEPS = 8

COLUMNS = (
    Column("name", "Method"),
    Column("sparsity", "Sparsity", tables.percent),
    Column("kd_in", "KD in", tables.decimal),
    Column("kd_out", "KD out", tables.decimal),
    Column("accuracy", "Accuracy", tables.percent),
    Column("accuracy_best", "Best", tables.percent),
    Column("seconds", "Search", tables.seconds),
)


def table(result: Result) -> str:
    """The demo's table in Markdown."""
    return tables.markdown(result["rows"], COLUMNS)


def console_table(result: Result) -> ConsoleTable:
    """The demo's table for a terminal."""
    return tables.console(result["rows"], COLUMNS)


def build(result: Result) -> str:
    """The demo's report.

    Args:
        result: what `tickets demo` stores in `result.json`.

    Returns:
        A self-contained HTML page.
    """
    share = f"{100 * result['sparsity']:.0f} %"
    summary = (
        f"Every ticket below leaves out {share} of the weights of {result['model']} (those of its Transformer layers "
        "and its word embedding). They differ only in which. The report compares how much of the full model's "
        f"behaviour each ticket keeps, and how well each one can then be fine-tuned. {_headline(result)}"
    )
    sections = [_table(result), _search(result), _preserved(result), _transfer(result), _changed(result)]
    sections += [_caveats(result), _provenance(result)]
    return render(f"A winning ticket in {result['model']}", summary, sections)


def _row(result: Result, name: str) -> Mapping[str, Any]:
    return next(row for row in result["rows"] if row["name"] == name)


def _headline(result: Result) -> str:
    """How the trained masks compare with magnitude pruning, in one sentence, whichever way it went."""
    trained, magnitude = _row(result, MASK_TRAINING), _row(result, "magnitude")
    if not magnitude["kd_in"] or not magnitude["kd_out"]:
        return ""
    inside, outside = (trained[key] / magnitude[key] for key in ("kd_in", "kd_out"))
    return (
        f"Here the trained masks have {inside:.2f} times the KD loss of magnitude pruning on text like that of the "
        f"search, and {outside:.2f} times on other text (below 1 is better)."
    )


def _table(result: Result) -> Section:
    text = (
        "KD loss says how far the hidden states of a ticket are from those of the full model: 0 means the same, larger "
        "is worse. Nothing has been fine-tuned for it. KD in: in domain, on held-out text of the kind that the search "
        "read. KD out: out of domain, on text of another kind.\n\n"
        "Accuracy is measured on held-out passages after a short fine-tuning of the weights that are left, at the last "
        "step. Best is the highest of all evaluations on the way, which is always a little flattering."
    )
    caption = (
        "Dense is the full model. Sparsity and accuracy are times 100. Search is the time that finding the "
        "ticket took. "
        f"Always answering with the most frequent class gives an accuracy of {_majority(result)}."
    )
    return Section("What came out", text, Table(caption, result["rows"], COLUMNS))


def _majority(result: Result) -> str:
    return tables.percent(result["majority"])


def _search(result: Result) -> Section:
    log = result["search_log"]
    steps, losses = [entry["step"] for entry in log], [entry["kd"] for entry in log]
    magnitude = _row(result, "magnitude")["kd_in"]
    blue = _COLORS[MASK_TRAINING]
    svg = figures.line_chart(
        [
            figures.Series("", steps, losses, blue, faint=True),
            figures.Series("mask training", steps, trailing_mean(losses, _TREND_STEPS), blue),
        ],
        "optimiser step",
        "KD loss",
        "KD loss along the search",
        {"magnitude": magnitude},
    )
    text = (
        "Each weight starts with a score: the larger the weight and the stronger its usual input, the higher. The KD "
        "loss then moves the scores; at each step the weights with the highest scores stay. The weights themselves "
        "never change."
    )
    caption = (
        "Pale: the loss of each step's own batch, which jumps because batches differ in length and topic. Strong: mean "
        f"of the last {_TREND_STEPS} steps. Dashed: magnitude pruning on held-out text, which is close to the loss on "
        "training batches, but not the same measure."
    )
    alt = (
        f"Line chart: KD loss from {losses[0]:.3f} at step {steps[0]} to {losses[-1]:.3f} at step {steps[-1]}; "
        f"magnitude has {magnitude:.3f}."
    )
    return Section("The search", text, figures=(Figure(svg, alt, caption),))


def trailing_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of each value and the up to `width - 1` values before it."""
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _preserved(result: Result) -> Section:
    pruned = [row for row in result["rows"] if row["sparsity"]]
    bars = [
        figures.Bars(row["name"], [row["kd_in"], row["kd_out"]], color=_COLORS.get(row["name"], "")) for row in pruned
    ]
    svg = figures.bar_chart(["in domain", "out of domain"], bars, "", "KD loss", "KD loss before fine-tuning")
    alt = "Bar chart of KD loss in and out of domain. " + " ".join(
        f"{row['name']}: {row['kd_in']:.3f} and {row['kd_out']:.3f}." for row in pruned
    )
    text = (
        "A ticket that keeps the full model's behaviour should do so on text that the search never saw. If the bars of "
        "the trained masks were low on the left only, the search would have fitted its corpus and not the model."
    )
    caption = "Lower is better. The full model has 0 by definition and is left out."
    return Section("What each ticket keeps of the full model", text, figures=(Figure(svg, alt, caption),))


def _transfer(result: Result) -> Section:
    logs = result["transfer_logs"]
    series = [
        figures.Series(name, [e["step"] for e in log], [100 * e["accuracy"] for e in log], color=_COLORS.get(name, ""))
        for name, log in logs.items()
        if log
    ]
    svg = figures.line_chart(
        series,
        "fine-tuning step",
        "accuracy (%)",
        "Accuracy along fine-tuning",
        {"majority class": 100 * result["majority"]},
    )
    alt = "Line chart of accuracy along fine-tuning. " + " ".join(
        f"{one.name} ends at {one.y[-1]:.1f} %." for one in series
    )
    text = (
        "The task is to tell which module of the Python standard library a passage documents. All four models are "
        "fine-tuned in the same way on the same examples; pruned weights stay exactly zero."
    )
    caption = f"Dashed: always answering with the most frequent module, {_majority(result)} %."
    return Section("Fine-tuning", text, figures=(Figure(svg, alt, caption),))


def _changed(result: Result) -> Section:
    changed = {_KINDS.get(kind, kind): value for kind, value in result["changed_by_kind"].items()}
    bars = [figures.Bars("changed", [100 * value for value in changed.values()], color=_COLORS[MASK_TRAINING])]
    svg = figures.bar_chart(
        list(changed),
        bars,
        "kind of matrix",
        "mask entries changed (%)",
        "Difference from magnitude, by kind of matrix",
    )
    alt = "Bar chart of the share of mask entries that differ from magnitude. " + " ".join(
        f"{kind}: {100 * value:.2f} %." for kind, value in changed.items()
    )
    text = (
        "Mask training swaps some of the weights that magnitude pruning keeps for as many that it removes. This is how "
        "often it did so in each kind of matrix."
    )
    unmoved = [kind for kind, value in changed.items() if value == 0]
    caption = "Share of entries whose state (kept or removed) is not the one of magnitude pruning."
    if unmoved:
        caption += f" Exactly zero: {', '.join(unmoved)}, whose masks the search left as they were."
    return Section("Which weights changed places", text, figures=(Figure(svg, alt, caption),))


def _caveats(result: Result) -> Section:
    points = (
        "One seed. With another seed each accuracy moves; small differences mean nothing here.",
        f"A short fine-tuning, {result['transfer_steps']} steps at most. It rewards a good start; longer fine-tuning "
        "can repair much of what a weaker ticket lost.",
        "A lower KD loss has not always led to a better fine-tuned model. It is a quick sign, not a proof.",
        "Zeros spread over a matrix do not make this model smaller on disk or faster: ordinary dense kernels compute "
        "them as well.",
        "The task and the text come from Python's own documentation. That is convenient, and narrow.",
    )
    return Section("What to keep in mind", points=points)


def _provenance(result: Result) -> Section:
    by_matrix = list(result["by_matrix"].values())
    facts = [
        ("Model", result["model"]),
        ("Search", f"{result['steps']} steps, {result['sparsity']:.0%} sparsity"),
        ("Whole demo", f"{result['seconds']:.0f} seconds"),
        ("Sparsity by matrix", f"{min(by_matrix):.4%} to {max(by_matrix):.4%} over {len(by_matrix)} matrices"),
    ]
    for group in ("corpus", "pydocs", "machine", "versions"):
        facts += [(f"{group}: {name}".replace("_", " "), _shown(value)) for name, value in result[group].items()]
    text = "Enough to repeat the run on the same kind of machine."
    return Section("How this was made", text, facts=tuple(facts))


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or tables.MISSING
    return tables.MISSING if value is None else str(value)
