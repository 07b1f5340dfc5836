"""Judge the claims of the stored reports by the rules of today, on the numbers in their `runs.csv`.

The runs themselves were not kept. Tables and figures stay as they were written; verdicts, their reasons and the texts
of the claims in `report.json` and `index.html` are replaced. Usage: python docs/results/studies/judge.py
"""

from __future__ import annotations

import csv
import html
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from winning_tickets.data.tasks import TASKS
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import plan_study
from winning_tickets.studies.report import FILE, PAGE, _record
from winning_tickets.studies.report.claims import judge_claim
from winning_tickets.studies.report.observations import StudyRun

HERE = Path(__file__).resolve().parent
SET = {"released_series": [], "trained_steps": 120}  # of run.sh, where the conditions of claims ask for them
OLD = "<em>Does not hold</em> also means: these runs do not show it."
NEW = "The claims and rules are those of a later version than the tables and figures, applied to the same numbers."


def value_of(text: str) -> Any:
    """A label of an axis as it was."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def nested(numbers: Iterable[tuple[str, float]]) -> dict[str, Any]:
    """A result from its numbers by path; what has places 0, 1 ... is a list."""
    tree: dict[str, Any] = {}
    for path, number in numbers:
        node, keys = tree, path.split(".")
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = number
    return _lists(tree)


def _lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    inner = {key: _lists(value) for key, value in node.items()}
    return list(inner.values()) if list(inner) == [str(at) for at in range(len(inner))] and inner else inner


def runs_of(folder: Path) -> list[StudyRun]:
    """The runs of a report, at all their places."""
    found: dict[tuple[Any, ...], list[tuple[str, float]]] = {}
    with (folder / "runs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            axes = {key: text for key, text in row.items() if key not in ("value", "number")}
            found.setdefault(tuple(axes.items()), []).append((row["value"], float(row["number"])))
    runs = []
    for key, numbers in found.items():
        fixed = dict(key)
        run, stage, verb, status = (fixed.pop(name) for name in ("run", "stage", "verb", "status"))
        axes = {name: value_of(text) for name, text in fixed.items() if text != ""}
        result = nested(numbers)
        if str(axes.get("task")) in TASKS:
            result["primary_metric"] = TASKS[str(axes["task"])].metrics[0]
        search = "-".join(
            str(axes.get(axis)) for axis in ("method", "sparsity", "search_seed")
        )  # points of one training
        runs.append(StudyRun(run, stage, verb, axes, {"target": f"@{search}"}, status, result))
    return runs


def main() -> None:
    """Judge, and print a table of the verdicts."""
    sys.stdout.write("| study | claim | verdict |\n| --- | --- | --- |\n")
    for folder in sorted(path.parent for path in HERE.glob(f"*/{FILE}")):
        report = json.loads((folder / FILE).read_text(encoding="utf-8"))
        study = load_study(folder.name)
        known = plan_study(study, "small").parameters
        plan = plan_study(study, "small", {name: value for name, value in SET.items() if name in known})
        page, runs = (folder / PAGE).read_text(encoding="utf-8"), runs_of(folder)
        for name, old in report["claims"].items():
            if name not in study.claims:
                raise SystemExit(f"{folder.name} has no claim {name} any more")
            new = _record(judge_claim(plan.study, name, runs))
            start = page.index(f"<h3>{html.escape(old['text'])}</h3>")
            before, page = page[:start], page[start:]
            for key in ("text", "reason", "test"):
                page = page.replace(html.escape(old[key]), html.escape(new[key]), 1)
            page = before + page
            badge = '<span class="badge {}">{}</span> '
            word = badge.format(old["verdict"].replace(" ", "-"), old["verdict"])
            place = page.index(word + html.escape(new["reason"])) + len(word)
            page = page[: place - len(word)] + badge.format(new["verdict"], new["verdict"]) + page[place:]
            report["claims"][name] = new | {"runs": old["runs"]}
            sys.stdout.write(f"| {folder.name} | {new['text']} | **{new['verdict']}**: {new['reason']} |\n")
        (folder / PAGE).write_text(page.replace(OLD, NEW), encoding="utf-8")
        (folder / FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
