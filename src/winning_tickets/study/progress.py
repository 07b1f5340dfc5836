"""How far a study has come, from its store: counts by stage, errors, what is blocked, what data is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from winning_tickets.store import Store
from winning_tickets.study.costs import Estimator
from winning_tickets.study.expressions import is_reference
from winning_tickets.study.jobs import TINY
from winning_tickets.study.plan import Plan

STATES = ("done", "running", "failed", "blocked", "to do")


def blocked_by(plan: Plan, failed: Iterable[str]) -> dict[str, str]:
    """The runs that wait for one that failed, and for which."""
    reasons = {run: run for run in failed}
    for run in plan.runs.values():  # each comes after those that it needs
        if run.id not in reasons:
            reason = next((reasons[need] for need in run.needs if need in reasons), None)
            if reason is not None:
                reasons[run.id] = reason
    return {run: reason for run, reason in reasons.items() if run != reason}


def study_status(plan: Plan, store: Store, workers: int = 1) -> dict[str, Any]:
    """What is done, running, failed, blocked and to do.

    Args:
        plan: of the study.
        store: its store; it need not exist.
        workers: how many runs are done at a time, for the estimate.

    Returns:
        `study`, `scale`, `runs`, a count for each of `STATES`, `stages` (the same by stage), `failed_runs` (id ->
        error), `blocked_runs` (id -> the run it waits for), `running_runs`, `problems`, `estimate`.
    """
    records = {record.id: record for record in store.records()} if store.exists() else {}
    states = {run: _state(records[run].status if run in records else "absent") for run in plan.runs}
    failed = [run for run, state in states.items() if state == "failed"]
    blocked = {run: why for run, why in blocked_by(plan, failed).items() if states[run] == "to do"}
    states |= dict.fromkeys(blocked, "blocked")
    stages = {}
    for name in plan.study.stages:
        runs = plan.stage_runs(name)
        stages[name] = {"runs": len(runs)} | _counts(states[run] for run in runs)
    left = [run for run, state in states.items() if state in ("to do", "running", "blocked")]
    return {
        "study": plan.study.name,
        "scale": plan.scale,
        "runs": len(plan.runs),
        **_counts(states.values()),
        "stages": stages,
        "failed_runs": {run: (records[run].error or {}).get("message", "") for run in failed},
        "blocked_runs": blocked,
        "running_runs": [run for run, state in states.items() if state == "running"],
        "problems": problems_of(plan),
        "estimate": Estimator(plan, records).estimate(left, workers),
    }


def _state(status: str) -> str:
    return status if status in ("done", "running", "failed") else "to do"


def _counts(states: Iterable[str]) -> dict[str, int]:
    found = Counter(states)
    return {state.replace(" ", "_"): found[state] for state in STATES}


def problems_of(plan: Plan) -> list[str]:
    """What a study needs and is not there: parameters without a value, and paths that do not exist."""
    problems = []
    for name, what in plan.study.needs.items():
        value = plan.parameters.get(name)
        for one in value if isinstance(value, list) else [value]:
            if one is None:
                problems.append(f"{name} is not set; it has to be {what}: --set {name}=...")
            elif _is_missing(one):
                problems.append(f"{name}: there is no {one}; it has to be {what}: --set {name}=...")
    return problems


def _is_missing(value: Any) -> bool:
    """Whether a value can only be a path and nothing is there; of names of the hub nothing is known here."""
    if not isinstance(value, str) or is_reference(value) or value.startswith(TINY):
        return False
    certain = value.startswith((".", "~", "/")) or value.count("/") > 1
    return certain and not Path(value).expanduser().exists()
