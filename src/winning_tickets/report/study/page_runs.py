"""The list of runs at the end of the page: what every number links to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winning_tickets.report.study.cells import label
from winning_tickets.report.study.page_tables import run_anchor, shared_axes
from winning_tickets.report.study.runs import Run, State, counts


@dataclass(frozen=True)
class Line:
    """A run.

    Attributes:
        anchor: its id on the page.
        id: in the store.
        status: the store's word.
        axes: where it lies in the grid; of a run at several places all of them.
        settings: its configuration but for what all runs of the stage have.
        seconds: it took; None where that is not known.
        path: of its result, inside the store.
        finished: when.
        differs: versions and machine, where they are not those of most runs.
        error: of a failed run.
    """

    anchor: str
    id: str
    status: str
    axes: str
    settings: str
    seconds: float | None
    path: str
    finished: str
    differs: str
    error: str


@dataclass(frozen=True)
class StageRuns:
    """The runs of a stage, each once.

    Attributes:
        name: of the stage.
        verb: what its runs do.
        counts: how many are done, failed, missing.
        shared: configuration that all of them have.
        lines: the runs that no stage before has.
        elsewhere: runs that an earlier stage lists: axes, anchor and id.
    """

    name: str
    verb: str
    counts: Mapping[State, int]
    shared: str
    lines: tuple[Line, ...]
    elsewhere: tuple[tuple[str, str, str], ...]


def stage_runs(runs: Sequence[Run], usual: Mapping[str, str]) -> list[StageRuns]:
    """All runs, by stage; a run that several stages share is listed with the first of them.

    Args:
        runs: all planned runs.
        usual: what most of them share, as of `usual_facts`.
    """
    listed: set[str] = set()
    found = []
    for stage in dict.fromkeys(run.stage for run in runs):
        own: dict[str, list[Run]] = {}
        for run in runs:
            if run.stage == stage:
                own.setdefault(run.id, []).append(run)
        first = [places[0] for places in own.values()]
        shared = shared_axes([run.config for run in first])
        lines = [_line(places, shared, usual) for run_id, places in own.items() if run_id not in listed]
        elsewhere = [
            (_places(places), run_anchor(run_id), run_id) for run_id, places in own.items() if run_id in listed
        ]
        listed |= set(own)
        same = {key: value for key, value in first[0].config.items() if key in shared}
        found.append(
            StageRuns(stage, first[0].verb, counts(first), settings_text(same), tuple(lines), tuple(elsewhere))
        )
    return found


def _places(places: Sequence[Run]) -> str:
    return "; ".join(", ".join(f"{axis} {label(value)}" for axis, value in run.axes.items()) for run in places)


def _line(places: Sequence[Run], shared: set[str], usual: Mapping[str, str]) -> Line:
    run = places[0]
    facts = run.facts
    differs = [f"{key}: {text}" for key, text in facts_text(run).items() if text != usual.get(key)]
    return Line(
        run_anchor(run.id),
        run.id,
        run.status,
        _places(places),
        settings_text({key: value for key, value in run.config.items() if key not in shared}),
        facts.get("seconds"),
        facts.get("path") or "",
        facts.get("finished_at") or "",
        "; ".join(differs),
        run.error or "",
    )


def settings_text(settings: Mapping[str, Any]) -> str:
    """A configuration in one line."""
    return ", ".join(f"{key} = {value_text(value)}" for key, value in settings.items())


def value_text(value: Any) -> str:
    """A setting as text: words as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


FACTS = ("versions", "machine", "source")


def facts_text(run: Run) -> dict[str, str]:
    """Versions, machine and source of a run, each in one line, where they are known."""
    return {key: settings_text(run.facts[key]) for key in FACTS if run.facts.get(key)}


def usual_facts(runs: Sequence[Run]) -> dict[str, str]:
    """What most runs share of versions, machine and source; only what differs from it is repeated."""
    found: dict[str, dict[str, int]] = {}
    for run in {run.id: run for run in runs}.values():
        for key, text in facts_text(run).items():
            numbers = found.setdefault(key, {})
            numbers[text] = numbers.get(text, 0) + 1
    return {key: max(numbers, key=lambda text: numbers[text]) for key, numbers in found.items()}
