"""Numbers of runs in long form: one record a number, with the axes it belongs to; absent numbers have a record too."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import ContentError, shown
from winning_tickets.runs.files import is_number
from winning_tickets.runs.statistics import LARGEST
from winning_tickets.runs.store.index import Record
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.expressions import matches
from winning_tickets.studies.plan import Plan

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


SEED = "seed"
METRIC = "metric"
SCORES = {"score": "final", "score.best": "best"}
"""Short words for a transfer's primary metric: at the last evaluation, and the best of all."""
_PRIMARY = "<primary>"
_ROUNDED = 0.005
_AXIS = re.compile(r"\$\{\s*(\w+)\s*\}")
_PLACE = re.compile(r"-?\d{1,9}")


@dataclass(frozen=True)
class Observation:
    """One number of one run, or the place where it will be.

    Attributes:
        run: where it comes from.
        axes: those of the run, and `seed` and `metric` where one run holds several.
        state: whether the number is there.
        value: finite; None unless the state is `done`.
        part: which seed and metric inside the run; None where the run holds one number.
    """

    run: Run
    axes: Mapping[str, Any]
    state: State
    value: float | None = None
    part: tuple[Any, str | None] = (None, None)


def observe(runs: Sequence[Run], path: str) -> list[Observation]:
    """The numbers at a path in the results of runs.

    Args:
        runs: in any state.
        path: keys with dots, such as `kd_loss` or `metrics.accuracy.final`; `*` takes every key there and makes it the
            axis `metric`; `score` and `score.best`, also behind other keys, are those of the primary metric;
            `${axis}` stands for the run's value of an axis; `run.seconds` is what the store tells of the run;
            `name=value` takes the entry of a list. A record of several seeds (`{"values": [...]}`) gives one number a
            seed.
    """
    return [one for run in runs for one in _observe(run, path)]


def absent_note(path: str, runs: Sequence[Run]) -> list[str]:
    """A sentence where no finished run holds anything at a path, which a misspelt path does."""
    finished = [run for run in runs if run.state == "done"]
    if not finished or any(one.value is not None for one in observe(finished, path)):
        return []
    keys = sorted({key for run in finished for key in run.result or ()})
    return [f"No finished run has {path}; their results have {', '.join(keys)}."]


def _observe(run: Run, path: str) -> Iterator[Observation]:
    if run.state != "done" or run.result is None:
        state: State = run.state if run.state == "failed" else "missing"
        for seed in _planned_seeds(run):
            for metric in _planned_metrics(run, path):
                yield _one(run, seed, metric, state)
        return
    metrics: list[str | None] = []
    for metric, node in _nodes(run, path):
        metrics.append(metric)
        yield from _values(run, metric, node)
    failed = run.result.get("failed_seeds") or ()
    if not metrics and not failed:
        yield _one(run, None, None, "missing")
    for seed in failed:
        for metric in metrics or [None]:
            yield _one(run, _number(seed), metric, "failed")


def _number(seed: Any) -> Any:
    return seed["seed"] if isinstance(seed, Mapping) else seed


def _values(run: Run, metric: str | None, node: Any) -> Iterator[Observation]:
    result = run.result or {}
    if isinstance(node, Mapping) and isinstance(node.get("values"), list):
        seeds = result.get("seeds") or range(len(node["values"]))
        if len(seeds) != len(node["values"]):
            raise edited(run, f"has {len(node['values'])} values for {len(seeds)} seeds")
        for seed, value in zip(seeds, node["values"], strict=True):
            yield _one(run, seed, metric, "done", value)
        return
    value = node.get("median", node.get("mean")) if isinstance(node, Mapping) else node
    yield _one(run, None, metric, "done", value)


def edited(run: Run, how: str) -> ContentError:
    """The error of a stored result that no run writes.

    Args:
        run: whose.
        how: what it has.
    """
    return ContentError(
        f"{run.facts.get('path', run.id)} {how}: it was edited. tickets verify finds such files; repeat the run."
    )


def _one(run: Run, seed: Any, metric: str | None, state: State, value: Any = None) -> Observation:
    """An observation; what is no finite number is missing."""
    axes = dict(run.axes)
    if seed is not None:
        # A study's own axis stays as it is: its label may be another word for the one seed that the run has.
        axes.setdefault(SEED, seed)
    if metric is not None:
        axes[METRIC] = metric
    if is_number(value) and LARGEST < abs(value) < math.inf:
        raise edited(run, f"has the value {shown(value)}, and no run measures more than {LARGEST:g}")
    number = float(value) if is_number(value) else math.nan
    if state == "done" and math.isfinite(number):
        return Observation(run, axes, "done", number, (seed, metric))
    return Observation(run, axes, "missing" if state == "done" else state, None, (seed, metric))


def _nodes(run: Run, path: str) -> Iterator[tuple[str | None, Any]]:
    """What lies at a path, with the key that `*` stood for."""
    result = {**(run.result or {}), "run": run.facts}
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
                inside += [(metric, item) for item in node if _is(item, *key.split("=", 1))]
            elif isinstance(node, list) and _PLACE.fullmatch(key) and -len(node) <= int(key) < len(node):
                inside.append((metric, node[int(key)]))
        found = inside
    yield from found


def _keys(path: str, axes: Mapping[str, Any]) -> list[str]:
    """The keys of a path, `${axis}` written out; a value with a dot in it is one key."""
    for short, kind in SCORES.items():
        if path == short or path.endswith(f".{short}"):
            path = f"{path.removesuffix(short)}{_PRIMARY}.{kind}"
    return [_AXIS.sub(lambda found: str(axes.get(found.group(1))), key) for key in path.split(".")]


def _is(item: Any, name: str, wanted: str) -> bool:
    """Whether an entry of a list has a value; sparsities differ a little from what was asked for, by exact counts."""
    value = item.get(name) if isinstance(item, Mapping) else None
    if isinstance(value, float):
        try:
            return abs(value - float(wanted)) < _ROUNDED
        except ValueError:
            return False
    return str(value) == wanted


def _planned_seeds(run: Run) -> Sequence[Any]:
    """The seeds that one run will hold; None where it holds one number."""
    seeds = run.config.get("seeds")
    return seeds if isinstance(seeds, Sequence) and not isinstance(seeds, str) and SEED not in run.axes else [None]


def _planned_metrics(run: Run, path: str) -> Sequence[str | None]:
    """The metrics that a transfer to a known task will have, where a path asks for all of them."""
    if not path.startswith("metrics.*"):
        return [None]
    task = TASKS.get(str(run.axes.get("task", run.config.get("task"))))
    if task is None:
        return [None]
    if len(task.validation_splits) == 1:
        return list(task.metrics)
    suffixes = [split.removeprefix("validation_") for split in task.validation_splits]
    return [f"{metric}_{suffix}" for metric in task.metrics for suffix in suffixes]


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
