"""The planned runs of a study, each with what the store knows of it."""

from __future__ import annotations

from winning_tickets.report.study.runs import Run
from winning_tickets.store import Record, Store
from winning_tickets.study.plan import Plan


def gather(plan: Plan, store: Store) -> list[Run]:
    """One record for each place of the grid, in the plan's order; only small files are read.

    Args:
        plan: of a study at a scale.
        store: where its runs are, or will be.
    """
    known = {record.id: record for record in store.records() if record.id in plan.runs} if store.exists() else {}
    return [_run(plan, point.stage, point.axes, point.run, known.get(point.run)) for point in plan.points]


def _run(plan: Plan, stage: str, axes: dict[str, object], run_id: str, record: Record | None) -> Run:
    planned = plan.runs[run_id]
    if record is None:
        return Run(run_id, stage, planned.verb, axes, planned.config)
    facts = {
        "path": f"runs/{run_id}/result.json" if record.result is not None else None,
        "seconds": record.seconds,
        "finished_at": record.finished_at,
        "versions": record.versions or (record.result or {}).get("versions"),
        "machine": record.machine,
        "source": record.source,
    }
    error = record.error or {}
    return Run(
        run_id, stage, planned.verb, axes, planned.config, record.status, record.result, error.get("message"), facts
    )
