"""Where things lie in a store, and which names are ours."""

from __future__ import annotations

import re
from pathlib import Path

from winning_tickets.errors import ContentError, UsageError
from winning_tickets.files import is_temporary, read_json, write_json

FORMAT_VERSION = 1
MARKER = "store.json"
DESCRIPTION, ERROR, PROVENANCE, FILES = "run.json", "error.json", "provenance.json", "files.json"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Layout:
    """Paths inside a store.

    `runs/<id>` belongs to the verb, which refuses foreign files there; so what the store knows of a run lies apart, in
    `about/<id>`.

    Args:
        path: the folder of the store.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.runs = self.path / "runs"
        self.abouts = self.path / "about"
        self.claims = self.path / "claims"
        self.cache = self.path / "cache"

    def run(self, run_id: str) -> Path:
        """The run directory of a run."""
        return self.runs / check_id(run_id)

    def about(self, run_id: str) -> Path:
        """What the store knows of a run: `run.json`, `provenance.json`, `files.json`, `error.json`."""
        return self.abouts / check_id(run_id)

    def exists(self) -> bool:
        """Whether this is a store.

        Raises:
            UsageError: it is a file, or a folder with foreign files.
            ContentError: a store of another format.
        """
        if self.path.is_file():
            raise UsageError(f"The store {self.path} is a file; give a folder that is absent, empty, or a store.")
        if self._marked():
            return True
        foreign = self.path.is_dir() and any(not is_temporary(entry) for entry in self.path.iterdir())
        # Another process may have made the store between the two looks.
        if foreign and not self._marked():
            raise UsageError(
                f"{self.path} holds files that are not a store of this tool; it was left untouched. "
                "Give a folder that is absent, empty, or a store."
            )
        return foreign  # only where that other process has

    def create(self) -> None:
        """Make the store where it is not there yet; its marker comes first."""
        if not self.exists():
            write_json(self.path / MARKER, {"what": "winning-tickets store", "format_version": FORMAT_VERSION})
        for folder in (self.runs, self.abouts, self.claims):
            folder.mkdir(exist_ok=True)

    def _marked(self) -> bool:
        if not is_store(self.path):
            return False
        body = read_json(self.path / MARKER, "marker of the store")
        found = body.get("format_version") if isinstance(body, dict) else None
        if found != FORMAT_VERSION:
            raise ContentError(
                f"The store {self.path} has format version {found}, this version reads {FORMAT_VERSION}; "
                "upgrade winning-tickets, or choose another store."
            )
        return True


def is_store(path: Path) -> bool:
    """Whether a folder carries the marker of a store."""
    return (path / MARKER).is_file()


def is_id(name: str) -> bool:
    """Whether a name can be the id of a run."""
    return _RUN_ID.fullmatch(name) is not None


def check_id(run_id: str) -> str:
    """The id itself, where it is a safe name of a folder.

    Raises:
        UsageError: it has other characters than letters, digits, dots, dashes and underscores, or is too long.
    """
    if not is_id(run_id):
        raise UsageError(
            f"{run_id!r} cannot be the id of a run: it must begin with a letter or digit, hold only letters, digits, "
            "dots, dashes and underscores, and have at most 200 characters."
        )
    return run_id
