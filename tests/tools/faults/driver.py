"""What happens inside a command on purpose: death, or a refusal of the file system, at an exact event.

An event is a moment at which what lies on the disk changes for others: a file or folder that is renamed into place, or
a line that is appended to a log. The product knows nothing of this; the functions of `os` are exchanged around it.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.faults import crowd
from winning_tickets import cli
from winning_tickets.runs import directory


class Events:
    """Counts events, and does what was asked for at one of them.

    Args:
        kind: `kill`, `refuse` (the disk is full), `forget` (the folder `path` disappears), or None.
        at: the number of the event, from 0.
        when: `before` the rename, when the temporary file is complete; `half`, when it is cut off; or `after` it. Half
            a line of a log is in the log itself.
        path: of `forget`, and of `copies`.
        trace: a file that lists all events.
        copies: a folder that gets a copy of the folder `path` before and after every event, as a kill would leave it.
    """

    def __init__(
        self,
        kind: str | None = None,
        at: int | None = None,
        when: str = "before",
        path: str | None = None,
        trace: str | None = None,
        copies: str | None = None,
    ) -> None:
        self.kind, self.at, self.when, self.path, self.copies = kind, at, when, path, copies
        self.count = 0
        self.trace = None if trace is None else os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def around(self, change: Callable[..., Any]) -> Callable[..., Any]:
        """The function `change(source, target)`, as an event."""

        def changed(source: Any, target: Any, **options: Any) -> Any:
            if not Path(source).exists():
                return change(source, target, **options)  # it fails, and its caller knows
            self.copy("before")
            now = self.begins(Path(target))
            if now and self.when == "half" and Path(source).is_file():
                os.truncate(source, Path(source).stat().st_size // 2)
            if now and self.when != "after":
                self.strike(Path(target))
            result = change(source, target, **options)
            if now and self.when == "after":
                self.strike(Path(target))
            self.copy("after")
            return result

        return changed

    def copy(self, when: str) -> None:
        """Copy the folder as it is at this moment, if that is wanted."""
        if self.copies is not None:
            shutil.copytree(str(self.path), f"{self.copies}/{self.count:04d}-{when}", symlinks=True)

    def begins(self, target: Path) -> bool:
        """Count an event; whether it is the one."""
        if self.trace is not None:
            os.write(self.trace, f"{target}\n".encode())
        self.count += 1
        return self.kind is not None and self.count - 1 == self.at

    @contextmanager
    def refused_appends(self) -> Iterator[None]:
        """Let a log refuse to be opened where that is what was asked for; the event itself then does nothing."""
        if self.kind != "refuse" or self.count != self.at:
            yield
            return
        opened, self.kind = Path.open, None

        def refuse(path: Path, *rest: Any, **options: Any) -> Any:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        Path.open = refuse
        try:
            yield
        finally:
            Path.open = opened

    def strike(self, target: Path) -> None:
        """Do it."""
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "refuse":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        elif self.kind == "forget":
            shutil.rmtree(str(self.path), ignore_errors=True)


def run(fault: dict[str, Any], ready: Callable[[], object]) -> int:
    """Run the command line of `sys.argv` in this process.

    Args:
        fault: arguments of `Events`; and apart from them `limit`, bytes that no file may exceed, and `clock`, seconds
            that `time.time` jumps by, and once more at every event.
        ready: called inside the command, when it handles signals.

    Returns:
        The exit code.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    limit, jump = fault.pop("limit", None), fault.pop("clock", 0.0)
    events = Events(**fault)
    os.replace, os.rename = events.around(os.replace), events.around(os.rename)
    append = directory.append_line

    def appended(path: Path, line: str) -> None:
        if events.when == "half" and events.count == events.at:
            with path.open("a") as log:
                log.write(line[: len(line) // 2])
        with events.refused_appends():
            events.around(lambda source, target: append(path, line))(path.parent, path)

    directory.append_line = appended
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    if jump:
        real = time.time
        time.time = lambda: real() + jump * (1 + events.count)
    if sys.argv[1] == crowd.WORD:
        ready()
        return crowd.work(*sys.argv[2:])
    app = cli.app

    def told(**options: Any) -> Any:
        ready()
        return app(**options)

    cli.app = told
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    raise AssertionError("the command came back")
