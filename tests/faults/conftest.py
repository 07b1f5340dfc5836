"""One server and one world for all tests of faults, and each command's undisturbed result, made once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tools.faults.commands import FINE_TUNED, make_world, words_of
from tools.faults.harness import Ended, Running, Server, contents, hidden, lasting


@dataclass(frozen=True)
class Whole:
    """A command's undisturbed run.

    Attributes:
        contents: of its folder, see `harness.contents`.
        events: the targets of its writes, in order.
        seconds: from inside the command to its end.
    """

    contents: dict[str, Any]
    events: list[str]
    seconds: float


class Lab:
    """Runs commands of `COMMANDS`, all in folders of the same name, as some of what they store are paths.

    Args:
        server: forks them.
        folder: for everything.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.world = make_world(folder / "world")
        self.out = folder / "work" / "out"
        self.out.parent.mkdir()
        self.cache = folder / "cache"
        self._wholes: dict[str, Whole] = {}

    def start(self, name: str, cache: Path | None = None, more: Sequence[str] = (), **fault: Any) -> Running:
        """Start a command, perhaps with another token cache, or with more options."""
        return self.server.start([*words_of(name, self.world, self.out), *more], cache or self.cache, **fault)

    def run(self, name: str, **fault: Any) -> Ended:
        """Run a command to its end."""
        return self.start(name, **fault).end()

    def states(self, name: str, copies: Path) -> list[Path]:
        """What a kill before or after any write of a command leaves beside and in `out`; copies, each a new state."""
        self.clear()
        assert self.run(name, path=str(self.out.parent), copies=str(copies)).code == 0
        found: dict[str, Path] = {}
        for copy in sorted(copies.iterdir()):
            found.setdefault(json.dumps(lasting(copy)), copy)
        return list(found.values())

    def whole(self, name: str) -> Whole:
        """An undisturbed run; `out` is free afterwards."""
        if name.startswith("adaptation") and not (self.world / "fine-tuned").exists():
            made = self.server.run([word.format(world=self.world) for word in FINE_TUNED], self.cache)
            assert made.code == 0, made.err
        if name not in self._wholes:
            self.clear()
            trace = self.folder / "trace"
            ended = self.run(name, trace=str(trace))
            assert ended.code == 0, ended.err
            self.check_tidy()
            events = trace.read_text().splitlines()
            self._wholes[name] = Whole(contents(self.out), events, ended.seconds)
        self.clear()
        return self._wholes[name]

    def clear(self) -> None:
        """Remove what the last command left, its token cache too."""
        for path in (*self.out.parent.iterdir(), self.cache):
            shutil.rmtree(path, ignore_errors=True)

    def check_tidy(self) -> None:
        """Nothing temporary is left, in the folder of the run or beside it."""
        assert hidden(self.out.parent) == []
        assert [path.name for path in self.out.parent.iterdir()] == ["out"]

    def whole_seconds(self, name: str) -> float:
        """How long an undisturbed run took, that was made before."""
        return self._wholes[name].seconds

    def check_same(self, name: str, inside: str = "") -> None:
        """The run in `out` is, to the bit, the undisturbed one.

        Args:
            name: of the command.
            inside: only files whose paths begin so; with it temporary files are left to the test.
        """
        found, expected = (
            {path: content for path, content in of.items() if path.startswith(inside)}
            for of in (contents(self.out), self._wholes[name].contents)
        )
        assert sorted(found) == sorted(expected)  # no file more or less
        assert {path for path in found if found[path] != expected[path]} == set()
        if not inside:
            self.check_tidy()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The laboratory."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "streams").mkdir()
    server = Server(folder / "streams")
    yield Lab(server, folder)
    server.close()
