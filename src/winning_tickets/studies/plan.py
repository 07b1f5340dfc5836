"""Plan of a study: parameters filled in, grids expanded, references resolved, equal runs merged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import yaml

from winning_tickets.config import Settings
from winning_tickets.data.names import misnamed
from winning_tickets.runs.errors import UsageError, unknown
from winning_tickets.runs.identity import run_id
from winning_tickets.runs.store import query
from winning_tickets.studies.expressions import is_reference, matches, same, strings_in, substitute
from winning_tickets.studies.grid import MAX_PLACES, order_of, own_grid
from winning_tickets.studies.references import Point, Resolver, Run, target_id
from winning_tickets.studies.schema import SCALES, Stage, Study, map_conditions
from winning_tickets.studies.verbs import verb_named

MAX_SLUG = 60
BY_DEFAULT = ("data_dir",)
"""Needs that are read from the hub if no folder is given."""


def shown_setting(value: Any) -> str:
    """Return a setting as text: strings unchanged, other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class Plan:
    """All runs of a study at a scale."""

    study: Study  # with parameters filled into the conditions of tables, figures and claims
    scale: str
    parameters: dict[str, Any]  # parameters of the scale, with overrides
    runs: dict[str, Run]  # by id; each run comes after the runs that it needs
    points: tuple[Point, ...]  # of all stages, in order
    part: tuple[str, ...] = ()  # conditions that selected these runs, see `part_of`

    def stage_runs(self, stage: str) -> list[str]:
        return list(dict.fromkeys(point.run for point in self.points if point.stage == stage))


def plan_study(study: Study, scale: str, overrides: Mapping[str, Any] | None = None) -> Plan:
    """Plan the runs of a study without reading weights or data.

    Args:
        study: the study.
        scale: one of `SCALES`.
        overrides: parameters that replace those of the scale.

    Raises:
        UsageError: a scale that the study lacks, an unknown parameter, fields with impossible values, or a reference
            that finds no run; the message names the stage and the axes.
    """
    parameters = parameters_of(study, scale, overrides or {})
    runs: dict[str, Run] = {}
    placed: dict[str, list[Point]] = {}
    order = order_of(study)
    try:
        for name in order:
            placed[name] = list(_place_stage(study, name, parameters, placed, runs=runs))
    except UsageError as error:
        unset = unset_needs(study, parameters, [name for name in study.needs if name not in BY_DEFAULT])
        raise UsageError(*unset, *error.lines) from error
    points = [point for name in study.stages for point in placed[name]]
    return Plan(_with_conditions(study, parameters), scale, parameters, runs, tuple(points))


def unset_needs(study: Study, parameters: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return one sentence for each of the needs `names` that is not given."""
    return [
        f"{name} is not set; it has to be {study.needs[name]}: --set {name}=..."
        for name in names
        if parameters.get(name) is None
    ]


def _with_conditions(study: Study, parameters: Mapping[str, Any]) -> Study:
    shown = {
        kind: {
            name: map_conditions(item, lambda found: substitute(found, parameters))
            for name, item in getattr(study, kind).items()
        }
        for kind in ("tables", "figures", "claims")
    }
    return study.model_copy(update=shown)


def parameters_of(study: Study, scale: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a scale."""
    known: dict[str, dict[str, Any]] = {str(name): values for name, values in study.scales.items()}
    if scale not in known:
        if scale not in SCALES:
            raise unknown("scale", scale, SCALES)
        raise UsageError(f"The study {study.name} has no scale {scale!r}; it has {', '.join(study.scale_names)}.")
    parameters = study.parameters | known[scale]
    for name in overrides:
        if name not in parameters:
            raise unknown(f"parameter of {study.name}", name, parameters)
    merged = parameters | dict(overrides)
    # Parameters may use others, such as a corpus in the data folder.
    filled = {name: substitute(value, merged) for name, value in merged.items()}
    return {name: _of_tasks(value, filled.get("tasks")) for name, value in filled.items()}


def _of_tasks(value: Any, tasks: Any) -> Any:
    """Return a mapping of tasks to references without tasks that are left out; return other values unchanged."""
    if not (
        isinstance(value, Mapping) and isinstance(tasks, list) and all(is_reference(one) for one in value.values())
    ):
        return value
    return {task: one for task, one in value.items() if task in tasks}


def part_of(plan: Plan, where: Sequence[str] = (), shard: str | None = None) -> Plan:
    """Return a part of a plan with all runs that it needs.

    Args:
        plan: the whole plan.
        where: conditions on axes, such as `task=rte,mrpc` or `sparsity>=0.6`, or on the `stage`, which must all hold.
        shard: `i/n`: of the runs that no other run needs, every n-th from the i-th on. All n parts together are the
            plan; a run that several parts need is done only once if these parts share a store.

    Raises:
        UsageError: an unknown axis, no run, or a shard that is not `i/n`.
    """
    chosen = _chosen(plan, parse_conditions(where))
    if shard is not None:
        found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", shard.strip())
        index, count = (int(found[1]), int(found[2])) if found else (1, 0)
        if index > count:
            raise UsageError(f"--shard {shard} is not a part; the third of sixteen is 3/16.")
        needed = {need for run in chosen for need in plan.runs[run].needs}
        chosen = dict.fromkeys([run for run in chosen if run not in needed][index - 1 :: count])
    if not chosen:
        part = f"part {shard} of " if shard else ""
        raise UsageError(f"There is no run in {part}{plan.study.name} at {plan.scale}; see tickets study plan.")
    kept: set[str] = set()
    for run in reversed(plan.runs.values()):  # each run comes after the runs that it needs
        if run.id in chosen or run.id in kept:
            kept |= {run.id, *run.needs}
    runs = {name: run for name, run in plan.runs.items() if name in kept}
    points = tuple(point for point in plan.points if point.run in kept)
    return replace(plan, runs=runs, points=points, part=tuple(where))


def _chosen(plan: Plan, condition: Mapping[str, Any]) -> dict[str, None]:
    """Return the runs whose axes meet all conditions; refuse unknown values and conditions that leave no run."""
    left = [(point.run, {"stage": point.stage} | point.axes) for point in plan.points]
    axes = {axis for _, own in left for axis in own}
    for axis, wanted in condition.items():
        if axis not in axes:
            raise unknown("axis", axis, axes)
        known = _values_of(axis, left)
        if (value := _not_among(wanted, known)) is not None:
            raise unknown(f"value of {axis}", value, known)
    # Conditions are applied one by one, so that the error can name the one that leaves no run.
    given = {axis: _written(axis, wanted) for axis, wanted in condition.items()}
    for index, (axis, wanted) in enumerate(condition.items()):
        there = _values_of(axis, left)
        left = [(run, own) for run, own in left if matches([{axis: wanted}], own)]
        if not left:
            those = " and ".join([*given.values()][:index])
            those = f"those with {those}" if those else "they"
            found = f"have {axis} {', '.join(there)}" if there else f"have no axis {axis}"
            name = f"{plan.study.name} at {plan.scale}"
            raise UsageError(f"--where {given[axis]}: no run of {name} is left; {those} {found}.")
    for axis, wanted in condition.items():
        if (value := _not_among(wanted, _values_of(axis, left))) is not None:
            others = " and ".join(text for name, text in given.items() if name != axis)
            raise UsageError(
                f"--where {axis}={value} has no run with {others}; remove it, or select it in a second command."
            )
    return dict.fromkeys(run for run, _ in left)


def _values_of(axis: str, runs: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the values of an axis by their text."""
    return {str(own[axis]): own[axis] for _, own in runs if axis in own}


def _not_among(wanted: Any, known: Mapping[str, Any]) -> str | None:
    """Return the first unknown value of a condition; a mapping is a test and names no value."""
    for value in wanted if isinstance(wanted, list) else [wanted]:
        if not isinstance(value, Mapping) and not any(same(value, one) for one in known.values()):
            return str(value)
    return None


def _written(axis: str, wanted: Any, sign: str = "=") -> str:
    """Return a condition on an axis as it is written on the command line."""
    if isinstance(wanted, Mapping):
        signs = {test: sign for sign, test in _TEST_OF.items()}
        return " and ".join(_written(axis, limit, signs.get(test, f" {test} ")) for test, limit in wanted.items())
    return f"{axis}{sign}{','.join(map(shown_setting, wanted)) if isinstance(wanted, list) else shown_setting(wanted)}"


def parse_overrides(given: Sequence[str]) -> dict[str, Any]:
    """Parse `--set` options: `tasks=rte,mrpc` is a list, any other value is YAML."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {text!r} is not of the form NAME=VALUE, such as tasks=rte,mrpc.")
        found[name.strip()] = _value_of("--set", text, value)
    return found


_TEST_OF = {"!=": "not", ">": "above", "<": "below", ">=": "at_least", "<=": "at_most"}


def parse_conditions(given: Sequence[str]) -> dict[str, Any]:
    """Parse `--where` options, which have the form that stores read too; an axis may have several comparisons."""
    found: dict[str, Any] = {}
    for text in given:
        one = query.Condition.parse(text)
        wanted = _value_of("--where", text, one.text)
        if one.sign in _TEST_OF:
            wanted = {_TEST_OF[one.sign]: wanted}
        earlier = found.get(one.key)
        if isinstance(earlier, Mapping) and isinstance(wanted, Mapping) and not earlier.keys() & wanted.keys():
            wanted = {**earlier, **wanted}
        elif one.key in found:
            raise UsageError(f"--where {one.key} is given twice; write its values as one list, such as task=rte,mrpc.")
        found[one.key] = wanted
    return found


def _value_of(option: str, text: str, value: str) -> Any:
    plain = "," in value and not value.lstrip().startswith(("[", "{", '"', "'"))
    try:
        return yaml.safe_load(f"[{value}]" if plain else value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{option} {text!r}: the value is not valid YAML.") from error


def _place_stage(
    study: Study,
    name: str,
    parameters: Mapping[str, Any],
    placed: Mapping[str, list[Point]],
    *,
    runs: dict[str, Run],
) -> Iterator[Point]:
    stage = study.stages[name]
    if not substitute(stage.when, parameters):
        return
    try:
        # Fields in a mapping are filled in later, with the axes of each run; labels and plain values are known now.
        over = {
            axis: value if isinstance(value, Mapping) else substitute(value, parameters)
            for axis, value in stage.over.items()
        }
        skip, only = substitute(stage.skip, parameters), substitute(stage.only, parameters)
        labelled = stage.model_copy(update={"label": substitute(stage.label, parameters)})
        grid = list(own_grid(labelled, over))
    except UsageError as error:
        raise UsageError(f"Stage {name}: {error}") from error
    # Each place of the grid may become several runs, one for each target of its references.
    resolver = Resolver(placed, runs, parameters)
    count = 0
    for own, fields in grid:
        if only and not matches(only, own, so_far=True):
            continue  # skipped before its references are resolved, which might find no run
        try:
            for axes, resolved in resolver.rows(own, fields):
                if matches(skip, axes) or (only and not matches(only, axes)):
                    continue
                count += 1
                if count > MAX_PLACES:
                    raise UsageError(f"more than {MAX_PLACES:,} places, which a stage may have; split the study")
                run = run_of(name, stage.verb, _settings(stage, substitute(resolved, {**parameters, **axes})))
                yield Point(name, axes, runs.setdefault(run.id, run).id)
        except UsageError as error:
            where = ", ".join(f"{axis}={value}" for axis, value in own.items())
            raise UsageError(f"Stage {name}{f' ({where})' if where else ''}: {error}") from error


def _settings(stage: Stage, fields: Mapping[str, Any]) -> Settings:
    settings = verb_named(stage.verb).settings.of(**fields)
    # Whether files and texts exist is checked on the machine that does the run.
    problems = misnamed(settings, with_files=False, with_corpus=False)
    if problems:
        raise UsageError(" ".join(problems))
    return settings


def run_of(stage: str, verb: str, settings: Settings) -> Run:
    """Return the run of a verb with some settings, whose references are `@ID/path`."""
    config = _fields(settings)
    needs = tuple(dict.fromkeys(target_id(text) for text in strings_in(config) if is_reference(text)))
    identity = run_id(settings, _slug(verb, settings), verb=verb)
    return Run(identity, verb, stage, config, needs, settings)


def _fields(settings: Settings) -> dict[str, Any]:
    """Return the fields from which a worker rebuilds the same settings: those that differ from their defaults.

    A default may depend on other fields, such as the ranking on the profile; then a field with the usual default is
    kept, too.
    """
    found = settings.model_dump(mode="json", exclude_defaults=True)
    again, every = type(settings).of(**found), settings.model_dump(mode="json")
    return found | {name: every[name] for name, value in settings if getattr(again, name) != value}


def _slug(verb: str, settings: Settings) -> str:
    """Return the readable part of a run id: the verb and the settings that distinguish its runs."""
    parts = [verb]
    for name in verb_named(verb).words:
        value = attrgetter(name)(settings) if "." in name else getattr(settings, name, None)
        if name == "sparsity" and value is None:  # ids of structured searches have had the usual one since 0.1.0
            value = verb_named(verb).settings.all_fields()[name][1].default
        words = "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if value is not None and words and not is_reference(value):
            parts.append(f"s{words}" if name.endswith(("seed", "seeds")) else words)
    return "-".join(parts)[:MAX_SLUG]
