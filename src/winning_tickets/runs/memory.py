"""Objects given in memory: settings and run ids refer to them by names that are made from their content."""

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
    """Let `find` return an object for a name inside the block; yield the name."""
    token = _GIVEN.set({**_GIVEN.get(), name: value})
    try:
        yield name
    finally:
        _GIVEN.reset(token)


def find(name: str | Path) -> Any:
    """Return the object with a name such as `memory:model-3f2a`; None if the name is a path or a hub id."""
    if not str(name).startswith(PREFIX):
        return None
    if str(name) not in _GIVEN.get():
        raise UsageError(f"{name} was given in memory, and is not there any more; give the object itself again.")
    return _GIVEN.get()[str(name)]


def shown(name: str) -> str:
    """Return a name as tables show it: `ticket 3f2a91c0` for an object in memory, other names unchanged."""
    if not name.startswith(PREFIX):
        return name
    kind, _, content = name.removeprefix(PREFIX).partition("-")
    return f"{kind} {content[:8]}"
