"""Numbers of runs in long form: one observation per number with its axes; absent numbers have one too."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from winning_tickets.config import Settings
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.directory import METRICS, read_log
from winning_tickets.runs.errors import ContentError, shown
from winning_tickets.runs.files import is_number
from winning_tickets.runs.statistics import LARGEST
from winning_tickets.runs.store.index import Record
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.expressions import matches
from winning_tickets.studies.plan import Plan
from winning_tickets.studies.references import Point, Run
from winning_tickets.studies.schema import LOG, SETTINGS

State = Literal["done", "failed", "missing"]
"""State of a run or of one number; `missing` is not there yet, for whatever reason."""


@dataclass(frozen=True)
class StudyRun:
    """A planned run of a stage with its result and facts from the store."""

    id: str
    stage: str
    verb: str
    axes: Mapping[str, Any]  # its place in the study's grid
    config: Mapping[str, Any] = field(default_factory=dict)  # of the planned run
    status: str = "absent"  # in the store: `done`, `failed`, `running`, `unfinished`, `absent`
    result: Mapping[str, Any] | None = None  # of a run that is done
    error: str | None = None  # message of a run that failed
    facts: Mapping[str, Any] = field(default_factory=dict)  # seconds, versions, machine and path
    folder: Path | None = None  # its run directory
    settings: Settings | None = None  # of the planned run

    @property
    def state(self) -> State:
        if self.status == "done":
            return "done"
        return "failed" if self.status == "failed" else "missing"


def count_states(runs: Iterable[StudyRun]) -> dict[State, int]:
    """The number of runs that are done, failed and missing."""
    found: dict[State, int] = {"done": 0, "failed": 0, "missing": 0}
    for run in runs:
        found[run.state] += 1
    return found


SEED = "seed"
METRIC = "metric"
SCORES = {"score": "final", "score.best": "best"}
"""Short paths to a transfer's primary metric: at the last evaluation, and the best of all."""
_PRIMARY = "<primary>"
_ROUNDED = 0.005
_AXIS = re.compile(r"\$\{\s*(\w+)\s*\}")
_PLACE = re.compile(r"-?\d{1,9}")


@dataclass(frozen=True)
class Observation:
    """One number of one run, present or not."""

    run: StudyRun
    axes: Mapping[str, Any]  # of the run, and `seed` and `metric` where one run has several
    state: State
    value: float | None = None  # finite; None unless the state is `done`
    part: tuple[Any, str | None] = (None, None)  # seed and metric inside the run


def observe(runs: Sequence[StudyRun], path: str) -> list[Observation]:
    """The numbers at a path (keys with dots) in the results of runs.

    `*` takes every key and makes it the axis `metric`; `score` and `score.best` are those of the primary metric;
    `name=value` takes the entry of a list; `log.kd` takes `kd` of each record of the log, and makes the axis `step`;
    `settings.learning_rate` is a setting of a finished run, with the values of its profile.
    A record of several seeds (`{"values": [...]}`) gives one number per seed.
    """
    return [one for run in runs for one in _observe(run, path)]


def describe_absent(path: str, runs: Sequence[StudyRun]) -> list[str]:
    """A sentence where no finished run has a number at a path, as with a misspelled path."""
    finished = [run for run in runs if run.state == "done"]
    if not finished or any(one.value is not None for one in observe(finished, path)):
        return []
    keys = sorted({key for run in finished for key in run.result or ()})
    return [f"No finished run has {path}; their results have {', '.join(keys)}."]


def _observe(run: StudyRun, path: str) -> Iterator[Observation]:
    if run.state != "done" or run.result is None:
        for seed in _planned_seeds(run):
            for metric in _planned_metrics(run, path):
                yield _make_observation(run, seed, metric, "failed" if run.state == "failed" else "missing")
        return
    if path.startswith(LOG):
        yield from _logged(run, path)
        return
    metrics: list[str | None] = []
    for metric, node in _nodes(run, path):
        metrics.append(metric)
        yield from _values(run, metric, node)
    failed = run.result.get("failed_seeds") or ()
    if not metrics and not failed:
        yield _make_observation(run, None, None, "missing")
    for seed in failed:
        for metric in metrics or [None]:
            yield _make_observation(run, seed["seed"] if isinstance(seed, Mapping) else seed, metric, "failed")


def _logged(run: StudyRun, path: str) -> Iterator[Observation]:
    """The numbers at a path in the records of a run's log, or of the logs of its seeds."""
    for folder in () if run.folder is None else (run.folder, *sorted(run.folder.glob("seed-*"))):
        seed = int(folder.name.removeprefix("seed-")) if folder != run.folder else None
        for record in read_log(folder) if (folder / METRICS).is_file() else ():
            node: Any = record
            for key in path.split(".")[1:]:
                node = node.get(key) if isinstance(node, Mapping) else None
            if node is not None:
                one = _make_observation(run, seed, None, "done", node)
                yield replace(one, axes={**one.axes, "step": record["step"]}, part=(seed, f"step {record['step']}"))


def _values(run: StudyRun, metric: str | None, node: Any) -> Iterator[Observation]:
    result = run.result or {}
    if isinstance(node, Mapping) and isinstance(node.get("values"), list):
        seeds = result.get("seeds") or range(len(node["values"]))
        if len(seeds) != len(node["values"]):
            raise edited_error(run, f"has {len(node['values'])} values for {len(seeds)} seeds")
        for seed, value in zip(seeds, node["values"], strict=True):
            yield _make_observation(run, seed, metric, "done", value)
        return
    value = node.get("median", node.get("mean")) if isinstance(node, Mapping) else node
    yield _make_observation(run, None, metric, "done", value)


def edited_error(run: StudyRun, how: str) -> ContentError:
    """The error of a stored result that no run writes; `how` is the part of the message after its name."""
    return ContentError(
        f"{run.facts.get('path', run.id)} {how}: it was edited. tickets verify finds such files; repeat the run."
    )


def _make_observation(run: StudyRun, seed: Any, metric: str | None, state: State, value: Any = None) -> Observation:
    """An observation; any value but a finite number is missing."""
    axes = dict(run.axes)
    if seed is not None:
        # A study's own axis is kept: its label may be another word for the run's only seed.
        axes.setdefault(SEED, seed)
    if metric is not None:
        axes[METRIC] = metric
    if is_number(value) and LARGEST < abs(value) < math.inf:
        raise edited_error(run, f"has the value {shown(value)}, and no run measures more than {LARGEST:g}")
    if state == "done" and is_number(value) and math.isfinite(value):
        return Observation(run, axes, "done", float(value), (seed, metric))
    return Observation(run, axes, "missing" if state == "done" else state, None, (seed, metric))


def _nodes(run: StudyRun, path: str) -> Iterator[tuple[str | None, Any]]:
    """The values at a path, each with the key that matched `*`."""
    result = {**(run.result or {}), "run": run.facts}
    if path.startswith(SETTINGS):
        result["settings"] = _resolved(run.settings)
    found: list[tuple[str | None, Any]] = [(None, result)]
    for key in _keys(path, run.axes):
        inside: list[tuple[str | None, Any]] = []
        for metric, node in found:
            if isinstance(node, Mapping) and key == "*":
                inside += [(str(name), value) for name, value in node.items()]
            elif isinstance(node, Mapping) and key == _PRIMARY:
                metrics, primary = node.get("metrics"), node.get("primary_metric")
                if isinstance(metrics, Mapping) and isinstance(primary, str) and primary in metrics:
                    inside.append((metric, metrics[primary]))
            elif isinstance(node, Mapping) and key in node:
                inside.append((metric, node[key]))
            elif isinstance(node, list) and "=" in key:
                inside += [(metric, item) for item in node if _has_value(item, *key.split("=", 1))]
            elif isinstance(node, list) and _PLACE.fullmatch(key) and -len(node) <= int(key) < len(node):
                inside.append((metric, node[int(key)]))
        found = inside
    yield from found


def _resolved(settings: Settings | None) -> dict[str, Any]:
    """The settings of a run with the values of its profile."""
    resolved = getattr(settings, "resolved", None)
    return {} if settings is None else dict(settings if resolved is None else resolved())


def _keys(path: str, axes: Mapping[str, Any]) -> list[str]:
    """The keys of a path, with `${axis}` replaced; a value with a dot in it is one key."""
    for short, kind in SCORES.items():
        if path == short or path.endswith(f".{short}"):
            path = f"{path.removesuffix(short)}{_PRIMARY}.{kind}"
    return [_AXIS.sub(lambda found: str(axes.get(found.group(1))), key) for key in path.split(".")]


def _has_value(item: Any, name: str, wanted: str) -> bool:
    """Return True if an entry of a list has a value; sparsities may differ by the rounding to whole weights."""
    value = item.get(name) if isinstance(item, Mapping) else None
    if isinstance(value, float):
        try:
            return abs(value - float(wanted)) < _ROUNDED
        except ValueError:
            return False
    return str(value) == wanted


def _planned_seeds(run: StudyRun) -> Sequence[Any]:
    """The seeds that one run will have; None where it has one number."""
    seeds = run.config.get("seeds")
    return seeds if isinstance(seeds, Sequence) and not isinstance(seeds, str) and SEED not in run.axes else [None]


def _planned_metrics(run: StudyRun, path: str) -> Sequence[str | None]:
    """The metrics that a transfer to a known task will have, where a path asks for all of them."""
    if "metrics.*" not in path:
        return [None]
    task = TASKS.get(str(run.axes.get("task", run.config.get("task"))))
    if task is None:
        return [None]
    if len(task.validation_splits) == 1:
        return list(task.metrics)
    suffixes = [split.removeprefix("validation_") for split in task.validation_splits]
    return [f"{metric}_{suffix}" for metric in task.metrics for suffix in suffixes]


def gather_runs(plan: Plan, store: Store) -> list[StudyRun]:
    """The runs at all places of a plan's grid, in its order, from small files of the store."""
    known = {record.id: record for record in store.records() if record.id in plan.runs} if store.exists() else {}
    return [_run(plan.runs[point.run], point, known.get(point.run), store) for point in plan.points]


def _run(planned: Run, point: Point, record: Record | None, store: Store) -> StudyRun:
    common = (planned.id, point.stage, planned.verb, point.axes, planned.config)
    if record is None:
        return StudyRun(*common, settings=planned.settings)
    facts = {
        "path": f"runs/{planned.id}/result.json" if record.result is not None else None,
        "seconds": record.seconds,
        "finished_at": record.finished_at,
        "versions": record.versions or (record.result or {}).get("versions"),
        "machine": record.machine,
        "source": record.source,
    }
    error = (record.error or {}).get("message")
    folder = store.folder(planned.id)
    return StudyRun(*common, record.status, record.result, error, facts, folder, planned.settings)


def select_runs(
    runs: Sequence[StudyRun], stage: str | tuple[str, ...] | None, where: Sequence[Mapping[str, Any]] = ()
) -> list[StudyRun]:
    """Runs of one or several stages, in the order of these, that match one of the conditions, if there are any."""
    stages = (stage,) if isinstance(stage, str) else stage or ()
    return [run for stage in stages for run in runs if run.stage == stage and (not where or matches(where, run.axes))]
