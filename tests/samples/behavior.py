"""What must hold of the finished runs and of the page of any recipe of a paper; each function lists what is wrong.

Everything is read from the files of the runs, and computed here by rules of its own.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

from winning_tickets.config import ShareConfig
from winning_tickets.config.search import WeightSearch
from winning_tickets.tickets.ticket import Ticket

WORDS = {"holds", "contradicted", "inconclusive"}


def trainings(plan, store):
    """The folders of all fine-tunings and multi-task trainings of a plan, also those inside of super tickets."""
    for run in plan.runs:
        if plan.runs[run].verb in ("transfer", "super", "share"):
            yield from sorted(path.parent for path in store.folder(run).rglob("seed-*/result.json"))


def wrong_stops(plan, store):
    """A training ends after its planned steps, or at the first evaluation where patience is exhausted."""
    return [problem for folder in trainings(plan, store) for problem in _wrong_stop(folder)]


def _wrong_stop(folder):
    result, written = _json(folder / "result.json"), _json(folder / "config.json")
    settings = written["config"]
    if written["verb"] == "share-seed":  # as they were given; others have those of the profile filled in
        settings = ShareConfig.of(**settings).resolved().model_dump()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    done = max(record["step"] for record in records if "evaluation" not in record)
    planned = result["steps"]
    warmup = math.ceil((settings.get("warmup_ratio") or 0) * planned)
    if done < warmup:
        yield f"{folder}: stopped after {done} steps, inside a warm-up of {warmup}"
    expected = _stop(
        [(record["step"], _score(record, result)) for record in records if "evaluation" in record],
        warmup,
        settings.get("patience"),
        planned,
    )
    if done != expected:
        yield f"{folder}: {done} steps, expected {expected} of {planned} with patience {settings.get('patience')}"


def _score(record, result):
    if "average" in record:
        return record["average"]
    scores = record.get("selection", record["evaluation"])
    return scores[result["primary_metric"]] if "primary_metric" in result else None


def _stop(scores, warmup, patience, planned):
    """The step where a training ends: where each of the last evaluations after the warm-up is worse than the best."""
    for count in range(1, len(scores) + 1):
        best = max(score for _, score in scores[:count])
        late = [score for step, score in scores[:count] if step >= warmup]
        if patience is not None and len(late) > patience and all(score < best for score in late[-patience:]):
            return scores[count - 1][0]
    return planned


def wrong_counts(plan, store):
    """Each ticket of weights has exactly the pruned entries that its sparsity asks for, of each matrix or of all."""
    problems = []
    for run in plan.runs.values():
        if not isinstance(run.settings, WeightSearch) or getattr(run.settings, "like", None) is not None:
            continue
        settings = run.settings.resolved()
        rounded = math.floor if settings.count_rounding != "nearest" else round
        for folder in sorted(path.parent for path in store.folder(run.id).rglob("ticket.json")):
            ticket = Ticket.from_pretrained(folder)
            name = folder.name
            asked = Fraction(name.removeprefix("sparsity-")) if name.startswith("sparsity-") else None
            asked = asked or Fraction(str(settings.sparsities[0]))
            groups = {"all": list(ticket.masks)} if settings.ranking == "global" else {one: [one] for one in ticket}
            for group, names in groups.items():
                total = sum(ticket.masks[one].numel() for one in names)
                pruned = total - sum(int(ticket.masks[one].sum()) for one in names)
                if pruned != rounded(asked * total):
                    problems.append(f"{folder}, {group}: {pruned} of {total} pruned, expected {float(asked)}")
    return problems


def unequal_searches(plan, store):
    """In each stage, searches that differ in their seed, objective or rewinding only have the same number of steps."""
    found = defaultdict(dict)
    for point in plan.points:
        run = plan.runs[point.run]
        if run.verb == "search" and (log := store.folder(run.id) / "metrics.jsonl").exists():
            own = run.settings
            names = ("steps", "round_steps", "round_examples", "train_size", "profile", "sparsity")
            lengths = {name: getattr(own, name, None) for name in names}
            steps = sum("learning_rate" in line for line in log.read_text().splitlines())
            steps -= getattr(
                own.resolved(), "step_offset", 0
            )  # the released KD program takes a step less than it counts
            own_length = lengths["round_steps"] or lengths["round_examples"]  # else a round is as long as fine-tuning
            tasks = () if own_length else getattr(own, "tasks", ())
            found[point.stage, own.method, tasks, tuple(lengths.values())][run.id] = steps
    return [f"{key}: {steps}" for key, steps in found.items() if len(set(steps.values())) > 1]


def unequal_measures(plan, store):
    """All losses of a page are those of one head and one kind of segments."""
    found = {
        (result["mlm_head"], result["segments"])
        for run in plan.runs.values()
        if run.verb == "evaluate" and "mlm" in run.settings.objectives
        for result in [store.result(run.id)]
    }
    return [] if len(found) <= 1 else [f"measured with {sorted(found, key=str)}"]


def empty_cells(report):
    """Every cell of every table and figure has all its numbers; the report has no warnings and lacks no run."""
    problems = [f"warning: {problem}" for problem in report["problems"]]
    problems += [f"{count} runs {state}" for state, count in report["runs"].items() if state != "done" and count]
    for file in sorted(Path(report["out"]).glob("*.csv")):
        rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
        for row in rows if file.name != "runs.csv" else ():
            if file.stem == "table-highest":
                continue  # an empty cell says that no sparsity has a winning ticket
            if row["mean"] == "" or row["n"] != row["planned"]:
                problems.append(f"{file.name}: {dict(row)}")
    return problems


def unjudged(report):
    """Every claim has one of the three verdicts, and enough planned pairs for a number."""
    problems = []
    for name, claim in report["claims"].items():
        if claim["verdict"] not in WORDS or claim["planned"] == 0 or claim["missing_runs"]:
            problems.append(f"{name}: {claim['verdict']}, {claim['reason']}")
    return problems


CHECKS = {
    "stops": wrong_stops,
    "sparsities": wrong_counts,
    "equal searches": unequal_searches,
    "equal measures": unequal_measures,
}
PAGE_CHECKS = {"cells": empty_cells, "verdicts": unjudged}


def check(plan, store, report):
    """The problems of the runs and of the page of a recipe, by check."""
    found = {name: of(plan, store) for name, of in CHECKS.items()}
    return found | {name: of(report) for name, of in PAGE_CHECKS.items()}


def _json(path):
    return json.loads(path.read_text(encoding="utf-8"))
