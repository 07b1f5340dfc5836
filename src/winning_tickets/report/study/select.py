"""Which runs a table, a figure or a claim is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from winning_tickets.report.study.runs import Run
from winning_tickets.study.conditions import matches


def stages_of(stage: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """One stage or several, as a tuple."""
    if stage is None:
        return ()
    return (stage,) if isinstance(stage, str) else stage


def chosen(runs: Sequence[Run], stages: Sequence[str], where: Sequence[Mapping[str, Any]] = ()) -> list[Run]:
    """Runs of some stages that match one of the conditions, if there are any.

    Args:
        runs: all runs of the study.
        stages: names; the runs come in this order.
        where: conditions of the study's schema.
    """
    return [run for stage in stages for run in runs if run.stage == stage and (not where or matches(where, run.axes))]
