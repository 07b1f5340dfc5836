"""Draw the figures of the results pages from their committed numbers.

    python docs/results/figures.py [--check]

With `--check`, only say which figures differ from the committed files.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from typing import Any

import yaml
from front import ROWS, found, interval
from intervals import HERE

from winning_tickets.report.figures import Drawing, canvas
from winning_tickets.report.result import super_figure
from winning_tickets.report.style import BLACK, BLUE
from winning_tickets.studies.analysis.report.sharing import sharing_figure
from winning_tickets.studies.load import load_study
from winning_tickets.studies.report.charts import draw_plot
from winning_tickets.studies.report.observations import StudyRun
from winning_tickets.studies.report.plots import plot_grid, plot_of

GRAY = "#666666"


def differences() -> Drawing:
    """Return the forest plot of the front page: the differences of `front.ROWS`, in points."""
    lines = sum(1 + len(rows) for rows in ROWS.values())
    with canvas(9.0, 0.26 * lines + 0.9, "do tickets win", ("svg",)) as (drawing, made):
        drawing.set_layout_engine("none")
        axes = drawing.add_axes((0.41, 0.12, 0.4, 0.87))
        axes.axvline(0, color=BLACK, linewidth=0.9)
        drawing.patch.set_facecolor("white")
        drawing.patch.set_alpha(1)
        at, content = 0, found()
        text = {"va": "center", "fontsize": 9.5, "transform": axes.get_yaxis_transform(), "clip_on": False}
        for group, rows in ROWS.items():
            axes.text(-1.0, at, group, ha="left", weight="bold", **text)
            at += 1
            for words, tasks, name in rows:
                one = content[name]
                low, high = (100 * end for end in one["interval"])
                estimate = 100 * one["estimate"]
                color = BLUE if low > 0 or high < 0 else GRAY
                axes.plot([low, high], [at, at], color=color, linewidth=2, solid_capstyle="butt")
                axes.plot([estimate], [at], "o", color=color, markersize=6)
                axes.text(-0.96, at, words, ha="left", **text)
                axes.text(-0.03, at, tasks, ha="right", color=GRAY, **text)
                axes.text(1.03, at, f"{estimate:+.1f} {interval(name)}", ha="left", color=color, **text)
                at += 1
        axes.set(
            ylim=(at - 0.5, -0.7), xlim=(-8, 21), yticks=[], xlabel="difference of scores in points, 95 % interval"
        )
        axes.grid(axis="x")
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
    return made


def of_study(folder: str, name: str, runs: list[StudyRun]) -> Drawing:
    """Return a figure of a study, as its report has it."""
    plot = plot_of(load_study(HERE / folder / "study.yaml"), name, runs)
    return draw_plot(plot, ("svg",), plot_grid(plot))


def stored_runs(folder: str) -> list[StudyRun]:
    """Return the runs of a report from its `runs.csv`, which has a line for each number of a result."""
    runs: dict[tuple[str, str], StudyRun] = {}
    with (HERE / folder / "report/runs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            path, number = row.pop("value").split("."), float(row.pop("number"))
            run, stage, verb, status = (row.pop(key) for key in ("run", "stage", "verb", "status"))
            axes = {axis: yaml.safe_load(text) for axis, text in row.items() if text}
            one = runs.setdefault((run, str(axes)), StudyRun(run, stage, verb, axes, status=status, result={}))
            place: Any = one.result
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = number
    for one in runs.values():
        if metrics := (one.result or {}).get("metrics"):
            one.result["primary_metric"] = next(iter(metrics))
    return list(runs.values())


def phases() -> list[StudyRun]:
    """Return the runs of the study of super tickets, from their results; each is a point for every level."""
    runs = []
    for file in sorted((HERE / "super_tickets/raw").glob("study-*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        axes = {"task": result["task"], "seed": result["seeds"][0]}
        runs.append(StudyRun(file.stem, "single", "super", axes, status="done", result=result))
        for selection, levels in result["selections"].items():
            runs += [
                StudyRun(
                    file.stem, "phases", "super", axes | {"selection": selection, "level": level}, {}, "done", result
                )
                for level in levels
            ]
    return runs


def one_super_ticket() -> Drawing:
    """Return the phases of the search of one seed."""
    return super_figure(json.loads((HERE / "super_tickets/raw/super-stsb.json").read_text(encoding="utf-8")))


def pies() -> Drawing:
    """Return the importance of heads and FFNs (radius) and the tasks' shares (slices) of four tickets in MiniLM."""
    with (HERE / "sharing/raw/structures.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tasks = [name.removeprefix("share.") for name in rows[0] if name.startswith("share.")]
    structures = [
        {
            **{key: int(row[key]) for key in ("layer", "index")},
            "unit": row["unit"],
            "importance": float(row["importance"]),
            "share": {task: float(row[f"share.{task}"] or 0) for task in tasks},
        }
        for row in rows
    ]
    about = {"encoder": {"layers": 6, "heads": 12}, "importance": "stored", "tasks": [{"task": name} for name in tasks]}
    return sharing_figure(about | {"structures": structures})


FIGURES: dict[str, Callable[[], Drawing]] = {
    "figure.svg": differences,
    "mask_training/steps/report/figure-steps.svg": lambda: of_study(
        "mask_training/steps", "steps", stored_runs("mask_training/steps")
    ),
    "sharing/report/figure-adapted.svg": lambda: of_study("sharing", "adapted", stored_runs("sharing")),
    "super_tickets/report/figure-phases.svg": lambda: of_study("super_tickets", "phases", phases()),
    "super_tickets/phases-stsb.svg": one_super_ticket,
    "sharing/pies.png": pies,
}


def main() -> None:
    """Draw all figures, or compare them."""
    differ = []
    for name, draw in FIGURES.items():
        drawn = draw()[name.rpartition(".")[2]]
        if not (HERE / name).exists() or (HERE / name).read_bytes() != drawn:
            differ.append(name)
            if "--check" not in sys.argv:
                (HERE / name).write_bytes(drawn)
    if "--check" in sys.argv and differ:
        sys.exit(f"{', '.join(differ)}: not current; run python docs/results/figures.py.")


if __name__ == "__main__":
    main()
