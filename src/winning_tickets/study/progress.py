"""How far a study has come, from its store: counts by stage, errors, what is blocked, how long the rest takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from winning_tickets.store import Store
from winning_tickets.study.costs import Estimator
from winning_tickets.study.missing import problems_of
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
        error), `blocked_runs` (id -> the run it waits for), `running_runs`, `problems`, `estimate` (of the runs to do
        and running; those that are blocked wait until the failed ones are tried again).
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
    left = [run for run, state in states.items() if state in ("to do", "running")]
    return {
        "study": plan.study.name,
        "scale": plan.scale,
        "runs": len(plan.runs),
        **_counts(states.values()),
        "stages": stages,
        "failed_runs": {run: (records[run].error or {}).get("message", "") for run in failed},
        "blocked_runs": blocked,
        "running_runs": [run for run, state in states.items() if state == "running"],
        "problems": problems_of(plan, lambda run: states[run] == "done"),
        "estimate": Estimator(plan, records).estimate(left, workers),
    }


def _state(status: str) -> str:
    return status if status in ("done", "running", "failed") else "to do"


def _counts(states: Iterable[str]) -> dict[str, int]:
    found = Counter(states)
    return {state.replace(" ", "_"): found[state] for state in STATES}
