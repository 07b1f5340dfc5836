"""The store: one folder that holds the runs of one or several studies, each done once."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from winning_tickets.runs.directory import MARKER, is_done
from winning_tickets.runs.errors import ContentError, TicketsError, UsageError
from winning_tickets.runs.files import write_json
from winning_tickets.runs.locks import Hold, hold, in_use
from winning_tickets.runs.provenance import Account
from winning_tickets.runs.store.checksums import Check, Finding, compare_files, find_leftovers, seal_files
from winning_tickets.runs.store.index import Index, Row
from winning_tickets.runs.store.query import Condition, check_known, check_status
from winning_tickets.runs.store.records import (
    DESCRIPTION,
    ERROR,
    FILES,
    PROVENANCE,
    Layout,
    ListedRun,
    Record,
    State,
    Status,
    damages,
    is_id,
    record_of,
    state_of,
    stored_error,
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
        return self._status(run_id, state_of(self._index.body(run_id)))

    def result(self, run_id: str) -> dict[str, Any]:
        """Return the result of a run that is done; refuse any other run."""
        body = self._index.body(run_id)
        status = self._status(run_id, state_of(body))
        if status == "failed":
            raise ContentError(f"The run {run_id} has failed: {(stored_error(body) or {}).get('message')}")
        if status != "done":
            raise UsageError(f"The run {run_id} is not done but {status}; it has no result yet.")
        result: dict[str, Any] = body["result"]
        return result

    def record(self, run_id: str) -> Record:
        body = self._index.body(run_id)
        return record_of(run_id, body, self._status(run_id, state_of(body)))

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
        check_status(status)
        conditions = [Condition.parse(text) for text in where]
        with without_collector():
            found = list(self._records(self._index.rows(conditions, only), status))
            chosen = [record for record in found if all(condition.holds(record) for condition in conditions)]
        if conditions and not chosen:
            check_known(conditions, list(self._records(self._index.rows(), None)))
        yield from chosen

    def listed(self, status: str | None = None) -> list[ListedRun]:
        """Return one line per run, ordered by id, without reading the content of unchanged runs."""
        check_status(status)
        rows = ((row, self._status(row.id, row.state)) for row in self._index.rows(content=False))
        lines = [ListedRun(row.id, row.verb, own, row.headline) for row, own in rows if own != "absent"]
        return [line for line in lines if status in (None, line.status)]

    def _records(self, rows: Iterable[Row], status: str | None) -> Iterator[Record]:
        """Yield the records of runs that have a status; None allows all."""
        for row in rows:
            own = self._status(row.id, row.state)
            # A killed process may leave a run with an empty folder in `about`, which counts as absent.
            if own != "absent" and status in (None, own):
                yield row.record(own)

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
        status = self._status(run_id, state_of(body))
        if status == "running":
            return Check(run_id, status)
        findings = [Finding("damaged", folder, message) for message in damages(body)]
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

    def _status(self, run_id: str, state: State) -> Status:
        """Return the status of a run from the state of its files, its claim and whether it has any file."""
        if state != "open":
            return state
        if in_use(self.folder(run_id)):
            return "running"
        begun = any(Path(path).exists() for path in self._layout.files(run_id).values())
        return "unfinished" if begun or self.folder(run_id).exists() else "absent"


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
