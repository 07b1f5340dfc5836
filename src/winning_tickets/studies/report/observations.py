"""Numbers of runs in long form: one observation per number with its axes, also for absent numbers."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from winning_tickets.config import Settings
from winning_tickets.data.metrics import metric_names
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import ContentError, shown
from winning_tickets.runs.files import is_number
from winning_tickets.runs.statistics import LARGEST, MATRIX_AXES, constant_score, is_at_chance
from winning_tickets.runs.store.records import Record
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.expressions import matches, number_of
from winning_tickets.studies.plan import Plan
from winning_tickets.studies.references import Point, Run
from winning_tickets.studies.schema import HOURS, LOG, SETTINGS, TRAIN_SECONDS, Value

Key = tuple[Any, ...]
State = Literal["done", "failed", "missing"]
"""State of a run or of one number; `missing` is not there yet, for whatever reason."""


@dataclass(frozen=True)
class StudyRun:
    """A planned run of a stage with its result and facts from the store."""

    id: str
    stage: str
    verb: str
    axes: Mapping[str, Any]  # place of the run in the study's grid
    config: Mapping[str, Any] = field(default_factory=dict)  # settings of the planned run that are not defaults
    status: str = "absent"  # in the store: `done`, `failed`, `running`, `unfinished`, `absent`
    result: Mapping[str, Any] | None = None  # None unless the run is done
    error: str | None = None  # message of a run that failed
    facts: Mapping[str, Any] = field(default_factory=dict)  # seconds, versions, machine and path
    folder: Path | None = None  # its run directory
    settings: Settings | None = None  # of the planned run
    chosen: Mapping[str, Any] = field(default_factory=dict)  # settings that were chosen for its arm

    @property
    def state(self) -> State:
        if self.status == "done":
            return "done"
        return "failed" if self.status == "failed" else "missing"


def count_states(runs: Iterable[StudyRun]) -> dict[State, int]:
    """Return the number of runs that are done, failed and missing."""
    found: dict[State, int] = {"done": 0, "failed": 0, "missing": 0}
    for run in runs:
        found[run.state] += 1
    return found


SEED = "seed"
METRIC = "metric"
_METRIC_NAMES = {metric for task in TASKS.values() for metric in task.metrics}
SCORES = {"score": "final", "score.best": "best", "score.selection": "final_selection"}
"""Short paths to a transfer's primary metric: at the last evaluation, the best of all, and where it was selected."""
_PRIMARY = "<primary>"
_ROUNDED = 0.005
_AXIS = re.compile(r"\$\{\s*(\w+)\s*\}")
_PLACE = re.compile(r"-?\d{1,9}")
_SCORED = re.compile(r"(^|\.)(score|final|best|whole|rest|selection)(\.|$)")  # paths of a task's scores


@dataclass(frozen=True)
class Observation:
    """One number of one run, present or not."""

    run: StudyRun
    axes: Mapping[str, Any]  # of the run, and `seed` and `metric` where one run has several
    state: State
    value: float | None = None  # finite; None unless the state is `done`
    part: tuple[Any, str | None] = (None, None)  # seed and metric inside the run
    degenerate: bool = False  # a score that a constant prediction reaches

    def place(self, axes: Iterable[str]) -> Key:
        """Return the values on some axes; None for an axis that the observation lacks."""
        return tuple(self.axes.get(axis) for axis in axes)


def observe(runs: Sequence[StudyRun], path: str, steps: Container[Any] | None = None) -> list[Observation]:
    """Return the numbers at a path (keys with dots) in the results of runs.

    `*` takes every key and makes it the axis `metric`; `score` and `score.best` are the scores of the primary metric;
    `name=value` takes the entry of a list with that value; `settings.learning_rate` is a setting of a finished run,
    with the values of its profile. `log.kd` takes `kd` of each record of the log, and makes the axis `step`;
    `log.hours` is the training time up to each record, and `run.train_seconds` that of the whole run. Of a log, only
    the steps in `steps` are taken, if given, and for a run with an axis `step` only that step. `jaccard.IMP*.OMP` takes
    entries of a matrix by the names of its rows and columns, which become axes. A record of several seeds
    (`{"values": [...]}`) gives one number per seed.
    """
    return [one for run in runs for one in _observe(run, path, steps)]


def select_runs(runs: Sequence[StudyRun], value: Value) -> list[StudyRun]:
    """Return the runs of a value, stage by stage, that match any of its conditions, if there are any."""
    own = [run for stage in value.stages for run in runs if run.stage == stage]
    return [run for run in own if not value.where or matches(value.where, run.axes)]


def observe_value(runs: Sequence[StudyRun], value: Value, steps: Container[Any] | None = None) -> list[Observation]:
    """Return the numbers of a value of some stages."""
    return observe(select_runs(runs, value), value.value, steps)


def absent_values(name: str, values: Iterable[Value], runs: Sequence[StudyRun]) -> tuple[str, ...]:
    """Return a problem for each value of a table, figure or claim that none of its finished runs has."""
    found = (describe_absent(value.value, select_runs(runs, value)) for value in values)
    return tuple(f"{name}: {words}" for words in chain.from_iterable(found))


def describe_absent(path: str, runs: Sequence[StudyRun]) -> list[str]:
    """Return a sentence if no finished run has a path, for example a misspelled one; empty otherwise."""
    finished = [run for run in runs if run.state == "done"]
    if not finished or any(one.value is not None for one in observe(finished, path)):
        return []
    if any(node.value is None for run in finished for node in _nodes(run, path)):  # null can be a result
        return []
    keys = sorted({key for run in finished for key in run.result or ()})
    return [f"No finished run has {path}; their results have {', '.join(keys)}."]


def _observe(run: StudyRun, path: str, steps: Container[Any] | None) -> Iterator[Observation]:
    if run.state != "done" or run.result is None:
        for seed in _planned_seeds(run):
            for metric in _planned_metrics(run, path):
                yield _make_observation(run, seed, metric, run.state)
        return
    if path.startswith(LOG):
        yield from _logged(run, path, steps)
        return
    metrics: list[dict[str, str]] = []
    for node in _nodes(run, path):
        metrics.append({axis: name for axis, name in node.axes.items() if axis == METRIC})
        for one in _values(run, node):
            yield replace(one, degenerate=bool(_SCORED.search(path)) and node.is_at_chance(one.value))
    failed = run.result.get("failed_seeds") or ()
    if not metrics and not failed:
        yield _make_observation(run, None, {}, "missing")
    for seed in failed:
        for metric in metrics or [{}]:
            number = seed["seed"] if isinstance(seed, Mapping) else seed
            yield _make_observation(run, number, metric, "failed")


def _logged(run: StudyRun, path: str, steps: Container[Any] | None) -> Iterator[Observation]:
    """Yield the numbers at a path in the records of a run's log, or of the logs of its seeds."""
    for folder in () if run.folder is None else (run.folder, *sorted(run.folder.glob("seed-*"))):
        seed = int(folder.name.removeprefix("seed-")) if folder != run.folder else None
        seconds, own = 0.0, run.axes.get("step")
        for record in read_log(folder):
            taken = record.get("seconds")
            seconds += taken if is_number(taken) else 0.0
            if (steps is not None and record["step"] not in steps) or own not in (None, record["step"]):
                continue
            node: Any = record if path != HOURS else seconds / 3600
            for key in path.split(".")[1:] if path != HOURS else ():
                node = node.get(key) if isinstance(node, Mapping) else None
            if node is not None:
                yield _make_observation(run, seed, {"step": record["step"]}, "done", value=node)


@dataclass(frozen=True)
class _Node:
    """A value in a result, the axes that its path opened, and what is known about the scores of its task."""

    value: Any
    axes: Mapping[str, str] = field(default_factory=dict)
    metric: str | None = None
    majority: float | None = None  # accuracy of the most frequent class
    constant: bool = False  # whether the predictions are constant

    def inside(self, value: Any, **axes: str) -> _Node:
        """Return the node of an entry of this node."""
        return replace(self, value=value, axes={**self.axes, **axes})

    def noted(self) -> _Node:
        """Return this node with what its own entries say about the scores in it."""
        own = self.value if isinstance(self.value, Mapping) else {}
        metrics = (own.get(name) for name in ("metric", "primary_metric"))
        majority, constant = own.get("majority"), own.get("degenerate")
        return replace(
            self,
            metric=next((name for name in metrics if isinstance(name, str)), self.metric),
            majority=majority if is_number(majority) else self.majority,
            constant=constant if isinstance(constant, bool) else self.constant,
        )

    def is_at_chance(self, score: float | None) -> bool:
        """Return True if a constant prediction has this score: the majority class, or no correlation."""
        if self.metric is None or score is None:
            return False
        return is_at_chance(self.metric, score, self.majority, constant=self.constant)


def _values(run: StudyRun, found: _Node) -> Iterator[Observation]:
    result, node = run.result or {}, found.value
    if isinstance(node, Mapping) and isinstance(node.get("values"), list):
        seeds = result.get("seeds") or range(len(node["values"]))
        if len(seeds) != len(node["values"]):
            raise edited_error(run, f"has {len(node['values'])} values for {len(seeds)} seeds")
        for seed, value in zip(seeds, node["values"], strict=True):
            yield _make_observation(run, seed, found.axes, "done", value=value)
        return
    value = node.get("median", node.get("mean")) if isinstance(node, Mapping) else node
    yield _make_observation(run, None, found.axes, "done", value=value)


def edited_error(run: StudyRun, how: str) -> ContentError:
    """Return the error for a stored result that no run writes; `how` follows the name of the file in the message."""
    return ContentError(
        f"{run.facts.get('path', run.id)} {how}: it was edited. tickets runs --verify finds such files; repeat the run."
    )


def _make_observation(
    run: StudyRun, seed: Any, opened: Mapping[str, Any], state: State, *, value: Any = None
) -> Observation:
    """Return an observation; a value that is not a finite number counts as missing."""
    axes = dict(run.axes)
    if seed is not None:
        # A study's own axis is kept: its label may be another word for the run's only seed.
        axes.setdefault(SEED, seed)
    axes |= opened
    part = (seed, " / ".join(map(str, opened.values())) or None)
    if is_number(value) and LARGEST < abs(value) < math.inf:
        raise edited_error(run, f"has the value {shown(value)}, and no run measures more than {LARGEST:g}")
    if state == "done" and is_number(value) and math.isfinite(value):
        return Observation(run, axes, "done", float(value), part)
    return Observation(run, axes, "missing" if state == "done" else state, None, part)


def _nodes(run: StudyRun, path: str) -> list[_Node]:
    """Return the values at a path."""
    result = {**(run.result or {}), "run": run.facts}
    if path.startswith(SETTINGS):
        result["settings"] = _resolved(run.settings)
    if path == TRAIN_SECONDS:
        hours = [one.value or 0.0 for one in _logged(run, HOURS, None)]
        result["run"] = {**run.facts, "train_seconds": 3600 * max(hours, default=0.0)}
    found = [_Node(result)]
    names = (run.result or {}).get("labels")
    for key in _keys(path, run.axes):
        found = [inner for node in found for inner in _step(node.noted(), key, names)]
    return found


def _step(here: _Node, key: str, names: Any) -> Iterator[_Node]:
    """Yield the entries of a node at one key of a path; `names` are the names of rows and columns of a matrix."""
    node = here.value
    if isinstance(node, Mapping) and key == "*":
        for name, value in node.items():
            yield replace(here.inside(value, **{METRIC: str(name)}), metric=str(name))
    elif isinstance(node, Mapping) and key == _PRIMARY:
        metrics, primary = node.get("metrics"), node.get("primary_metric")
        if isinstance(metrics, Mapping) and isinstance(primary, str) and primary in metrics:
            yield here.inside(metrics[primary])
    elif isinstance(node, Mapping) and key in node:
        yield replace(here.inside(node[key]), metric=key if key.split("_")[0] in _METRIC_NAMES else here.metric)
    elif isinstance(node, list) and "=" in key:
        yield from (here.inside(item) for item in node if _has_value(item, *key.split("=", 1)))
    elif isinstance(node, list) and _PLACE.fullmatch(key):
        if -len(node) <= int(key) < len(node):
            yield here.inside(node[int(key)])
    elif isinstance(node, list) and isinstance(names, list) and len(names) == len(node):
        axis = MATRIX_AXES[any(axis in here.axes for axis in MATRIX_AXES)]
        for name, value in zip(names, node, strict=True):
            # A wildcard finds pairs of different masks, as each mask is equal to itself.
            if fnmatchcase(str(name), key) and (name == key or str(name) not in here.axes.values()):
                yield here.inside(value, **{axis: str(name)})


def _resolved(settings: Settings | None) -> dict[str, Any]:
    """Return the settings of a run with the values of its profile."""
    resolved = getattr(settings, "resolved", None)
    return {} if settings is None else dict(settings if resolved is None else resolved())


def _keys(path: str, axes: Mapping[str, Any]) -> list[str]:
    """Return the keys of a path, with `${axis}` replaced; a value with a dot in it is one key."""
    for short, kind in SCORES.items():
        if path == short or path.endswith(f".{short}"):
            path = f"{path.removesuffix(short)}{_PRIMARY}.{kind}"
    return [_AXIS.sub(lambda found: str(axes.get(found.group(1))), key) for key in path.split(".")]


def _has_value(item: Any, name: str, wanted: str) -> bool:
    """Return True if an entry of a list has a value; sparsities may differ by the rounding to whole weights."""
    value = item.get(name) if isinstance(item, Mapping) else None
    if isinstance(value, float):
        number = number_of(wanted)
        return number is not None and abs(value - number) < _ROUNDED
    return str(value) == wanted


def _planned_seeds(run: StudyRun) -> Sequence[Any]:
    """Return the seeds that a run will have; only None if it will have a single number."""
    seeds = run.config.get("seeds", getattr(run.settings, "seeds", None))  # the planned fields lack default seeds
    return seeds if isinstance(seeds, Sequence) and not isinstance(seeds, str) and SEED not in run.axes else [None]


def _planned_metrics(run: StudyRun, path: str) -> list[dict[str, str]]:
    """Return the metrics that a transfer to a known task will have, as axes, if a path asks for all; else no axis."""
    task = TASKS.get(str(run.axes.get("task", run.config.get("task"))))
    if task is None or "metrics.*" not in path:
        return [{}]
    return [{METRIC: name} for name in metric_names(task)]


def chance_of(one: Observation) -> float | None:
    """Return the score of one answer for all examples on the task of an observation; None if it is not known."""
    result = one.run.result or {}
    metric = str(one.axes.get(METRIC, result.get("primary_metric")))
    found = (result.get("constant") or {}).get(metric)
    return found if is_number(found) else constant_score(metric.split("_")[0], result.get("majority"))


def gather_runs(plan: Plan, store: Store) -> list[StudyRun]:
    """Return the runs at all places of a plan's grid, in its order, read from small files of the store."""
    known = {record.id: record for record in store.records(only=plan.runs.keys())} if store.exists() else {}
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


def differing_rates(groups: Mapping[str, Sequence[Observation]]) -> dict[str, list[float]]:
    """Return the learning rates of each group on the tasks where the groups' fine-tunings differ in them.

    Rates that are an axis of the study, which are compared on purpose, and those chosen for each arm are left out.
    """
    by_task: dict[str, dict[str, set[float]]] = defaultdict(lambda: defaultdict(set))
    for name, observations in groups.items():
        for one in observations:
            result = one.run.result or {}
            rate = result.get("learning_rate")
            compared = one.run.verb in ("transfer", "share") and "learning_rate" not in one.run.chosen
            if compared and is_number(rate) and rate not in map(number_of, one.axes.values()):
                task = str(one.axes.get("task", result.get("task")))
                by_task[task][name].add(rate)
    found: dict[str, set[float]] = defaultdict(set)
    for rates in by_task.values():
        if len(set().union(*rates.values())) > 1:
            for name, own in rates.items():
                found[name] |= own
    return {name: sorted(own) for name, own in found.items()}
