"""Conditions on axes: which runs are left out of a stage, and which a table or figure shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from winning_tickets.errors import UsageError, shown
from winning_tickets.files import is_number

_TESTS = ("not", "above", "below")


def matches(conditions: Sequence[Mapping[str, Any]], axes: Mapping[str, Any]) -> bool:
    """Whether a run matches any of some conditions.

    Args:
        conditions: each maps axes to a value, a list of values, or `{not|above|below: ...}`; all of it must hold.
        axes: of the run. One that lacks an axis does not match.

    Raises:
        UsageError: a condition is none of these.
    """
    if not isinstance(conditions, list | tuple) or not all(isinstance(one, Mapping) for one in conditions):
        raise UsageError(
            f"skip, only and where take a list of conditions, such as [{{task: rte}}], found {shown(conditions)}."
        )
    return any(all(name in axes and _holds(axes[name], wanted) for name, wanted in one.items()) for one in conditions)


def _holds(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if not wanted or any(test not in _TESTS for test in wanted):
            raise UsageError(
                f"{shown(dict(wanted))} is no condition; expected a value, a list, or one of {', '.join(_TESTS)}."
            )
        return all(_test(test, value, limit) for test, limit in wanted.items())
    choices = wanted if isinstance(wanted, list | tuple) else [wanted]
    return any(same(value, choice) for choice in choices)


def _test(test: str, value: Any, limit: Any) -> bool:
    if test == "not":
        return not _holds(value, limit)
    numbers = [one for one in (value, limit) if is_number(one)]
    if len(numbers) < 2:
        raise UsageError(f"{test} compares numbers, found {shown(value)} and {shown(limit)}.")
    return bool(value > limit if test == "above" else value < limit)


def same(first: Any, second: Any) -> bool:
    """Whether two values of an axis are one: equal, or written alike."""
    return bool(first == second) or str(first) == str(second)
