"""What no input may do: run code, leave its folder, take long, or take much memory."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""Of the processor that an input may take; what waits for ever is stopped by pytest's own timeout."""
MEMORY = 512 * 2**20
"""Bytes that reading may add to the address space of the process."""
_FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect",
              "pickle.find_class", "ctypes.dlopen")  # fmt: skip
_CHANGES = {"os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.link": 2, "os.symlink": 2, "os.chmod": 1,
            "shutil.rmtree": 1}  # fmt: skip
"""Events that change files, and how many of their arguments are paths."""


class Violation(BaseException):
    """An input made a reader do something that it must never do; no handler of errors may swallow this."""


_watched: list[Path] = []
"""Folders that may be written to while a reader is watched; empty while none is."""


def _inside(path: Any) -> bool:
    if isinstance(path, int):
        return True
    place = os.path.realpath(os.fspath(path).decode() if isinstance(os.fspath(path), bytes) else os.fspath(path))
    return place == os.devnull or any(place.startswith(f"{os.path.realpath(folder)}{os.sep}") for folder in _watched)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if event in _FORBIDDEN:
        raise Violation(f"{event} {arguments!r}"[:300])
    if event == "exec" and getattr(arguments[0], "co_filename", "").startswith("<unknown"):
        raise Violation("code from text was run")
    if event in _CHANGES and not all(map(_inside, arguments[: _CHANGES[event]])):
        raise Violation(f"{event} {arguments!r}"[:300])
    if event == "open" and arguments[0] is not None:
        path, _, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not _inside(path):
            raise Violation(f"opened {path!r} for writing")
        if isinstance(path, str | os.PathLike) and Path(path).name == "secret":
            raise Violation(f"opened {path!r}, which only the content of the file named")


_installed = False


@contextmanager
def watch(*folders: Path) -> Iterator[None]:
    """Let what happens inside write to these folders only, and run nothing."""
    global _installed
    if not _installed:  # a hook cannot be taken away again
        sys.addaudithook(_audit)
        _installed = True
    _watched.extend(folders)
    try:
        yield
    finally:
        _watched.clear()


def _late(number: int, frame: Any) -> None:
    raise Violation(f"more than {SECONDS} seconds")


@contextmanager
def limits() -> Iterator[None]:
    """Stop what takes long or much memory."""
    old_handler = signal.signal(signal.SIGPROF, _late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old_handler)
