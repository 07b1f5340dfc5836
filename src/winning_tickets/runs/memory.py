"""Objects that are given in memory: the names by which settings and run ids know them, made from their content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from winning_tickets.runs.errors import UsageError

PREFIX = "memory:"
_GIVEN: ContextVar[Mapping[str, Any]] = ContextVar("given", default={})  # noqa: B039 - never changed in place


@contextmanager
def given(name: str, value: Any) -> Iterator[str]:
    """Let `find` give an object for a name inside the block, and yield the name."""
    token = _GIVEN.set({**_GIVEN.get(), name: value})
    try:
        yield name
    finally:
        _GIVEN.reset(token)


def find(name: str | Path) -> Any:
    """Return the object of a name such as `memory:model-3f2a`; None for a name of something on disk or on the hub."""
    if not str(name).startswith(PREFIX):
        return None
    if str(name) not in _GIVEN.get():
        raise UsageError(f"{name} was given in memory, and is not there any more; give the object itself again.")
    return _GIVEN.get()[str(name)]


def shown(name: str) -> str:
    """Return a name as tables show it: `ticket 3f2a91c0` for an object in memory, others as they are."""
    if not name.startswith(PREFIX):
        return name
    kind, _, content = name.removeprefix(PREFIX).partition("-")
    return f"{kind} {content[:8]}"
