"""Checking that stores, runs, tickets and exports are unchanged, by their hashes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from winning_tickets.runs.directory import SCRATCH
from winning_tickets.runs.errors import TicketsError, UsageError
from winning_tickets.runs.files import is_temporary, read_json
from winning_tickets.runs.store.checksums import Finding, find_leftovers
from winning_tickets.runs.store.records import is_store
from winning_tickets.runs.store.store import Store

_SIGNS = ("config.json", "ticket.json", "export.json", "result.json", "importance.json", "analysis.json")
_STATE = "winning_tickets_state"
"""The entry in a safetensors file's metadata that makes it a state, see docs/explanation/file_formats.md."""


@dataclass
class _Report:
    """Counts and findings."""

    findings: list[Finding] = field(default_factory=list)
    hashed: int = 0
    opened: int = 0
    bytes_hashed: int = 0
    runs: int = 0
    running: list[str] = field(default_factory=list)  # ids of runs that were not compared
    unsealed: list[str] = field(default_factory=list)  # ids of runs that are done and have no hashes yet


def verify(paths: Sequence[Path | str]) -> dict[str, Any]:
    """Check files against their stored hashes, without changing anything.

    Files without a hash are opened, which shows whether they were cut off.
    """
    report = _Report()
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"There is nothing at {path}; give a store, or the folder of a run, ticket or export.")
        owner = path.resolve().parent.parent
        if is_store(path):
            store = Store(path)
            report.findings += store.foreign()
            for run_id in store.ids():
                _check_run(store, run_id, report)
        elif path.resolve().parent.name == "runs" and is_store(owner):
            _check_run(Store(owner), path.resolve().name, report)
        else:
            if not path.is_dir() or not any(file.name in _SIGNS for file in path.rglob("*.json")):
                raise UsageError(f"{path} is neither a store nor the folder of a run, ticket or export.")
            report.findings += find_leftovers(path)
            _look_inside(path, report)
    findings = [{"kind": one.kind, "path": str(one.path), "detail": one.detail} for one in report.findings]
    return {
        "paths": [str(Path(path)) for path in paths],
        "ok": not findings,
        "findings": findings,
        "runs": report.runs,
        "files_hashed": report.hashed,
        "bytes_hashed": report.bytes_hashed,
        "files_opened": report.opened,
        "running": report.running,
        "unsealed": report.unsealed,
    }


def _check_run(store: Store, run_id: str, report: _Report) -> None:
    check = store.check(run_id)
    report.runs += 1
    report.findings += check.findings
    report.hashed += check.files
    report.bytes_hashed += check.bytes_read
    if check.status == "running":
        report.running.append(run_id)
    elif check.status == "done" and not check.sealed:
        report.unsealed.append(run_id)
        _look_inside(store.folder(run_id), report)


def _look_inside(folder: Path, report: _Report) -> None:
    """Check files that carry their own hashes, and open the others."""
    hashed: set[Path] = set()
    from winning_tickets.pruning.importance import Importance
    from winning_tickets.tickets.ticket import Ticket
    from winning_tickets.training.shared_model import SHARED_FILE, SharedModel

    def count(files: Sequence[Path]) -> None:
        hashed.update(files)
        report.hashed += len(files)
        report.bytes_hashed += sum(one.stat().st_size for one in files)

    # Files that have hashes of themselves and of files next to them, and the functions that check them.
    carriers: dict[str, tuple[tuple[str, ...], Callable[[Path], Any]]] = {
        "ticket.json": (("ticket.safetensors", "mlm_head.safetensors"), Ticket.from_pretrained),
        "importance.json": (("importance.safetensors",), Importance.load),
    }
    for file, (members, load) in carriers.items():
        for path in _files(folder, file):
            files = [path, *(path.with_name(name) for name in members if path.with_name(name).exists())]
            _try(load, path.parent, path, report)
            count(files)
    for path in _files(folder, SHARED_FILE):
        files = _try(lambda shared: SharedModel.open(shared).check(), path.parent, path, report)
        count([path, *(files or ())])
    for path in _files(folder, "*.safetensors"):
        if path not in hashed:
            _open_tensors(path, report)
    for path in _files(folder, "*.json"):
        if path not in hashed:
            _try(lambda file: read_json(file, "file"), path, path, report)
            report.opened += 1


def _files(folder: Path, pattern: str) -> list[Path]:
    """Return the files in a folder, except those of checkpoints and of writes that were cut off."""

    def is_temporary_in(path: Path) -> bool:
        return any(part == SCRATCH or is_temporary(Path(part)) for part in path.relative_to(folder).parts)

    return sorted(path for path in folder.rglob(pattern) if path.is_file() and not is_temporary_in(path))


def _open_tensors(path: Path, report: _Report) -> None:
    from safetensors import SafetensorError, safe_open

    from winning_tickets.models.weights import load_state

    try:
        with safe_open(path, framework="numpy") as handle:
            described = _STATE in (handle.metadata() or {})
    except (SafetensorError, OSError) as error:
        report.findings.append(Finding("damaged", path, f"cannot be read ({error}); it was cut off or edited"))
        described = False
    if described:
        _try(load_state, path, path, report)
        report.hashed += 1
        report.bytes_hashed += path.stat().st_size
    else:
        report.opened += 1


def _try(load: Callable[[Path], Any], what: Path, path: Path, report: _Report) -> Any:
    """Return what a function loads; None, and a finding, if the file is damaged."""
    try:
        return load(what)
    except TicketsError as error:
        report.findings.append(Finding("damaged", path, str(error)))
        return None
