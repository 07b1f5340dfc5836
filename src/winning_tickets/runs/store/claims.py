"""Who works on which run: claims that a dead process cannot keep and two processes cannot both get.

The claims of a run are numbered files in `claims/<id>/`. A claim is made by creating the next number, which succeeds
for one process only; the highest number counts, and is never removed. So a slow process that judged an old claim dead
cannot push out the one that came after it. An ended claim is renamed from `.json` to `.released`.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.files import parse_json, refused


@functools.cache
def namespace() -> str | None:
    """Where process numbers mean the same: this boot of this machine, and this container; None where none can tell.

    Two containers may share a host name and still not see each other's processes, and clones of one machine share it
    too; so the name says nothing.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None where there is no such process, or only its zombie.

    A number is used again after some time; together with the start it is unique.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


_HELD, _RELEASED = ".json", ".released"
_TRIES = 5
"""So often a file system that refuses is asked, over one heartbeat."""
_NUMBERED = re.compile(r"\d{6,}\.(json|released)")


class ClaimedError(UsageError):
    """Another process works on the run; nothing was touched."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim, as its file says.

    Attributes:
        host: name of the machine, for people.
        namespace: where `pid` can be looked up, see `processes.namespace`.
        pid: number of the process.
        started: when that process began, see `processes.started`.
        token: random, unique to the claim.
        since: UTC time by the holder's clock, for people.
    """

    host: str
    namespace: str | None
    pid: int
    started: int | None
    token: str
    since: str

    @classmethod
    def me(cls) -> Holder:
        """This process, now."""
        pid = os.getpid()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(platform.node(), namespace(), pid, started(pid), uuid.uuid4().hex, now)

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """What a claim's file says; None where a kill cut it off, or it is gone."""
        try:
            holder = cls(**parse_json(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return holder if type(holder.pid) is int else None


class Claim:
    """A claim on a run that this process holds; its thread shows every few seconds that the process lives.

    Attributes:
        lost: set as soon as it is noticed that another process has taken the run.
    """

    def __init__(self, run_id: str, path: Path, holder: Holder, claims: Claims) -> None:
        self.run_id = run_id
        self.path = path
        self.holder = holder
        self.lost = threading.Event()
        self._claims = claims
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim on {run_id}", daemon=True)
        self._thread.start()

    def still_mine(self) -> bool:
        """Whether nobody has taken the run, as one may after a long standstill of this machine."""
        return self._insist(self._look)

    def release(self) -> None:
        """End the claim; one that was lost is left to whoever has it."""
        self._over.set()
        self._thread.join()
        self._insist(self._end)

    def _look(self) -> bool:
        if self._claims.latest(self.run_id) != self.path or Holder.read(self.path) != self.holder:
            self.lost.set()
        return not self.lost.is_set()

    def _end(self) -> bool:
        mine = self._look()
        if mine:
            self.path.rename(self.path.with_suffix(_RELEASED))
        return mine

    def _insist(self, work: Callable[[], bool]) -> bool:
        """Do something with the claim; a file system may be away for a moment."""
        for _ in range(_TRIES - 1):
            try:
                return work()
            except OSError:
                time.sleep(self._claims.heartbeat_seconds / _TRIES)
        try:
            return work()
        except OSError as error:
            raise refused(self.path, error) from error

    def _beat(self) -> None:
        while not self._over.wait(self._claims.heartbeat_seconds):
            try:
                if not self._look():
                    return
                os.utime(self.path)
            except OSError:
                continue  # a file system that is away for a moment


class Claims:
    """All claims of a store."""

    def __init__(self, folder: Path, heartbeat_seconds: float, dead_after_seconds: float) -> None:
        self.folder = folder
        self.heartbeat_seconds = heartbeat_seconds
        self.dead_after_seconds = dead_after_seconds

    def take(self, run_id: str) -> Claim:
        """Claim a run.

        A holder of this machine is dead when its process is gone. One of another machine is dead when its claim is
        old by the file system's own clock, and then shows no sign of life while we watch; this takes some seconds.
        """
        folder = self.folder / run_id
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise refused(folder, error) from error
        holder = Holder.me()
        while True:
            latest = self.latest(run_id)
            if latest is not None and self._alive(latest, self._watched):
                raise _claimed(run_id, _holder(latest))
            path = folder / f"{1 if latest is None else int(latest.stem) + 1:06d}{_HELD}"
            try:
                with path.open("x", encoding="utf-8") as handle:
                    handle.write(json.dumps(asdict(holder)))
                    handle.flush()
                    os.fsync(handle.fileno())
            except FileExistsError:
                continue  # somebody was faster; the next look says who
            except OSError as error:
                with suppress(OSError):
                    path.unlink(missing_ok=True)  # a claim of nobody would count for a minute
                raise refused(path, error) from error
            if self.latest(run_id) == path:
                break
            path.unlink(missing_ok=True)  # while this process slept others came, went, and tidied up this number
        for entry in folder.iterdir():
            if _NUMBERED.fullmatch(entry.name) and int(entry.stem) < int(path.stem):
                entry.unlink(missing_ok=True)
        return Claim(run_id, path, holder, self)

    def latest(self, run_id: str) -> Path | None:
        """The claim that counts, held or released; None where there never was one."""
        try:
            files = [path for path in (self.folder / run_id).iterdir() if _NUMBERED.fullmatch(path.name)]
        except FileNotFoundError:
            return None
        # A rename may show both names of one number for a moment.
        return max(files, key=lambda path: (int(path.stem), path.suffix == _RELEASED), default=None)

    def is_held(self, run_id: str) -> bool:
        """Whether somebody works on a run, as far as one look can tell."""
        latest = self.latest(run_id)
        return latest is not None and self._alive(latest, lambda path, age: age < 0)

    def _alive(self, path: Path, doubtful: Callable[[Path, float], bool]) -> bool:
        """Whether the holder lives; where it was not seen lately `doubtful` decides, by file and age in seconds."""
        if path.suffix == _RELEASED:
            return False
        holder = _holder(path)
        if holder is not None and holder.namespace is not None and holder.namespace == namespace():
            return started(holder.pid) == holder.started
        try:
            age = self._clock() - path.stat().st_mtime
        except FileNotFoundError:
            return False  # released or tidied up just now
        return abs(age) <= self.dead_after_seconds or doubtful(path, age)

    def _watched(self, path: Path, age: float) -> bool:
        """Whether a claim shows a sign of life while we watch.

        Clocks jump: forwards, and every holder looks old until its next sign; backwards, and a dead one looks young
        for long. Only the passing of our own time tells.
        """
        seconds = 1.5 * self.heartbeat_seconds if age > 0 else self.dead_after_seconds
        end = time.monotonic() + seconds
        try:
            seen = path.stat().st_mtime_ns
            while time.monotonic() < end:
                time.sleep(min(1.0, seconds / 10))
                if path.stat().st_mtime_ns != seen:
                    return True
        except FileNotFoundError:
            pass  # released, or another taker was faster; the next look says which
        return False

    def _clock(self) -> float:
        """The time of the file system, which may be another machine's."""
        probe = self.folder / ".clock"
        try:
            probe.touch()
            os.utime(probe)
            return probe.stat().st_mtime
        except OSError:
            return time.time()  # a store that may only be read


def _holder(path: Path) -> Holder | None:
    """Who holds a claim, where its file can be read; its age tells more."""
    try:
        return Holder.read(path)
    except OSError:
        return None


def _claimed(run_id: str, holder: Holder | None) -> ClaimedError:
    who = "by a process that has just begun" if holder is None else (
        f"by process {holder.pid} on {holder.host} since {holder.since}"
    )  # fmt: skip
    return ClaimedError(f"The run {run_id} is claimed {who}. Wait for it, or stop that process; then try again.")
