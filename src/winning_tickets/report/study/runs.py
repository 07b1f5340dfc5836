"""What a study's planned runs have become: one record a run, whether it is done or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["done", "failed", "missing"]
"""Of a run, or of one number: there; tried and failed; not there yet, for whatever reason."""


@dataclass(frozen=True)
class Run:
    """A planned run, and what the store knows of it.

    Attributes:
        id: its name in the store.
        stage: which stage of the study it belongs to.
        verb: what it runs.
        axes: where it lies in the study's grid, such as `{"task": "rte", "seed": 0}`.
        config: of the planned run, as far as the study sets it.
        status: the store's word: `done`, `failed`, `running`, `unfinished`, `absent`.
        result: of a run that is done, else None.
        error: message of a run that failed.
        facts: what else the store tells: seconds, versions, machine, path.
    """

    id: str
    stage: str
    verb: str
    axes: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    status: str = "absent"
    result: Mapping[str, Any] | None = None
    error: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """Whether it has numbers, failed, or has none yet."""
        if self.status == "done":
            return "done"
        return "failed" if self.status == "failed" else "missing"


def in_stage(runs: Iterable[Run], stage: str) -> list[Run]:
    """The runs of one stage, in their order."""
    return [run for run in runs if run.stage == stage]


def counts(runs: Iterable[Run]) -> dict[State, int]:
    """How many are done, failed and missing."""
    found: dict[State, int] = {"done": 0, "failed": 0, "missing": 0}
    for run in runs:
        found[run.state] += 1
    return found
