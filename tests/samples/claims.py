"""Short waits for a claim that names no process."""

import pytest

from winning_tickets.runs import locks


def wait_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a process a tenth of a second, not two, to write its name into the lock that it has created."""
    monkeypatch.setattr(locks, "_BEGIN_SECONDS", 0.1)
    monkeypatch.setattr("filelock._soft.MALFORMED_LOCK_AGE_THRESHOLD", 0.1)
