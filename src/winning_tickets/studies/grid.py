"""The grid of a stage's own axes, and the checks of a study that need no parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from winning_tickets.runs.errors import UsageError, shown, unknown
from winning_tickets.runs.statistics import MATRIX_AXES
from winning_tickets.studies import expressions
from winning_tickets.studies.expressions import LADDERS, Reference, is_reference, names_in
from winning_tickets.studies.schema import LOG, Stage, Study, Value, map_conditions
from winning_tickets.studies.verbs import verb_named

Problem = tuple[tuple[str | int, ...], str]  # place in the study, and text
MAX_PLACES = 100_000  # maximum number of places in the grid of a stage
_LISTS = {"seed": "seeds", "task": "tasks"}  # axes that set a list field to one value in verbs that have only the list


def axis_values(name: str, value: Any) -> list[tuple[Any, dict[str, Any] | None]]:
    """Return the values of an axis, each with the fields that it sets, or with None if the axis is a plain list."""
    if isinstance(value, Mapping) and value:
        wrong = [label for label, fields in value.items() if not isinstance(fields, Mapping)]
        if not wrong:
            return [(label, dict(fields)) for label, fields in value.items()]
        found = shown(value[wrong[0]])
        raise UsageError(f"the axis {name} maps {wrong[0]!r} to {found}; expected fields, as {{seed: 1}}")
    if isinstance(value, list | tuple) and value:
        wrong = [item for item in value if not isinstance(item, str | int | float) or is_reference(item)]
        if not wrong:
            return [(item, None) for item in value]
        found = shown(wrong[0])
        raise UsageError(f"the axis {name} has the value {found}; use a mapping such as {{label: {{field: ..}}}}")
    hint = f"; write [{value}]" if isinstance(value, str | int | float) and not is_reference(value) else ""
    raise UsageError(f"the axis {name} must be a list or a mapping with at least one value, found {shown(value)}{hint}")


def own_grid(stage: Stage, over: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield every combination of a stage's own axes, and the fields before references and `${...}` are resolved."""
    known = verb_named(stage.verb).settings.all_fields()
    used = used_names(stage)
    axes = {name: axis_values(name, value) for name, value in over.items()}
    chosen = [value if isinstance(value, list | tuple) else [value] for value in stage.label.values()]
    if math.prod(map(len, chosen)) > MAX_PLACES:
        raise UsageError(f"its labels make more than {MAX_PLACES:,} places; split the study")
    labels = [dict(zip(stage.label, values, strict=True)) for values in product(*chosen)]
    if (size := math.prod(map(len, axes.values())) * len(labels)) > MAX_PLACES:
        raise UsageError(f"its axes make {size:,} places, and a stage may have {MAX_PLACES:,}; split the study")
    for combination in product(*axes.values()):
        values = dict(zip(axes, (value for value, _ in combination), strict=True))
        fields = dict(stage.settings)
        for name, (value, own) in zip(axes, combination, strict=True):
            if own is not None:
                fields |= own
            else:
                fields = field_of(name, value, known, used) | fields  # fields of `with` win
        for label in labels:
            yield values | label, fields


def used_names(stage: Stage) -> set[str]:
    """Return the names in `${...}` of the settings of a stage and of the fields of its axes."""
    return names_in(stage.settings) | {
        name for axis in stage.over.values() if isinstance(axis, Mapping) for name in names_in(axis)
    }


def field_of(axis: str, value: Any, known: Mapping[str, Any], used: set[str]) -> dict[str, Any]:
    """Return the field that a plain axis sets: the one of its name, else a list of one value if no `${...}` uses it."""
    if axis in known:
        return {axis: value}
    return {_LISTS[axis]: [value]} if _LISTS.get(axis) in known and axis not in used else {}


def check_study(study: Study) -> list[Problem]:
    """Return the problems that a study has at any scale: unknown fields, names and stages, and circular references."""
    problems: list[Problem] = []
    for name, stage in study.stages.items():
        problems += _check_stage(study, name, stage)
    problems += _check_shown(study)
    if not problems:
        try:
            order_of(study)
        except UsageError as error:
            problems.append((("stages",), str(error)))
    return problems


def _check_stage(study: Study, name: str, stage: Stage) -> Iterator[Problem]:
    place: tuple[str | int, ...] = ("stages", name)
    settings = verb_named(stage.verb).settings
    variants = [
        ((*place, "over", axis, str(label)), fields)
        for axis, values in stage.over.items()
        if isinstance(values, Mapping)
        for label, fields in values.items()
        if isinstance(fields, Mapping)
    ]
    for where, fields in [((*place, "with"), stage.settings), *variants]:
        for field in fields:
            if field not in settings.all_fields():
                yield (*where, field), str(unknown(f"field of {stage.verb}", str(field), settings.all_fields()))
        yield from _check_references(study, where, fields)
    used = used_names(stage)
    for axis, values in stage.over.items():
        where = (*place, "over", axis)
        if isinstance(values, str) and not names_in(values):
            yield where, f"The axis {axis} is the text {values!r}; expected a list, a mapping or '${{parameter}}'."
        plain = not isinstance(values, Mapping) and axis not in used
        if plain and not field_of(axis, None, settings.all_fields(), used) and not _may_be_mapping(study, values):
            hint = f"Use it in 'with' as '${{{axis}}}', or give a mapping of labels to fields."
            yield where, f"The axis {axis}: {unknown(f'field of {stage.verb}', axis, settings.all_fields(), hint)}"
    for index, missing in _unknown_names(study, name, stage):
        known = {*_parameters(study), *stage.over}
        yield (*place, *index), str(unknown("parameter or axis", missing, known))


def _may_be_mapping(study: Study, values: Any) -> bool:
    """Return whether an axis is a parameter that is a mapping at some scale."""
    found = names_in(values)
    sources = [study.parameters, *study.scales.values()]
    return any(isinstance(source.get(name), Mapping) for name in found for source in sources)


def references_of(study: Study, value: Any) -> Iterator[tuple[Reference, bool]]:
    """Yield references in a value and in the parameters that it uses, and whether each is in a list."""
    yield from expressions.references_in(value)
    for name in sorted(names_in(value)):
        for source in (study.parameters, *study.scales.values()):
            if is_reference(source.get(name)):
                yield expressions.parse_reference(source[name]), False


def _check_references(study: Study, where: tuple[str | int, ...], fields: Mapping[str, Any]) -> Iterator[Problem]:
    for field, value in fields.items():
        try:
            for reference, _ in references_of(study, value):
                if reference.stage not in study.stages:
                    yield (*where, field), f"{reference.text}: {unknown('stage', reference.stage, study.stages)}"
        except UsageError as error:
            yield (*where, field), str(error)


def _unknown_names(study: Study, name: str, stage: Stage) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield names in `${...}` that are neither parameters nor axes."""
    parameters = _parameters(study)
    axes = parameters | axes_of(study, name)
    for axis, values in stage.over.items():
        # Values of an axis are known before any axis has a value; fields of a mapping are filled in later.
        allowed = axes if isinstance(values, Mapping) else parameters
        for missing in sorted(names_in(values) - allowed):
            yield ("over", axis), missing
    for field, value in stage.settings.items():
        for missing in sorted(names_in(value) - axes):
            yield ("with", field), missing
    for missing in sorted(names_in(stage.when) - parameters):
        yield ("when",), missing


def _parameters(study: Study) -> set[str]:
    return {*study.parameters, *(key for values in study.scales.values() for key in values)}


def axes_of(study: Study, name: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """Return the axes of a stage: its own ones, its labels, and those of its references."""
    stage = study.stages.get(name)
    if stage is None or name in seen:
        return set()
    found = {*stage.over, *stage.label}
    sources = [stage.settings, *(values for values in stage.over.values() if isinstance(values, Mapping))]
    for source in sources:
        try:
            references = [reference for reference, gathers in references_of(study, source) if not gathers]
        except UsageError:
            continue  # reported by _check_references
        for reference in references:
            theirs = axes_of(study, reference.stage, seen | {name})
            opened = {one for one in reference.names if one in LADDERS and one not in theirs}
            matched = {one for one in reference.names if one in theirs}
            found |= (matched or theirs) - set(reference.fixed) | opened
    return found


def _check_shown(study: Study) -> Iterator[Problem]:
    """Check the stages and axes of tables, figures and claims."""
    for kind in ("tables", "figures", "claims"):
        for name, item in getattr(study, kind).items():
            place = (kind, name)
            stages = [one for one in _stages_of(item) if one]
            for stage in stages:
                if stage not in study.stages:
                    yield place, str(unknown("stage", stage, study.stages))
            known = {axis for stage in stages for axis in axes_of(study, stage)}
            if str(getattr(item, "y", "")).startswith(LOG):
                known.add("step")
            if "*" in str(getattr(item, "value", "")):
                known |= {*MATRIX_AXES, "metric"}
            if all(stage in study.stages for stage in stages):
                for axis in _axes_shown(item):
                    if axis not in known:
                        yield place, str(unknown("axis", axis, known))
            conditions: list[Any] = []
            map_conditions(item, conditions.append)
            for missing in sorted(names_in(conditions) - _parameters(study)):
                yield (*place, "where"), str(unknown("parameter", missing, _parameters(study)))
    names = {*study.tables, *study.figures}
    for index, number in enumerate(study.published):
        if number.of not in names:
            yield ("published", index), str(unknown("table or figure", number.of, names))


def _stages_of(shown: Any) -> Iterator[str]:
    """Yield the stages that a table, figure or claim reads."""
    own = shown.stage
    yield from (own,) if isinstance(own, str) else own or ()
    yield from (one for one in getattr(shown, "level", ()) if isinstance(one, str))
    for value in values_of(shown):
        yield from value.stages


def values_of(shown: Any) -> list[Value]:
    """Return the values of stages that a table, figure or claim names."""
    found: list[Any] = [getattr(shown, name, None) for name in ("x", "y", "minus", "share_of", "mark_at_least", "x_at")]
    correlation = getattr(shown, "correlates", None)
    pairs = [*getattr(shown, "points", {}).values(), *([] if correlation is None else [correlation])]
    found += [value for pair in pairs for value in (pair.x, pair.y)]
    comparison = getattr(shown, "comparison", None)
    found += [] if comparison is None else [comparison.second, comparison.at]
    found += [*getattr(shown, "level", ()), *getattr(shown, "values", {}).values()]
    return [value for value in found if isinstance(value, Value)]


def _axes_shown(shown: Any) -> Iterator[str]:
    """Yield the axes that a table, figure or claim names."""
    for name in ("rows", "average", "choose", "pair_by"):
        yield from getattr(shown, name, ())
    for name in ("columns", "series", "panels", "x", "each"):
        axis = getattr(shown, name, None)
        if isinstance(axis, str):
            yield axis
    minus = getattr(shown, "minus", None)
    yield from minus if isinstance(minus, Mapping) else ()
    comparison = getattr(shown, "comparison", None)
    if comparison is not None:
        yield from (axis for axis in (comparison.axis, comparison.along) if axis is not None)


def order_of(study: Study) -> list[str]:
    """Return the names of the stages, each after the stages that it refers to."""
    done: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise UsageError(f"The stages refer to each other in a circle: {circle}.")
        if name in done:
            return
        stage = study.stages[name]
        for reference, _ in references_of(study, [stage.settings, stage.over]):
            visit(reference.stage, (*path, name))
        done.append(name)

    for name in study.stages:
        visit(name, ())
    return done
