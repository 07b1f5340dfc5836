"""The store: one folder that holds the runs of one or several studies, each done once."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from winning_tickets.runs.directory import MARKER, is_done
from winning_tickets.runs.errors import ContentError, TicketsError, UsageError
from winning_tickets.runs.files import write_json
from winning_tickets.runs.locks import Hold, hold, in_use
from winning_tickets.runs.provenance import Account
from winning_tickets.runs.store.checksums import Check, Finding, compare_files, find_leftovers, seal_files
from winning_tickets.runs.store.index import Index
from winning_tickets.runs.store.query import select
from winning_tickets.runs.store.records import (
    DESCRIPTION,
    ERROR,
    FILES,
    PROVENANCE,
    Layout,
    Record,
    Status,
    is_id,
    record_of,
)


class Store:
    """A folder of runs that several processes, also on several machines, may use at the same time.

    `runs/<id>` is an ordinary run directory, `about/<id>` has the store's own files about the run, and
    `claims/<id>.lock` is the lock of the process that works on the run. The folder is created on first use.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._layout = Layout(self.path)
        self._layout.exists()
        self._index = Index(self._layout)
        self._accounts: dict[str, Account] = {}

    def exists(self) -> bool:
        return self._layout.exists()

    def folder(self, run_id: str) -> Path:
        """Return the run directory of a run, which is the `--out` of its verb; the directory need not exist."""
        return self._layout.run(run_id)

    def describe(self, run_id: str, verb: str, config: dict[str, Any], labels: dict[str, Any] | None = None) -> None:
        """Record a run before it starts, with its settings and with labels that later select runs."""
        self._layout.create()
        body = {"verb": verb, "id": run_id, "config": config, "labels": labels or {}}
        write_json(self._layout.about(run_id) / DESCRIPTION, body)

    def status(self, run_id: str) -> Status:
        """Return `failed` (also for a damaged file), `done`, `running`, `unfinished` or `absent`."""
        return self.record(run_id).status

    def result(self, run_id: str) -> dict[str, Any]:
        """Return the result of a run that is done; refuse any other run."""
        record = self.record(run_id)
        if record.error is not None:
            raise ContentError(f"The run {run_id} has failed: {record.error.get('message')}")
        if record.result is None:
            raise UsageError(f"The run {run_id} is not done but {record.status}; it has no result yet.")
        return record.result

    def record(self, run_id: str) -> Record:
        return self._now(record_of(run_id, self._index.body(run_id)))

    def records(
        self, where: Sequence[str] = (), status: str | None = None, only: Collection[str] | None = None
    ) -> Iterator[Record]:
        """Return the records of all runs that fulfill all conditions, see `query.Condition`, ordered by id.

        Args:
            where: conditions such as `task=rte`.
            status: the status of the runs; None for any.
            only: ids of runs, to which the search is limited; None for all runs of the store.

        Raises:
            UsageError: an unknown status, a condition that is none, or one on a key that no run has.
        """
        with without_collector():
            found = [self._now(record) for record in self._index.records() if only is None or record.id in only]
            # A killed process may leave a run with an empty folder in `about`, which counts as absent.
            chosen = select([record for record in found if record.status != "absent"], where, status)
        yield from chosen

    @contextmanager
    def claim(self, run_id: str) -> Iterator[Hold]:
        """Hold a run for the `with` block in the process that does it; all other processes are refused."""
        folder = self.folder(run_id)
        self._layout.create()
        with hold(folder, name=f"The run {run_id}") as claim:
            # A run that was killed between its result and its checksums is done; its cost is unknown.
            self._accounts[run_id] = Account(resumed=(folder / MARKER).exists(), measured=not is_done(folder))
            try:
                yield claim
            finally:
                del self._accounts[run_id]

    def fail(self, run_id: str, error: BaseException | str) -> None:
        """Record the error of a run, which counts as failed until `retry`; remove its checksums and provenance."""
        self._layout.create()
        body = {
            "kind": "Error" if isinstance(error, str) else type(error).__name__,
            "message": str(error),
            # The library's own errors explain themselves; a bug needs its traceback.
            "traceback": None if isinstance(error, str | TicketsError) else "".join(traceback.format_exception(error)),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": self._account(run_id).provenance({}),
        }
        about = self._layout.about(run_id)
        write_json(about / ERROR, body)
        for name in (FILES, PROVENANCE):
            (about / name).unlink(missing_ok=True)

    def retry(self, run_id: str) -> None:
        """Remove the error of a failed run, so that it can resume."""
        (self._layout.about(run_id) / ERROR).unlink(missing_ok=True)

    def seal(self, run_id: str) -> None:
        """Write the checksums of all files of a run that is done, and its provenance, unless it is sealed already."""
        result = self.result(run_id)
        about = self._layout.about(run_id)
        if self.sealed(run_id):
            return
        if not (about / PROVENANCE).exists():
            write_json(about / PROVENANCE, self._account(run_id).provenance(result))
        write_json(about / FILES, seal_files(self.folder(run_id), about))

    def sealed(self, run_id: str) -> bool:
        return (self._layout.about(run_id) / FILES).is_file()

    def check(self, run_id: str) -> Check:
        """Compare the files of a run with their checksums and list leftovers of killed processes; skip running runs."""
        folder, about = self.folder(run_id), self._layout.about(run_id)
        body = self._index.body(run_id)
        status = self._now(record_of(run_id, body)).status
        if status == "running":
            return Check(run_id, status)
        findings = [Finding("damaged", folder, message) for message in body.damages]
        files, read = 0, 0
        if self.sealed(run_id):
            differences, files, read = compare_files(folder, about / FILES)
            findings += differences
        return Check(
            run_id, status, self.sealed(run_id), findings + find_leftovers(folder) + find_leftovers(about), files, read
        )

    def ids(self) -> list[str]:
        return self._index.ids()

    def foreign(self) -> list[Finding]:
        """Return entries of the store that belong to no run."""
        folders = [folder for folder in (self._layout.runs, self._layout.abouts) if folder.is_dir()]
        entries = [entry for folder in folders for entry in sorted(folder.iterdir())]
        return [Finding("extra", entry, "is not the folder of a run") for entry in entries if not is_id(entry.name)]

    def _account(self, run_id: str) -> Account:
        return self._accounts.get(run_id) or Account(measured=False)

    def _now(self, record: Record) -> Record:
        """Return a record with the status that follows from its files, its claim and whether it has any file."""
        if record.status != "unfinished":
            return record
        folder = self.folder(record.id)
        if in_use(folder):
            return replace(record, status="running")
        begun = any(Path(path).exists() for path in self._layout.files(record.id).values()) or folder.exists()
        return record if begun else replace(record, status="absent")


@contextmanager
def without_collector() -> Iterator[None]:
    """Switch off garbage collection inside the block: reading tens of thousands of objects is several times faster."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
