"""Starting, disturbing and comparing commands."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winning_tickets.runs.files import is_temporary
from winning_tickets.runs.locks import is_lock

SERVER = Path(__file__).with_name("server.py")
SECONDS = 300.0
VOLATILE = {"seconds", "train_seconds", "time", "finished_at", "peak_memory", "machine", "source", "resumed", "since"}
"""Keys of times, and of what says how a number came about rather than what it is."""
VOLATILE |= {"latency_seconds", "texts_per_second", "speedup"}  # of `shrink`, whose page and model card have them too
TIMED = ("report.html", "README.md")


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code; negative for a signal.
        out: what it wrote to stdout.
        err: what it wrote to stderr.
        seconds: from inside the command to its end.
    """

    code: int
    out: str
    err: str
    seconds: float


class Running:
    """A command that runs in a child of the server."""

    def __init__(self, server: Server, child: int, output: Path, errors: Path) -> None:
        self.child = child
        self._server, self._output, self._errors = server, output, errors
        self._began = time.monotonic()

    def signal(self, number: int) -> None:
        """Send a signal; the child is not reaped before `end`, so its number is its own."""
        os.kill(self.child, number)

    def ended_within(self, seconds: float) -> Ended | None:
        """How it ended; None where it still runs after so many seconds."""
        code = self._server.ask("wait", child=self.child, seconds=seconds)
        took = time.monotonic() - self._began
        return None if code is None else Ended(code, self._output.read_text(), self._errors.read_text(), took)

    def end(self, seconds: float = SECONDS) -> Ended:
        """Wait for the end."""
        ended = self.ended_within(seconds)
        if ended is None:
            self.signal(signal.SIGKILL)
            self._server.ask("wait", child=self.child, seconds=10)
            raise AssertionError(f"still running after {seconds} s: {self._errors.read_text()}")
        return ended


class Server:
    """The process of `server.py`.

    Args:
        folder: for what commands write to stdout and stderr.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def ask(self, operation: str, **fields: Any) -> Any:
        """One request and its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"op": operation, **fields}) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    def start(self, words: Sequence[object], cache: Path, **fault: Any) -> Running:
        """Start a command.

        Args:
            words: of the command line, after `tickets`.
            cache: the folder of its token cache.
            fault: see `driver.run`.
        """
        self._count += 1
        output, errors = (self._folder / f"{self._count}.{kind}" for kind in ("out", "err"))
        environment = {"WINNING_TICKETS_CACHE": str(cache)}
        child = self.ask(
            "start", words=[*map(str, words)], output=str(output), errors=str(errors), env=environment, fault=fault
        )
        return Running(self, child, output, errors)

    def run(self, words: Sequence[object], cache: Path, **fault: Any) -> Ended:
        """Start a command and wait for its end."""
        return self.start(words, cache, **fault).end()

    def close(self) -> None:
        """End the server, which has nothing to tidy up."""
        self._process.kill()
        self._process.communicate()


def contents(folder: Path) -> dict[str, Any]:
    """What is in a folder, by relative path: hashes of files, and of JSON what it says but for `VOLATILE` keys."""
    return {path.relative_to(folder).as_posix(): _content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _content(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return [_stable(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".json":
        return _stable(json.loads(path.read_text()))
    return path.name if path.name in TIMED else hashlib.sha256(path.read_bytes()).hexdigest()


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stable(item) for key, item in value.items() if key not in VOLATILE}
    return [_stable(item) for item in value] if isinstance(value, list) else value


def stamps(folder: Path, name: str = "result.json") -> dict[Path, tuple[int, int]]:
    """The results in a folder, and which files they are: one that is written again is another."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.rglob(name))}


def lasting(folder: Path) -> dict[str, str]:
    """Hashes of all files in a folder but temporary files and locks, which change without a change of the run."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not is_lock(path) and not any(map(is_temporary, (path, *path.parents)))
    }


def hidden(folder: Path) -> list[Path]:
    """Temporary files and scratch folders: all names of ours that begin with a dot."""
    return sorted(folder.rglob(".*"))
