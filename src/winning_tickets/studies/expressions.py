"""Expressions in a study: `${parameter}`, `${parameter[axis]}`, references such as `@search[sparsity]`; conditions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from winning_tickets.runs.errors import UsageError, shown, unknown
from winning_tickets.runs.files import is_number

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_EXPRESSION = re.compile(r"\$\{\s*(" + _NAME + r")\s*(?:\[\s*(" + _NAME + r")\s*\])?\s*\}")
_REFERENCE = re.compile(r"@([A-Za-z][A-Za-z0-9_-]*)(?:\[([^\[\]]*)\])?(/[^@]*)?")

LADDERS = ("sparsity", "level", "step")  # axes along which one search may save several tickets


def map_strings(value: Any, change: Callable[[str], Any]) -> Any:
    """Replace each string in a value, also in lists and mappings; tuples become lists."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_strings(item, change) for key, item in value.items()}
    return [map_strings(item, change) for item in value] if isinstance(value, list | tuple) else value


def strings_in(value: Any) -> Iterator[str]:
    """Yield each string in a value, also in lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from strings_in(item)


def substitute(value: Any, known: Mapping[str, Any]) -> Any:
    """Replace `${...}` everywhere in strings, lists and mappings."""

    def fill_in(text: str) -> Any:
        whole = _EXPRESSION.fullmatch(text)
        if whole:
            return _look_up(whole, known)
        return _EXPRESSION.sub(lambda found: str(_look_up(found, known)), text)

    return map_strings(value, fill_in)


def _look_up(found: re.Match[str], known: Mapping[str, Any]) -> Any:
    name, index = found.groups()
    for needed in (name, index):
        if needed is not None and needed not in known:
            raise unknown("parameter or axis", needed, known)
    if index is None:
        return known[name]
    table, key = known[name], known[index]
    if not isinstance(table, Mapping):
        raise UsageError(f"{found.group()}: {name} is no mapping by {index}; found {table!r}.")
    entries = {str(entry): item for entry, item in table.items()}
    if str(key) not in entries:
        raise UsageError(f"{found.group()}: {name} has no entry for {index} {key}; found {', '.join(entries)}.")
    return entries[str(key)]


def names_in(value: Any) -> set[str]:
    """Return all names in the `${...}` of a value."""
    found = (found for text in strings_in(value) for found in _EXPRESSION.finditer(text))
    return {name for one in found for name in one.groups() if name}


def without_axes(path: str) -> str:
    """Return the path of a value without the axes in it, for people."""
    return re.sub(_EXPRESSION.pattern + r"\.?", "", path)


@dataclass(frozen=True)
class Reference:
    """A reference `@stage[names, fixed=value]rest` to the runs of a stage; `rest` is empty or a path with a slash."""

    text: str
    stage: str
    names: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    rest: str = ""


def is_reference(value: Any) -> bool:
    """Return whether a value is a string that begins with `@`."""
    return isinstance(value, str) and value.startswith("@")


def parse_reference(text: str) -> Reference:
    """Parse a reference such as `@search[sparsity, method=OMP]/folder`."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is not a reference; expected '@STAGE', '@STAGE[axis]' or '@STAGE[axis=value]'.")
    stage, inside, rest = found.groups()
    names, fixed = [], {}
    for part in (inside or "").split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if equals:
            fixed[name] = value
        elif name:
            names.append(name)
    return Reference(text, stage, tuple(names), fixed, rest or "")


def references_in(value: Any) -> Iterator[tuple[Reference, bool]]:
    """Yield all references in a value, and whether each is in a list, where it means all matching runs."""
    if is_reference(value):
        yield parse_reference(value), False
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            if is_reference(item):
                yield parse_reference(item), True
            else:
                yield from references_in(item)


_TESTS = ("not", "above", "below", "at_least", "at_most", "same")


def matches(conditions: Sequence[Mapping[str, Any]], axes: Mapping[str, Any], *, so_far: bool = False) -> bool:
    """Return whether the axes of a run match any condition; a missing axis matches only with `so_far`."""
    if not isinstance(conditions, list | tuple) or not all(isinstance(one, Mapping) for one in conditions):
        raise UsageError(
            f"skip, only and where take a list of conditions, such as [{{task: rte}}], found {shown(conditions)}."
        )
    return any(
        all(_holds(axes[name], wanted, axes, so_far=so_far) if name in axes else so_far for name, wanted in one.items())
        for one in conditions
    )


def _holds(value: Any, wanted: Any, axes: Mapping[str, Any], *, so_far: bool) -> bool:
    if isinstance(wanted, Mapping):
        if not wanted or any(test not in _TESTS for test in wanted):
            raise UsageError(
                f"{shown(dict(wanted))} is no condition; expected a value, a list, or one of {', '.join(_TESTS)}."
            )
        return all(_test(test, value, limit, axes, so_far=so_far) for test, limit in wanted.items())
    choices = wanted if isinstance(wanted, list | tuple) else [wanted]
    return any(same(value, choice) for choice in choices)


def _test(test: str, value: Any, limit: Any, axes: Mapping[str, Any], *, so_far: bool) -> bool:
    if test == "not":
        return not _holds(value, limit, axes, so_far=False)
    if test == "same":  # `limit` names another axis
        return same(value, axes[limit]) if limit in axes else so_far
    number, bound = number_of(value), number_of(limit)
    if number is None or bound is None:
        raise UsageError(f"{test} compares numbers, found {shown(value)} and {shown(limit)}.")
    return {
        "above": number > bound,
        "below": number < bound,
        "at_least": number >= bound,
        "at_most": number <= bound,
    }[test]


def same(first: Any, second: Any) -> bool:
    """Return whether two values of an axis are equal or have the same text; a number may be written in any form."""
    if bool(first == second) or str(first) == str(second):
        return True
    return is_number(first) != is_number(second) and number_of(first) == number_of(second) is not None


def number_of(value: Any) -> float | None:
    """Return a number, also from text, which is how YAML reads 1e-4; None for anything else."""
    try:
        return float(value) if isinstance(value, str) or is_number(value) else None
    except (ValueError, OverflowError):
        return None
