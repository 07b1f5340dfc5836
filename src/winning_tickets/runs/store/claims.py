"""Claims on runs: one process works on a run at a time, and others take over the claim of a dead process."""

from __future__ import annotations

import os
import time
from pathlib import Path

from winning_tickets.runs.files import refused
from winning_tickets.runs.locks import ClaimedError, Lock, look_at, name_owner, owner_lives, owner_of, remove_lock, take


class Claims:
    """All claims of a store, in an existing folder; `claims/<id>/lease` is also the lock of the run's folder."""

    def __init__(self, folder: Path, heartbeat_seconds: float, dead_after_seconds: float) -> None:
        self.folder = folder
        self.heartbeat_seconds = heartbeat_seconds
        self.dead_after_seconds = dead_after_seconds

    def take(self, run_id: str) -> Lock:
        """Claim a run, or raise `ClaimedError` if a process that lives, or may live, holds the claim."""
        path = self._path(run_id)

        def claimed(who: str) -> ClaimedError:
            return ClaimedError(
                f"The run {run_id} is claimed by {who}. Wait for it, or stop that process; then try again."
            )

        try:
            seen = look_at(path)
            if seen is not None:
                # A recent heartbeat counts, even one in the future after a clock jumped, unless the process is known
                # to be dead. An older claim is watched until the lease has run out by our own clock.
                recent = abs(self._now() - seen[0]) <= self.dead_after_seconds
                if recent and owner_lives(owner_of(path)) is not False:
                    raise claimed(name_owner(path))
                # A kill or a power failure may leave an empty file, which filelock would keep forever.
                if seen[1] == 0:
                    remove_lock(path, seen)
        except OSError as error:
            raise refused(path, error) from error
        return take(path, claimed, self.heartbeat_seconds, self.dead_after_seconds)

    def is_held(self, run_id: str) -> bool:
        """Return whether a process works on a run, as far as one look shows."""
        path = self._path(run_id)
        seen = look_at(path)
        if seen is None:
            return False
        lives = owner_lives(owner_of(path))
        return self._now() - seen[0] <= self.dead_after_seconds if lives is None else lives

    def _path(self, run_id: str) -> Path:
        return self.folder / run_id / "lease"

    def _now(self) -> float:
        """Return the time of the file system, which may have the clock of another machine."""
        probe = self.folder / ".clock"
        try:
            probe.touch()
            os.utime(probe)
            return probe.stat().st_mtime
        except OSError:
            return time.time()  # the store is read-only
