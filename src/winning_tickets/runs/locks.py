"""Locks: one launch works in a folder at a time, and the lock of a dead process is taken over.

A lock is a lease of filelock: a file that names the process, which touches it at every heartbeat.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Self
from weakref import WeakValueDictionary

from winning_tickets.runs.errors import TicketsError, UsageError
from winning_tickets.runs.escapes import say
from winning_tickets.runs.files import refused, temporary_name

if TYPE_CHECKING:
    from filelock import OwnerRecord, SoftFileLease

HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0
LOCK = ".lock"
_TRIES = 5
"""Attempts within one heartbeat: a file system may refuse, and a check by another process moves the file briefly."""
_SLACK_SECONDS = 5.0  # time for the take-over itself after the wait for a sign of life
_BEGIN_SECONDS = 2.0  # time in which a process writes its name into the lock that it has created


class ClaimedError(UsageError):
    """Another process works on the run or in the folder; nothing was changed."""


class LostError(TicketsError):
    """The lock of a run was lost while it was running, for example after a standstill of the machine (exit code 1)."""


class Lock:
    """A lock that this process holds; a thread touches its file every few seconds."""

    def __init__(self, path: Path, lease: SoftFileLease, heartbeat_seconds: float) -> None:
        self.path = path
        self._lease = lease
        self._pause = heartbeat_seconds / _TRIES

    @property
    def is_lost(self) -> bool:
        """Whether the last heartbeat found another holder or no file."""
        return self._lease.compromise is not None

    def is_held(self) -> bool:
        """Return whether the lock is still ours; another process takes it after a long standstill of this machine."""
        failure: OSError | None = None
        for attempt in range(_TRIES):
            if self.is_lost:
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
        """Remove the lock; one that was lost is left to its new holder."""
        try:
            self._lease.release()
        except OSError as error:
            raise refused(self.path, error) from error


Look = tuple[float, int, int]  # time of the last change, size and inode of a lock


def look_at(path: Path) -> Look | None:
    """Return the state of a lock; None if there is no such file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime, found.st_size, found.st_ino


def owner_of(path: Path) -> OwnerRecord | None:
    """Return the process that a lock names; None if it cannot be read."""
    from filelock import SoftFileLease

    return SoftFileLease(path).owner


def owner_lives(owner: OwnerRecord | None) -> bool | None:
    """Return whether the process lives; None where this machine cannot tell."""
    from filelock._identity import host_name, owner_is_stale  # private, so pyproject.toml bounds the version

    if owner is None or owner.hostname != host_name():
        return None
    return not owner_is_stale(owner.pid, owner.hostname, owner.start) and not _has_ended(owner.pid)


def _has_ended(pid: int) -> bool:
    """Return whether a process has ended and its parent, such as a container's first process, has not noticed."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rfind(b")") + 2 :][:1] in (b"Z", b"X")


def name_owner(path: Path) -> str:
    """Return process, host and start time of the holder of a lock as text."""
    # The name is missing for a moment while the lock is created, and while another process moves the lock to check it.
    end = time.monotonic() + _BEGIN_SECONDS
    while (owner := owner_of(path)) is None:
        if time.monotonic() > end:
            return "a process that has just begun"
        time.sleep(_BEGIN_SECONDS / 100)
    who = f"process {owner.pid} on {owner.hostname.partition('?')[0]}"  # a container's namespace follows the "?"
    with suppress(OSError, ValueError):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        since = next((line.removeprefix("since=") for line in lines if line.startswith("since=")), "")
        who += f" since {datetime.fromisoformat(since).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return who


def remove_lock(path: Path, judged: Look) -> None:
    """Remove the file of a dead process; a lock that another process has created since then is put back."""
    aside = temporary_name(path)
    try:
        path.rename(aside)
        if look_at(aside) != judged:
            os.link(aside, path)  # never replaces a third lock
    except (FileNotFoundError, FileExistsError):
        pass
    finally:
        aside.unlink(missing_ok=True)


def take(
    path: Path,
    in_use: Callable[[str], ClaimedError],
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    dead_after_seconds: float = DEAD_AFTER_SECONDS,
    patience: float | None = None,
    waiting: Callable[[str], str] | None = None,
) -> Lock:
    """Take a lock, or raise the error that `in_use` makes from the text that names the holder.

    The lock of a process that is known to be dead is taken over at once. Any other lock is watched, and taken over when
    it has not been touched for `dead_after_seconds` of our own clock. With `patience`, in seconds, a process that is
    known to live keeps its lock without being watched, and is waited for. `waiting` returns the line to print on stderr
    before a wait.
    """
    from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

    lease = SoftFileLease(
        path,
        lease_duration=dead_after_seconds,
        heartbeat_interval=heartbeat_seconds,
        thread_local=False,  # a lock may be released by another thread than the one that took it
    )

    def acquire(timeout: float, cancel: Callable[[], bool] | None = None) -> bool:
        with suppress(Timeout):
            try:
                lease.acquire(timeout=timeout, cancel_check=cancel)
            except FileNotFoundError:  # the holder has removed the folder, which it had created for the lock alone
                path.parent.mkdir(parents=True, exist_ok=True)
                lease.acquire(timeout=0)
        return lease.is_locked

    began, told = time.monotonic(), False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        seen = look_at(path)
        if seen is not None:  # filelock waits where it may not replace a file
            with TemporaryFile(prefix=f"{path.name}.", dir=path.parent):
                pass
        while not acquire(0):
            # Without knowledge of the process, the lock is watched for a sign of life or a new holder.
            start, lives = time.monotonic(), owner_lives(lease.owner)
            over = start - began >= (patience or 0.0)
            if lives and over and patience is not None:
                raise in_use(name_owner(path))
            dead = lives is False
            if not dead:
                if waiting is not None and not told:
                    say(waiting(name_owner(path)))
                    told = True
                if acquire(1.5 * dead_after_seconds + _SLACK_SECONDS, partial(_has_changed, path, seen)):
                    break
                dead = time.monotonic() - start > dead_after_seconds
            # Network file systems refuse the exchange of two names by which filelock takes over.
            if dead and seen is not None and look_at(path) == seen:
                remove_lock(path, seen)
            elif over:
                raise in_use(name_owner(path))
            seen = look_at(path)
    except LeaseSettingsMismatch as error:
        raise in_use(name_owner(path)) from error
    except OSError as error:
        raise refused(path, error) from error
    with suppress(OSError), path.open("a", encoding="utf-8") as file:  # filelock ignores fields that it does not know
        file.write(f"since={datetime.now(UTC).isoformat(timespec='seconds')}\n")
    return Lock(path, lease, heartbeat_seconds)


def _has_changed(path: Path, seen: Look | None) -> bool:
    return look_at(path) not in (None, seen)


class Hold:
    """A folder that this launch works in, until the `with` block ends."""

    def __init__(self, folder: Path, lock: Lock | None = None) -> None:
        self.folder = folder
        self.lock = lock
        self.outer: Hold | None = None  # this launch's hold of a parent folder, whose lock is enough
        self.made = False  # the folder was created for the lock
        self._process, self._thread = os.getpid(), threading.get_ident()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def is_ours(self) -> bool:
        """Whether this launch holds the folder: this thread, or the process that this one was forked from."""
        return self._process != os.getpid() or self._thread == threading.get_ident()

    def check(self, thorough: bool = False) -> None:
        """Raise `LostError` if another process has taken the lock; `thorough` reads the file."""
        if self.outer is not None:
            self.outer.check(thorough)
            return
        if self.lock is None or self._process != os.getpid():
            return
        if self.lock.is_lost or (thorough and not self.lock.is_held()):
            raise LostError(
                f"{self.folder} is no longer ours: its lock was removed, or another process has taken it over after a "
                "standstill. Nothing more was written. Run the same command again to resume."
            )

    def release(self) -> None:
        """End the hold; the folder is removed if it was created for the lock and is empty."""
        if self._process != os.getpid() or self.outer is not None:
            return
        try:
            if self.lock is not None:
                self.lock.release()
        finally:
            with _mutex:
                if _held.get(self.folder) is self:
                    del _held[self.folder]
            if self.made:
                with suppress(OSError):
                    self.folder.rmdir()


_held: WeakValueDictionary[Path, Hold] = WeakValueDictionary()
_mutex = threading.Lock()


def hold(folder: Path | str, *, beside: bool = False, patience: float = 0.0) -> Hold:
    """Take the lock of a folder for this launch, unless the launch already holds the folder or a parent of it.

    Args:
        beside: the lock is next to the folder, which is moved into place as a whole.
        patience: seconds to wait for another launch that works in the folder.

    Raises:
        ClaimedError: another launch works in the folder; another thread of this process counts as one.
        TrainingError: the file system refused.
    """
    shown, folder = folder, Path(folder).resolve()
    mine = Hold(folder)
    with _mutex:
        ours = (_held.get(place) for place in (folder, *folder.parents))
        mine.outer = next((one for one in ours if one is not None and one.is_ours), None)
        if mine.outer is not None:
            return mine
        other = _held.get(folder)
        if other is None:
            _held[folder] = mine
    if other is not None and not patience:
        raise _in_use(shown, "another thread of this process")
    path = _lock_of(folder, beside)
    mine.made = path.parent == folder and not folder.exists()
    rest = f"at most {DEAD_AFTER_SECONDS:.0f} s for a sign of life" if not patience else "for its end"

    def waiting(who: str) -> str:
        return f"{shown} is in use by {who}; waiting {rest}."

    try:
        if other is None:
            _remove_unheld(path)
        mine.lock = take(path, lambda who: _in_use(shown, who), patience=patience, waiting=waiting)
    except OSError as error:
        mine.release()
        raise refused(path, error) from error
    except BaseException:
        mine.release()
        raise
    with _mutex:
        _held[folder] = mine
    return mine


def adopt(folder: Path, lock: Lock) -> Hold:
    """Return the hold of a folder whose lock was taken in another way."""
    mine = Hold(folder.resolve(), lock)
    with _mutex:
        _held[mine.folder] = mine
    return mine


def is_lock(path: Path) -> bool:
    """Return whether a file is the lock of its folder, or was left by a process killed while it took a lock over."""
    return path.name == LOCK or path.name.startswith(f"{LOCK}.")


def in_use(folder: Path) -> bool:
    """Return whether a process works in a folder, or may do so on another machine."""
    path = _lock_of(folder, False)
    return path.exists() and owner_lives(owner_of(path)) is not False


def remove_dead_lock(folder: Path) -> None:
    """Remove the lock that a killed process has left in a folder, where permitted."""
    path = folder / LOCK
    seen = look_at(path)
    if seen is not None and owner_lives(owner_of(path)) is False:
        with suppress(OSError):
            remove_lock(path, seen)


def _lock_of(folder: Path, beside: bool) -> Path:
    """Return the path of the lock of a folder; for a run in a store, this is the store's claim."""
    store = folder.parent.parent
    if folder.parent.name == "runs" and (store / "store.json").is_file():
        return store / "claims" / folder.name / "lease"
    return folder.with_name(f".{folder.name}{LOCK}") if beside else folder / LOCK


def _remove_unheld(path: Path) -> None:
    """Remove a lock without a holder that filelock would keep; no other thread of this process may hold the lock."""
    from filelock._identity import owner_is_current_process

    seen, owner = look_at(path), owner_of(path)
    if seen is None:
        return
    if owner is None and seen[1] == 0:  # a power failure may leave an empty file
        end = time.monotonic() + _BEGIN_SECONDS
        while look_at(path) == seen and time.monotonic() < end:
            time.sleep(_BEGIN_SECONDS / 100)
        if look_at(path) == seen:
            remove_lock(path, seen)
    elif owner is not None and owner_is_current_process(owner.pid, owner.hostname, owner.start):
        remove_lock(path, seen)  # an earlier release failed


def _in_use(folder: Path | str, who: str) -> ClaimedError:
    return ClaimedError(
        f"--out {folder} is in use by {who}; nothing was changed. Wait for it, or stop that process and run the same "
        "command again, or give another directory."
    )
