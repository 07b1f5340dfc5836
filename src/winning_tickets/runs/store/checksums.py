"""Checksums of a run's files, and their check."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from winning_tickets.runs.directory import SCRATCH
from winning_tickets.runs.errors import ContentError, TicketsError
from winning_tickets.runs.files import inside, is_temporary, leftovers, read_json, remove_leftovers

_ALGORITHM = "xxh3-128"

Kind = Literal["changed", "missing", "extra", "damaged", "leftover"]


@dataclass(frozen=True)
class Finding:
    """A problem found in one file of a run."""

    kind: Kind  # `damaged`: cannot be read; `leftover`: a temporary file of a process that was killed
    path: Path
    detail: str  # what was found and what was expected


@dataclass(frozen=True)
class Check:
    """Result of the check of one run."""

    run_id: str
    status: str
    sealed: bool = False  # whether the run has checksums
    findings: list[Finding] = field(default_factory=list)
    files: int = 0  # number of files that were hashed
    bytes_read: int = 0


def seal_files(folder: Path, about: Path) -> dict[str, Any]:
    """Remove temporary files; return the content of `files.json`: `size` in bytes and `hash` of each file by path."""
    for place in (folder, about):
        remove_leftovers(place)
    for scratch in list(folder.rglob(SCRATCH)):  # the process may have been killed after it wrote the result
        shutil.rmtree(scratch, ignore_errors=True)
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "hash": _hash(path)}
        for path in _files(folder)
    }
    return {"algorithm": _ALGORITHM, "files": files}


def compare_files(folder: Path, sealed: Path) -> tuple[list[Finding], int, int]:
    """Hash the files of a run again; return what differs, and how many files and bytes were read."""
    try:
        expected = read_json(sealed, "list of files")["files"]
        names = {name: (int(facts["size"]), str(facts["hash"])) for name, facts in expected.items()}
        for name in names:
            inside(folder, name)
    except (TicketsError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        detail = f"cannot be read ({error}); delete it if you trust the files of the run, to have it sealed again"
        return [Finding("damaged", sealed, detail)], 0, 0
    findings, files, read = [], 0, 0
    for name, (size, digest) in names.items():
        path = folder / name
        if not path.is_file():
            findings.append(Finding("missing", path, f"{size} bytes were there when the run was sealed"))
            continue
        found = path.stat().st_size
        if found != size:
            findings.append(Finding("changed", path, f"has {found} bytes, had {size}"))
            continue
        files, read = files + 1, read + size
        if (now := _hash(path)) != digest:
            findings.append(Finding("changed", path, f"has the {_ALGORITHM} {now}, had {digest}"))
    for path in _files(folder):
        if path.relative_to(folder).as_posix() not in names:
            findings.append(Finding("extra", path, "was not there when the run was sealed"))
    return findings, files, read


def find_leftovers(folder: Path) -> list[Finding]:
    """Return the temporary files that a killed process left in a folder."""
    return [Finding("leftover", path, "a write that was cut off; it may be deleted") for path in leftovers(folder)]


def _files(folder: Path) -> Iterator[Path]:
    """Return all files of a run except checkpoints and temporary files, sorted."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        temporary = any(is_temporary(Path(part)) for part in parts)
        if path.is_file() and SCRATCH not in parts and not temporary:
            yield path


def _hash(path: Path) -> str:
    state = xxhash.xxh3_128()
    try:
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                state.update(block)
    except OSError as error:
        raise ContentError(f"{path} cannot be read: {error.strerror or error}.") from error
    return state.hexdigest()
