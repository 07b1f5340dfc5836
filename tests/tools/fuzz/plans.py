"""A plan whose one finished run is that of the store in `seeds`."""

from __future__ import annotations

import dataclasses

from samples.study_report_samples import sample_plan
from winning_tickets.studies.plan import Plan


def plan_with(run_id: str) -> Plan:
    """The sample plan, in which one run of the stage `transfer` has another id."""
    plan = sample_plan()
    point = next(point for point in plan.points if point.stage == "transfer")
    runs = {
        (run_id if name == point.run else name): dataclasses.replace(run, id=run_id) if name == point.run else run
        for name, run in plan.runs.items()
    }
    points = tuple(dataclasses.replace(one, run=run_id) if one.run == point.run else one for one in plan.points)
    return dataclasses.replace(plan, runs=runs, points=points)
