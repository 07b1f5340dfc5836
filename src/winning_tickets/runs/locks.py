"""Locks: one launch works in a folder at a time.

The kernel locks a file, in which the holder writes its name, and frees it when the holder ends, even by a kill.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Self
from weakref import WeakValueDictionary

from winning_tickets.runs.errors import TicketsError, UsageError, page
from winning_tickets.runs.files import refused

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

LOCK = ".lock"
_LOOK_SECONDS = 0.1  # `in_use` of another process holds a lock for an instant, which is waited for
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # errors of file systems without locks


class ClaimedError(UsageError):
    """Another process works on the run or in the folder; nothing was changed."""


class LostError(TicketsError):
    """The lock of a run was removed by hand while it was running (exit code 1)."""


def _sign(number: int) -> None:
    """Write who holds a lock into its open file."""
    os.ftruncate(number, 0)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    os.write(number, f"{os.getpid()}\n{socket.gethostname()}\n{since}\n".encode())


class Lock:
    """A lock that this process holds; filelock's `Timeout` is raised if another keeps it for longer than `patience`."""

    def __init__(self, path: Path, patience: float) -> None:
        from filelock import FileLock, SoftFileLock

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        # A lock may be released by another thread than the one that took it.
        self._lock: BaseFileLock
        if _has_locks(path.parent):
            self._lock = FileLock(path, thread_local=False, fallback_to_soft=False, on_acquired=_sign)
        else:  # there, the file alone is the lock
            self._lock = SoftFileLock(path, thread_local=False)
        try:
            self._lock.acquire(timeout=patience)
        except FileNotFoundError:  # the holder has removed the folder, which it had created for the lock alone
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=patience)
        self._file = path.stat()

    def is_held(self) -> bool:
        """Return whether the file of the lock is still there; it may be removed by hand."""
        try:
            return os.path.samestat(self._file, self.path.stat())
        except FileNotFoundError:
            return False
        except OSError as error:
            raise refused(self.path, error) from error

    def release(self) -> None:
        """Remove the file and free the lock; a file that is not ours any more is left to its new holder."""
        with suppress(OSError):  # Windows keeps open files
            if os.path.samestat(self._file, self.path.stat()):
                self.path.unlink()
        with suppress(OSError):  # the kernel frees it at the end of the process at the latest
            self._lock.release()


def _has_locks(folder: Path) -> bool:
    """Return whether the file system of a writable folder has locks, which some of clusters have not."""
    from filelock import lock_descriptor

    with TemporaryFile(prefix=f"{LOCK}.", dir=folder) as file:
        try:
            return lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False


def name_owner(path: Path) -> str:
    """Return process, host and start time of the holder of a lock as text."""
    text = ""
    with suppress(OSError):
        text = path.read_text(encoding="utf-8", errors="replace")
    facts = re.match(r"(\d+)\n([^\n?]+).*\n(.*)", text)  # filelock adds a container to the host, after a "?"
    if facts is None:
        return "a process that has just begun"
    who = f"process {facts[1]} on {facts[2]}"
    with suppress(ValueError):
        who += f" since {datetime.fromisoformat(facts[3]).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return who


class Hold:
    """A folder that this launch works in, until the `with` block ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock: Lock | None = None
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

    def is_held(self) -> bool:
        """Return whether the lock is still ours; a fork leaves that to its parent."""
        if self.outer is not None:
            return self.outer.is_held()
        return self.lock is None or self._process != os.getpid() or self.lock.is_held()

    def check(self) -> None:
        """Raise `LostError` if somebody has removed the lock."""
        if not self.is_held():
            raise LostError(
                f"{self.folder} is no longer ours: its lock was removed, so another process may work there. Nothing "
                "more was written. Run the same command again to resume."
            )

    def release(self) -> None:
        """End the hold; the folder is removed if it was created for the lock and is empty."""
        if self._process != os.getpid() or self.outer is not None:
            return
        if self.lock is not None:
            self.lock.release()
        with _mutex:
            if _held.get(self.folder) is self:
                del _held[self.folder]
        if self.made:
            with suppress(OSError):
                self.folder.rmdir()


_held: WeakValueDictionary[Path, Hold] = WeakValueDictionary()
_mutex = threading.Lock()


def hold(folder: Path | str, *, name: str = "", beside: bool = False, patience: float = 0.0) -> Hold:
    """Take the lock of a folder for this launch, unless the launch already holds the folder or a parent of it.

    Args:
        name: what messages call the folder, instead of the option `--out`.
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
        raise _in_use(shown, name, "another thread of this process")
    path = _lock_of(folder, beside=beside)
    mine.made = path.parent == folder and not folder.exists()
    try:
        mine.lock = _take(path, shown, name, patience)
    except BaseException:
        mine.release()
        raise
    with _mutex:
        _held[folder] = mine
    return mine


def _take(path: Path, folder: Path | str, name: str, patience: float) -> Lock:
    from filelock import Timeout

    try:
        try:
            return Lock(path, _LOOK_SECONDS)
        except Timeout:
            if not patience:
                raise
        logger.info("%s is in use by %s; waiting for its end.", folder, name_owner(path))
        return Lock(path, patience)
    except Timeout as error:
        raise _in_use(folder, name, name_owner(path)) from error
    except OSError as error:
        raise refused(path, error) from error


def is_lock(path: Path) -> bool:
    """Return whether a file is the lock of its folder, or tries whether its file system has locks."""
    return path.name == LOCK or path.name.startswith(f"{LOCK}.")


def in_use(folder: Path) -> bool:
    """Return whether a process works in a folder; without locks in the file system, a file of a lock counts as one."""
    from filelock import lock_descriptor

    path = _lock_of(folder, beside=False)
    try:
        number = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not lock_descriptor(number, blocking=False)
    except OSError:
        return True
    finally:
        os.close(number)


def remove_dead_lock(folder: Path) -> None:
    """Remove the file that a killed process has left in a folder, where permitted."""
    if (folder / LOCK).exists():
        with suppress(TicketsError):
            hold(folder).release()


def break_lock(folder: Path) -> str:
    """Remove the lock of a folder, whoever holds it, and return who did; a holder that lives stops at its next step.

    Raises:
        UsageError: the folder has no lock.
    """
    folder = Path(folder)
    paths = [_lock_of(folder.resolve(), beside=beside) for beside in (False, True)]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise UsageError(f"{folder} has no lock; give the folder that a message names as in use.")
    who = name_owner(path)
    try:
        path.unlink()
    except OSError as error:
        raise refused(path, error) from error
    return who


def _lock_of(folder: Path, *, beside: bool) -> Path:
    """Return the path of the lock of a folder; for a run in a store, this is the store's claim."""
    store = folder.parent.parent
    if folder.parent.name == "runs" and (store / "store.json").is_file():
        return store / "claims" / f"{folder.name}{LOCK}"
    return folder.with_name(f".{folder.name}{LOCK}") if beside else folder / LOCK


def _in_use(folder: Path | str, name: str, who: str) -> ClaimedError:
    elsewhere = " on " in who and f" on {socket.gethostname()}" not in who
    return ClaimedError(
        f"{name or f'--out {folder}'} is in use by {who}; nothing was changed. Wait for it, or stop that process and "
        "run the same command again, or give another directory."
        + (f" If that process is gone: tickets runs --break-lock {folder}." if elsewhere else "")
        + f" {page('explanation/faults.md#one-folder-one-launch')}"
    )
