"""Status of a study from its store: counts by stage, errors, blocked runs, missing inputs, estimated time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from winning_tickets.report.costs import CPU, Speed
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.estimates import Estimator
from winning_tickets.studies.needs import list_hub_problems, list_problems, room_problem
from winning_tickets.studies.plan import Plan

STATES = ("done", "running", "failed", "blocked", "to do")


def blocked_by(plan: Plan, failed: Iterable[str]) -> dict[str, str]:
    """Return the runs that wait for a failed run, each with that failed run."""
    reasons = {run: run for run in failed}
    for run in plan.runs.values():  # each run comes after the runs that it needs
        if run.id not in reasons:
            reason = next((reasons[need] for need in run.needs if need in reasons), None)
            if reason is not None:
                reasons[run.id] = reason
    return {run: reason for run, reason in reasons.items() if run != reason}


def study_status(
    plan: Plan, store: Store, workers: int = 1, *, ask_hub: bool = False, speed: Speed | None = None, gpus: float = 0
) -> dict[str, Any]:
    """Return the counts of `STATES` in total and by stage, failed, blocked and running runs, problems and an estimate.

    The estimate is for runs that are to do or running; blocked runs wait until the failed ones are tried again. `room`
    says why the results do not fit on the disk of the store, or is None. With a `speed` the time is that of its device,
    for runs with `gpus` each, whatever similar runs in the store took. With `ask_hub`, the problems include models
    and data that are not on this machine and cannot be fetched from the hub.
    """
    # The state of each run; runs that wait for a failed one are blocked.
    records = {record.id: record for record in store.records()} if store.exists() else {}
    found = {run: records[run].status if run in records else "absent" for run in plan.runs}
    states = {run: status if status in STATES else "to do" for run, status in found.items()}
    failed = [run for run, state in states.items() if state == "failed"]
    blocked = {run: why for run, why in blocked_by(plan, failed).items() if states[run] == "to do"}
    states |= dict.fromkeys(blocked, "blocked")
    # Counts by stage; a run that several stages share is counted in each of them.
    stages = {}
    for name in plan.study.stages:
        runs = plan.stage_runs(name)
        stages[name] = {"runs": len(runs)} | _counts(states[run] for run in runs)
    left = [run for run, state in states.items() if state in ("to do", "running")]
    problems = list_problems(plan, lambda run: states[run] == "done")
    if ask_hub:
        problems += list_hub_problems(plan, lambda run: states[run] == "done")
    estimate = Estimator(plan, records, speed or CPU, gpus, as_measured=speed is None).estimate(left, workers)
    return {
        "study": plan.study.name,
        "scale": plan.scale,
        "runs": len(plan.runs),
        **_counts(states.values()),
        "stages": stages,
        "failed_runs": {run: (records[run].error or {}).get("message", "") for run in failed},
        "blocked_runs": blocked,
        "running_runs": [run for run, state in states.items() if state == "running"],
        "problems": problems,
        "room": room_problem(estimate, store.path),
        "estimate": estimate,
    }


def _counts(states: Iterable[str]) -> dict[str, int]:
    numbers = Counter(states)
    return {state.replace(" ", "_"): numbers[state] for state in STATES}
