"""Claims on runs: one process works on a run at a time, and others take over the claim of a dead process.

A claim is a lease of filelock: the marker `claims/<id>/lease` names the process, which touches it at every heartbeat.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from filelock import LeaseSettingsMismatch, OwnerRecord, SoftFileLease, Timeout
from filelock._identity import host_name, owner_is_stale  # private, so pyproject.toml bounds the version

from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.files import refused

_TRIES = 5
"""Attempts within one heartbeat: a file system may refuse, and a check by another process moves the marker briefly."""
_SLACK_SECONDS = 5.0  # time for the take-over itself after the wait for a sign of life


class ClaimedError(UsageError):
    """Another process works on the run; nothing was changed."""


class Claim:
    """A claim that this process holds; a thread touches its marker every few seconds."""

    def __init__(self, path: Path, lease: SoftFileLease, heartbeat_seconds: float) -> None:
        self.path = path
        self._lease = lease
        self._pause = heartbeat_seconds / _TRIES

    def is_held(self) -> bool:
        """Return whether the run is still ours; another process takes it after a long standstill of this machine."""
        failure: OSError | None = None
        for attempt in range(_TRIES):
            if self._lease.compromise is not None:
                return False
            time.sleep(self._pause if attempt else 0)
            failure = None
            try:
                if f"token={self._lease.token}\n" in self.path.read_text(encoding="utf-8", errors="replace"):
                    return True
            except FileNotFoundError:
                continue
            except OSError as error:
                failure = error
        if failure is not None:
            raise refused(self.path, failure) from failure
        return False

    def release(self) -> None:
        """End the claim; one that was lost is left to its new holder."""
        try:
            self._lease.release()
        except OSError as error:
            raise refused(self.path, error) from error


class Claims:
    """All claims of a store, in an existing folder."""

    def __init__(self, folder: Path, heartbeat_seconds: float, dead_after_seconds: float) -> None:
        self.folder = folder
        self.heartbeat_seconds = heartbeat_seconds
        self.dead_after_seconds = dead_after_seconds

    def take(self, run_id: str) -> Claim:
        """Claim a run, or raise `ClaimedError` where a process that lives, or may live, holds it."""
        path = self._path(run_id)
        lease = self._lease(path)
        try:
            path.parent.mkdir(exist_ok=True)
            seen = _look(path)
            if seen is not None:
                # A recent sign of life counts, in either direction of a clock that jumped, unless the process is known
                # to be dead. An old claim is watched below until the lease has passed by our own clock.
                owner = lease.owner
                if _owner_lives(owner) is not False and abs(self._now() - seen[0]) <= self.dead_after_seconds:
                    raise _claimed(run_id, owner)
                # filelock keeps an empty marker forever, which a kill or a power failure may leave.
                if _look(path) == (seen[0], 0):
                    lease.force_break()
            lease.acquire(
                timeout=1.5 * self.dead_after_seconds + _SLACK_SECONDS if seen is not None else 0,
                cancel_check=lambda: _look(path) not in (None, seen),
            )
        except (Timeout, LeaseSettingsMismatch) as error:
            raise _claimed(run_id, lease.owner) from error
        except OSError as error:
            raise refused(path, error) from error
        for old in path.parent.glob("[0-9]*.*"):  # numbered claims of earlier versions
            with suppress(OSError):
                old.unlink()
        return Claim(path, lease, self.heartbeat_seconds)

    def is_held(self, run_id: str) -> bool:
        """Return whether a process works on a run, as far as one look shows."""
        path = self._path(run_id)
        seen = _look(path)
        if seen is None:
            return False
        lives = _owner_lives(self._lease(path).owner)
        return self._now() - seen[0] <= self.dead_after_seconds if lives is None else lives

    def _path(self, run_id: str) -> Path:
        return self.folder / run_id / "lease"

    def _lease(self, path: Path) -> SoftFileLease:
        return SoftFileLease(
            path,
            lease_duration=self.dead_after_seconds,
            heartbeat_interval=self.heartbeat_seconds,
            thread_local=False,  # a claim may be released by another thread than the one that took it
        )

    def _now(self) -> float:
        """Return the time of the file system, which may be another machine's."""
        probe = self.folder / ".clock"
        try:
            probe.touch()
            os.utime(probe)
            return probe.stat().st_mtime
        except OSError:
            return time.time()  # the store is read-only


def _look(path: Path) -> tuple[float, int] | None:
    """Return the time of the last change and the size; None if there is no such file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime, found.st_size


def _owner_lives(owner: OwnerRecord | None) -> bool | None:
    """Return whether the process lives; None where this machine cannot tell."""
    if owner is None or owner.hostname != host_name():
        return None
    return not owner_is_stale(owner.pid, owner.hostname, owner.start)


def _claimed(run_id: str, owner: OwnerRecord | None) -> ClaimedError:
    who = "a process that has just begun"
    if owner is not None:
        who = f"process {owner.pid} on {owner.hostname.partition('?')[0]}"  # a container's namespace follows the "?"
    return ClaimedError(f"The run {run_id} is claimed by {who}. Wait for it, or stop that process; then try again.")
