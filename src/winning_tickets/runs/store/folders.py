"""Records of the runs in a store, or of the runs made with `--out` below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from winning_tickets.runs.directory import HEAD_MARKER, MARKER, stored_run
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.locks import in_use
from winning_tickets.runs.results import RESULT
from winning_tickets.runs.store.query import select
from winning_tickets.runs.store.records import (
    Body,
    ListedRun,
    Record,
    is_store,
    read_body,
    record_of,
    shape_problem,
    stored_error,
)
from winning_tickets.runs.store.store import Store

_MARKERS = (MARKER, HEAD_MARKER)
_OF_RESULT = ("versions", "machine")  # fields of a result that a store keeps in provenance.json


def find_records(folder: Path | str, where: Sequence[str] = (), status: str | None = None) -> list[Record]:
    """Return the records of all runs in a store, or below another folder, that fulfill all conditions.

    Runs inside the folder of a run, such as the runs of its seeds, are not listed separately. The id of a run outside a
    store is its path relative to the folder.

    Raises:
        UsageError: a missing folder, a folder without runs, an unknown status, or a condition with an unknown key.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UsageError(f"There is no folder {path}; give a store, or a folder with runs that were made with --out.")
    if is_store(path):
        return list(Store(path).records(where, status))
    found = [_record(path, run, marker) for run, marker in _runs_below(path)]
    if not found:
        raise UsageError(f"There are no runs in {path}; give a store, or a folder with runs that were made with --out.")
    return select(found, where, status)


def list_runs(folder: Path | str, status: str | None = None) -> Sequence[Record | ListedRun]:
    """Return what a line per run needs; in a store, unchanged runs are not read for it."""
    return Store(folder).listed(status) if is_store(Path(folder)) else find_records(folder, (), status)


def _runs_below(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the folder and the marker of each run, in the order of their paths."""
    for where, names, files in os.walk(folder):
        markers = (Path(where, name) for name in _MARKERS if name in files)
        marker = next((one for one in markers if stored_run(one) is not None), None)
        if marker is not None:
            yield Path(where), marker
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))


def _record(folder: Path, run: Path, marker: Path) -> Record:
    body: Body = read_body({"marker": str(marker), "result": str(run / RESULT)})
    result = body["result"] or {}
    if stored_error(body) is not None:
        return record_of(_name(folder, run), body, "failed")
    facts = {name: result[name] for name in _OF_RESULT if name in result}
    body["provenance"] = None if shape_problem("provenance", facts) else facts
    done = body["result"] is not None and not result.get("failed_seeds")
    return record_of(_name(folder, run), body, "done" if done else "running" if in_use(run) else "unfinished")


def _name(folder: Path, run: Path) -> str:
    return run.relative_to(folder).as_posix() if run != folder else run.resolve().name
