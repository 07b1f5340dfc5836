"""A study and a store written by hand, for tests of the report; its numbers mean nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from winning_tickets.runs.store.store import Store
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import Plan, Point, plan_study

VERSIONS = {"python": "3.11.7", "winning-tickets": "0.1.0"}
METRICS = {"mrpc": ("accuracy", "f1"), "mnli": ("accuracy_matched", "accuracy_mismatched")}
PARAMETERS = {"model": "tiny:bert", "tasks": ["rte", "mrpc"], "sparsities": [0.5, 0.7], "seeds": [0, 1, 2]}


def definition() -> dict[str, Any]:
    """A study with every kind of table, figure and claim."""
    by_method = {"axis": "method", "first": "TAMT", "second": "OMP"}
    loss, score = {"stage": "evaluate", "value": "kd_loss"}, {"stage": "transfer", "value": "score"}
    return {
        "name": "sample",
        "title": "Sample study",
        "paper": "tamt",
        "shows": "Two methods at two sparsities.",
        "scales": {"smoke": PARAMETERS},
        "stages": {
            "dense": {
                "verb": "transfer",
                "with": {"target": "${model}"},
                "over": {"task": "${tasks}", "seed": "${seeds}"},
                "label": {"method": "dense"},
            },
            "search": {
                "verb": "search",
                "with": {"model": "${model}"},
                "over": {
                    "method": {"OMP": {"method": "magnitude"}, "TAMT": {"method": "mask-training"}},
                    "sparsity": "${sparsities}",
                },
            },
            "evaluate": {"verb": "evaluate", "with": {"target": "@search", "corpus": "tiny:text"}},
            "transfer": {
                "verb": "transfer",
                "with": {"target": "@search"},
                "over": {"task": "${tasks}", "seed": "${seeds}"},
            },
        },
        "tables": {
            "main": {
                "title": "Scores",
                "stage": ["dense", "transfer"],
                "rows": ["method", "sparsity"],
                "columns": "task",
                "mean_column": "mean",
            },
            "metrics": {
                "title": "Every metric",
                "stage": "transfer",
                "rows": ["method"],
                "columns": "task",
                "values": {"final": "metrics.*.final"},
                "where": [{"sparsity": 0.5}],
            },
        },
        "figures": {
            "scores": {
                "title": "Mean score",
                "kind": "line",
                "stage": "transfer",
                "x": "sparsity",
                "series": "method",
                "average": ["task"],
                "level": ["dense"],
                "reach": 0.7,
            },
            "by-task": {"title": "By task", "kind": "bar", "stage": "transfer", "x": "task", "series": "method"},
            "loss": {"title": "Loss and score", "kind": "scatter", "x": loss, "y": score, "series": "method"},
            "heat": {"title": "Loss", "kind": "heatmap", "x": "sparsity", "y": loss, "series": "method"},
        },
        "claims": {
            "better": {
                "text": "TAMT transfers better than OMP.",
                "stage": "transfer",
                "better": by_method,
                "pair_by": ["task", "sparsity", "seed"],
            },
            "loss": {
                "text": "A lower loss goes with a better score.",
                "correlates": {"x": loss, "y": score, "sign": "negative"},
            },
        },
        "published": [{"of": "main", "row": "TAMT / 0.5", "column": "rte", "value": 0.668, "std": 0.011}],
    }


def sample_plan(change: Callable[[dict[str, Any]], None] = lambda body: None) -> Plan:
    """The plan of the sample study.

    Args:
        change: edits the definition before it is read.
    """
    body = definition()
    change(body)
    return plan_study(load_study(body), "smoke")


def score_of(axes: Mapping[str, Any]) -> float:
    """A made-up score: TAMT is 2 points above OMP, more so with more seeds."""
    start = {"rte": 0.6, "mrpc": 0.7, "mnli": 0.65}.get(axes["task"], 0.5)
    gains = {"dense": 0.10, "TAMT": 0.06, "KD": 0.05, "OMP": 0.04, "MIX": 0.03, "Rand": 0.01}
    method = gains.get(axes.get("method", "dense"), 0.0)
    sparsity = axes.get("sparsity", 0.5)
    extra = 0.001 * axes["seed"] if axes.get("method") == "TAMT" else 0.0
    return round(start + method - 0.1 * (sparsity - 0.5) + 0.005 * axes["seed"] + extra, 6)


def result_of(plan: Plan, point: Point) -> dict[str, Any]:
    """A result in the shape that the point's verb stores."""
    verb, axes = plan.runs[point.run].verb, point.axes
    common = {"verb": verb, "run_id": point.run, "versions": VERSIONS}
    if verb == "transfer":
        names = METRICS.get(axes["task"], ("accuracy",))
        scores = {name: score_of(axes) + 0.1 * index for index, name in enumerate(names)}
        metrics = {
            name: {kind: {"mean": value, "std": None, "values": [value]} for kind in ("final", "best")}
            for name, value in scores.items()
        }
        seeds = {"seeds": [axes["seed"]], "failed_seeds": []}
        ticket = {"ticket_id": None, "sparsity": float(axes.get("sparsity", 0.0))}
        return {**common, "task": axes["task"], "metrics": metrics, "primary_metric": names[0], **seeds, **ticket}
    if verb == "evaluate":
        worse = {"KD": 0.03, "OMP": 0.05, "MIX": 0.08, "Rand": 0.15}.get(axes["method"], 0.0)
        loss = 0.1 + 0.2 * (axes["sparsity"] - 0.5) + worse
        return {**common, "kd_loss": round(loss, 6), "mlm_loss": None}
    found = {axis: axes[axis] for axis in ("method", "sparsity") if axis in axes}
    return {**common, **({"method": "sample", "scope": "encoder"} if verb == "search" else {}), **found}


def write_run(store: Path, plan: Plan, point: Point, result: Mapping[str, Any] | None = None) -> None:
    """A finished run, as its verb leaves it."""
    folder = Store(store).folder(point.run)
    folder.mkdir(parents=True, exist_ok=True)
    run = plan.runs[point.run]
    (folder / "config.json").write_text(json.dumps({"verb": run.verb, "id": run.id, "config": run.config}))
    (folder / "result.json").write_text(json.dumps(result_of(plan, point) if result is None else result))


def fill_store(
    store: Path,
    plan: Plan,
    wanted: Callable[[Point], bool] = lambda point: True,
    failed: Callable[[Point], bool] = lambda point: False,
) -> Store:
    """A store in which some runs are done and some failed.

    Args:
        store: its folder.
        plan: of the study.
        wanted: which runs are done.
        failed: which runs failed, done or not.
    """
    made = Store(store)
    for point in plan.points:
        if failed(point) or wanted(point):
            made.describe(point.run, plan.runs[point.run].verb, plan.runs[point.run].config)
        if failed(point):
            made.fail(point.run, "the loss is not finite at step 7 <script>")
        elif wanted(point):
            write_run(store, plan, point)
    return made
