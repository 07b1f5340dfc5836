"""The tables and the figure of `analyse cards`."""

from __future__ import annotations

from typing import Any

from winning_tickets.analysis.report import tables
from winning_tickets.analysis.report.figures import BLUE, GRID, ORANGE, canvas
from winning_tickets.analysis.report.tables import AnalysisTable, Column, Result


def cards_table(result: Result) -> AnalysisTable:
    """A row a task, as in Table 9, with text lengths, the majority baseline and what dev and training set share."""
    columns = [
        Column("task", "Task"),
        Column("train", "Train", tables.count),
        Column("dev", "Dev"),
        Column("test", "Test"),
        Column("labels", "Labels", tables.count),
        Column("metrics", "Metrics"),
        Column("words", "Words (min / median / max)"),
        Column("majority", "Majority baseline"),
        Column("in_train", "Dev in train", tables.count),
        Column("repeated", "Repeated in train", tables.count),
    ]
    rows = [_row(card) for card in result["cards"]]
    return AnalysisTable(rows, columns, _notes(result), {"labels": _labels(result)})


def _row(card: Result) -> dict[str, Any]:
    train, *others = card["splits"]
    words, majority = train["words"], card["majority"]
    return {
        "task": card["task"],
        "train": train["examples"],
        "dev": " / ".join(f"{split['examples']:,}" for split in others),
        "test": None if card["test"] is None else " / ".join(f"{count:,}" for count in card["test"].values()),
        "labels": len(card["labels"]) or (1 if card["kind"] == "regression" else None),
        "metrics": ", ".join(card["metrics"]),
        "words": None if words is None else f"{words['min']} / {words['median']:g} / {words['max']}",
        "majority": None if majority is None else _baseline(card, majority),
        "in_train": sum(one["examples"] for one in card["in_train"].values()),
        "repeated": train["repeated"],
    }


def _baseline(card: Result, majority: Result) -> str:
    """`accuracy 52.7`, of each metric; of several dev sets each one's."""
    shown = []
    for metric in card["metrics"]:
        values = [scores[metric] for scores in majority["scores"].values()]
        shown.append(f"{metric} {' / '.join(f'{100 * value:.1f}' for value in values)}")
    return ", ".join(shown)


def _labels(result: Result) -> AnalysisTable:
    """Shares of classes, or the spread of scores, by split."""
    rows: list[dict[str, Any]] = []
    for card in result["cards"]:
        for split in card["splits"]:
            common = {"task": card["task"], "split": split["split"]}
            counts = split["labels"] or {}
            total = sum(counts.values())
            rows += [
                common | {"label": name, "count": count, "share": count / total if total else None}
                for name, count in counts.items()
            ]
            if split["scores"] is not None:
                spread = " / ".join(f"{split['scores'][key]:.2f}" for key in ("min", "median", "max"))
                rows.append(common | {"label": f"scores {spread}", "count": split["examples"]})
    columns = [
        Column("task", "Task"),
        Column("split", "Split"),
        Column("label", "Label"),
        Column("count", "Count", tables.count),
        Column("share", "Share", tables.percent),
    ]
    return AnalysisTable(rows, columns)


def _notes(result: Result) -> list[str]:
    cards = result["cards"]
    notes = [
        "Words of all texts of an example, split at spaces, in the training set. Baseline: always the class that is "
        "most frequent in training. Repeated and dev in train: the same texts, case and spaces apart."
    ]
    other = {card["task"]: sum(one["other_label"] for one in card["in_train"].values()) for card in cards}
    if any(other.values()):
        named = ", ".join(f"{task} {count}" for task, count in other.items() if count)
        notes.append(f"Dev examples that are in the training set with another label only: {named}.")
    unlabelled = [
        f"{split['unlabelled']} of {card['task']} {split['split']}"
        for card in cards
        for split in card["splits"]
        if split["unlabelled"]
    ]
    if unlabelled:
        notes.append(f"Rows without a label, left out: {', '.join(unlabelled)}.")
    return notes


def cards_figure(result: Result) -> dict[str, bytes]:
    """Examples of each split, and from the shortest to the longest text, its median marked."""
    from matplotlib.ticker import LogLocator, NullLocator

    cards = result["cards"]
    with canvas(8.4, 1.6 + 0.36 * len(cards), "cards") as (drawing, made):
        sizes, lengths = drawing.subplots(1, 2, sharey=True)
        for place, card in enumerate(cards):
            train, *others = card["splits"]
            sizes.plot([train["examples"]], [place], "o", color=BLUE)
            sizes.plot([split["examples"] for split in others], [place] * len(others), "s", color=ORANGE, markersize=5)
            words = train["words"]
            if words is not None:
                # A text may be empty, and zero has no place on a logarithmic axis.
                lengths.plot([max(1, words["min"]), words["max"]], [place, place], color=BLUE, linewidth=2.0)
                lengths.plot([words["median"]], [place], "o", color=BLUE)
        for axes in (sizes, lengths):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.tick_params(axis="x", labelsize=8)
            axes.grid(axis="x", color=GRID, linewidth=0.8)
            axes.tick_params(axis="y", length=0)
        sizes.set_yticks(range(len(cards)), [card["task"] for card in cards])
        sizes.set_ylim(len(cards) - 0.5, -0.5)
        sizes.set_title("Examples: train (dots), dev (squares)", fontsize=10)
        lengths.set_title("Words: shortest, median, longest", fontsize=10)
    return made
