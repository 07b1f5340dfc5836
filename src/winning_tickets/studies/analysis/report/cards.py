"""The tables and the figure of `analyse cards`."""

from __future__ import annotations

from winning_tickets.data.tasks import task_title
from winning_tickets.report.figures import Drawing, add_panels, canvas, layout_panels
from winning_tickets.report.style import BLUE, ORANGE
from winning_tickets.report.tables import Result, Row, Table, columns, format_count, percent


def cards_table(result: Result) -> Table:
    """Return a row per task, as in Table 9, with text lengths, the majority baseline, and dev examples in train."""
    heads = [
        *columns(task="Task"),
        *columns(format_count, train="Train"),
        *columns(dev="Dev", test="Test"),
        *columns(format_count, labels="Labels"),
        *columns(metrics="Metrics", words="Words (min / median / max)", majority="Majority baseline"),
        *columns(format_count, in_train="Dev in train", repeated="Repeated in train"),
    ]
    rows = [_row(card) for card in result["cards"]]
    return Table(rows, heads, _notes(result), further={"labels": _labels(result)})


def _row(card: Result) -> Row:
    train, *others = card["splits"]
    words, majority = train["words"], card["majority"]
    baseline = None
    if majority is not None:
        # `accuracy 52.7` for each metric; with several dev sets the score of each.
        baseline = ", ".join(
            f"{metric} {' / '.join(percent(scores[metric]) for scores in majority['scores'].values())}"
            for metric in card["metrics"]
        )
    return {
        "task": card["task"],
        "train": train["examples"],
        "dev": " / ".join(f"{split['examples']:,}" for split in others),
        "test": None if card["test"] is None else " / ".join(f"{number:,}" for number in card["test"].values()),
        "labels": len(card["labels"]) or (1 if card["kind"] == "regression" else None),
        "metrics": ", ".join(card["metrics"]),
        "words": None if words is None else f"{words['min']} / {words['median']:g} / {words['max']}",
        "majority": baseline,
        "in_train": sum(one["examples"] for one in card["in_train"].values()),
        "repeated": train["repeated"],
    }


def _labels(result: Result) -> Table:
    """Return the shares of classes, or the spread of scores, by split."""
    rows: list[Row] = []
    for card in result["cards"]:
        for split in card["splits"]:
            common = {"task": card["task"], "split": split["split"]}
            counts = split["labels"] or {}
            total = sum(counts.values())
            rows += [
                common | {"label": name, "count": number, "share": number / total if total else None}
                for name, number in counts.items()
            ]
            if split["scores"] is not None:
                spread = " / ".join(f"{split['scores'][key]:.2f}" for key in ("min", "median", "max"))
                rows.append(common | {"label": f"scores {spread}", "count": split["examples"]})
    heads = [*columns(task="Task", split="Split", label="Label"), *columns(format_count, count="Count")]
    return Table(rows, [*heads, *columns(percent, share="Share")])


def _notes(result: Result) -> list[str]:
    cards = result["cards"]
    notes = [
        "Words of all texts of an example, split at spaces, in the training set. Baseline: always the class that is "
        "most frequent in training. Repeated and dev in train: the same texts, case and spaces apart."
    ]
    other = {card["task"]: sum(one["other_label"] for one in card["in_train"].values()) for card in cards}
    if any(other.values()):
        named = ", ".join(f"{task} {number}" for task, number in other.items() if number)
        notes.append(f"Dev examples that are in the training set with another label only: {named}.")
    unlabeled = [
        f"{split['unlabelled']} of {card['task']} {split['split']}"
        for card in cards
        for split in card["splits"]
        if split["unlabelled"]
    ]
    if unlabeled:
        notes.append(f"Rows without a label, left out: {', '.join(unlabeled)}.")
    return notes


def cards_figure(result: Result) -> Drawing:
    """Draw the number of examples of each split, and the range of text lengths with the median."""
    from matplotlib.ticker import LogLocator, NullLocator

    cards = result["cards"]
    across, down = layout_panels(2)
    with canvas(4.2 * across, (1.6 + 0.36 * len(cards)) * down, "cards") as (drawing, made):
        sizes, lengths = add_panels(drawing, 2, sharey=True)
        for place, card in enumerate(cards):
            train, *others = card["splits"]
            sizes.plot([train["examples"]], [place], "o", color=BLUE)
            sizes.plot([split["examples"] for split in others], [place] * len(others), "s", color=ORANGE, markersize=5)
            words = train["words"]
            if words is not None:
                # A text may be empty, and a logarithmic axis has no zero.
                lengths.plot([max(1, words["min"]), words["max"]], [place, place], color=BLUE, linewidth=2.0)
                lengths.plot([words["median"]], [place], "o", color=BLUE)
        for axes in (sizes, lengths):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.tick_params(axis="x", labelsize=8)
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
        sizes.set_yticks(range(len(cards)), [task_title(card["task"]) for card in cards])
        sizes.set_ylim(len(cards) - 0.5, -0.5)
        sizes.set_title("Examples: train (dots), dev (squares)", fontsize=10)
        lengths.set_title("Words: shortest, median, longest", fontsize=10)
    return made
