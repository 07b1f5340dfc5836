"""The store: one folder that holds every run of a study, or of several, each done once."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from winning_tickets.runs.directory import MARKER, RESULT
from winning_tickets.runs.errors import ContentError, TicketsError, UsageError, unknown
from winning_tickets.runs.files import write_json
from winning_tickets.runs.provenance import Account
from winning_tickets.runs.store.claims import Claim, Claims
from winning_tickets.runs.store.index import (
    DESCRIPTION,
    ERROR,
    FILES,
    PROVENANCE,
    Body,
    Index,
    Layout,
    Record,
    Status,
    damages,
    error_of,
    is_id,
    record_of,
    without_collector,
)
from winning_tickets.runs.store.query import Condition, check_known
from winning_tickets.runs.store.seal import Check, Finding, compare, left_behind, seal_files

STATUSES: tuple[Status, ...] = get_args(Status)
HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 60.0


class Store:
    """A folder of runs; several processes, also on several machines, may use it at the same time.

    `runs/<id>` is an ordinary run directory, `about/<id>` what the store knows of it, `claims/<id>` who works on it.
    The folder is made on first use; looking into one that is absent finds no runs.

    Args:
        path: the folder.
        heartbeat_seconds: between two signs of life of whoever holds a claim.
        dead_after_seconds: without a sign of life whoever holds a claim on another machine counts as dead.

    Raises:
        UsageError: `path` is a file, or holds foreign files.
        ContentError: the store has another format.
    """

    def __init__(
        self,
        path: Path | str,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        dead_after_seconds: float = DEAD_AFTER_SECONDS,
    ) -> None:
        self.path = Path(path)
        self._layout = Layout(self.path)
        self._layout.exists()
        self._claims = Claims(self._layout.claims, heartbeat_seconds, dead_after_seconds)
        self._index = Index(self._layout)
        self._accounts: dict[str, Account] = {}

    def exists(self) -> bool:
        """Whether the store has been made."""
        return self._layout.exists()

    def folder(self, run_id: str) -> Path:
        """The run directory of a run, to be given to a verb as its `--out`; it need not exist."""
        return self._layout.run(run_id)

    def describe(self, run_id: str, verb: str, config: dict[str, Any], labels: dict[str, Any] | None = None) -> None:
        """Note what a run is before it starts, so that it is known also where it fails at once."""
        self._layout.create()
        body = {"verb": verb, "id": run_id, "config": config, "labels": labels or {}}
        write_json(self._layout.about(run_id) / DESCRIPTION, body)

    def status(self, run_id: str) -> Status:
        """What has become of a run.

        Returns:
            `failed`: it has an error, or one of its files is damaged; `done`: its result is there, with all seeds;
            `running`: a process that lives holds a claim on it; `unfinished`: it was begun, and nobody works on it;
            `absent`: none of these.
        """
        return self._status(run_id, self._index.body(run_id))

    def result(self, run_id: str) -> dict[str, Any]:
        """The result of a run that is done.

        Raises:
            ContentError: the run has failed; its error is in the message.
            UsageError: the run is not done.
        """
        body = self._index.body(run_id)
        status = self._status(run_id, body)
        if status == "failed":
            raise ContentError(f"The run {run_id} has failed: {(error_of(body) or {}).get('message')}")
        if status != "done":
            raise UsageError(f"The run {run_id} is not done but {status}; it has no result yet.")
        result: dict[str, Any] = body["result"]
        return result

    def record(self, run_id: str) -> Record:
        """All that is known of a run."""
        body = self._index.body(run_id)
        return record_of(run_id, body, self._status(run_id, body))

    def records(self, where: Sequence[str] = (), status: str | None = None) -> Iterator[Record]:
        """The records of all runs that fulfil all conditions, in the order of their ids.

        Args:
            where: conditions such as `task=rte` or `metrics.accuracy.final.mean>0.7`, see `where.Condition`.
            status: only runs of this status.

        Raises:
            UsageError: a condition cannot be read, no run has its key, or there is no such status.
        """
        if status is not None and status not in STATUSES:
            raise unknown("status", status, STATUSES)
        conditions = [Condition.parse(text) for text in where]
        with without_collector():
            bodies = self._index.bodies(self._index.ids())
            records = [record_of(run_id, body, self._status(run_id, body)) for run_id, body in bodies.items()]
        check_known(conditions, records)
        for record in records:
            # A kill may leave the folder of a description without the description.
            if (
                record.status != "absent"
                and status in (None, record.status)
                and all(condition.holds(record) for condition in conditions)
            ):
                yield record

    @contextmanager
    def claim(self, run_id: str) -> Iterator[Claim]:
        """Hold a run while working on it, so that nobody else does; for the process that does the work.

        The claim ends with the `with` block, also by an exception. Afterwards, or after a kill, others may take it.

        Raises:
            ClaimedError: another process holds it.
        """
        self._layout.run(run_id)
        self._layout.create()
        claim = self._claims.take(run_id)
        folder = self.folder(run_id)
        # One that was killed between its result and its seal is done; what it took is not known any more.
        self._accounts[run_id] = Account((folder / MARKER).exists(), measured=not (folder / RESULT).exists())
        try:
            yield claim
        finally:
            del self._accounts[run_id]
            claim.release()

    def fail(self, run_id: str, error: BaseException | str) -> None:
        """Keep the error of a run that failed; the run counts as failed until `retry`, and its seal is gone."""
        self._layout.create()
        body = {
            "kind": "Error" if isinstance(error, str) else type(error).__name__,
            "message": str(error),
            "traceback": _trace(error),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": self._account(run_id).provenance({}),
        }
        about = self._layout.about(run_id)
        write_json(about / ERROR, body)
        for name in (FILES, PROVENANCE):
            (about / name).unlink(missing_ok=True)

    def retry(self, run_id: str) -> None:
        """Forget the error of a failed run, so that it may run again; what it has finished stays."""
        (self._layout.about(run_id) / ERROR).unlink(missing_ok=True)

    def seal(self, run_id: str) -> None:
        """Note the hashes of all files of a run that is done, and where its numbers come from.

        Temporary files that a killed attempt left in the run are removed. A run that is sealed stays as it was sealed.
        """
        result = self.result(run_id)
        about = self._layout.about(run_id)
        if self.sealed(run_id):
            return
        if not (about / PROVENANCE).exists():
            write_json(about / PROVENANCE, self._account(run_id).provenance(result))
        write_json(about / FILES, seal_files(self.folder(run_id), about))

    def sealed(self, run_id: str) -> bool:
        """Whether the hashes of a run's files are known."""
        return (self._layout.about(run_id) / FILES).is_file()

    def check(self, run_id: str) -> Check:
        """Hash the files of a run again, and look for what killed processes left; nothing is changed.

        A run that somebody works on is left alone.
        """
        folder, about = self.folder(run_id), self._layout.about(run_id)
        body = self._index.body(run_id)
        status = self._status(run_id, body)
        if status == "running":
            return Check(run_id, status)
        findings = [Finding("damaged", folder, message) for message in damages(body)]
        files, read = 0, 0
        if self.sealed(run_id):
            differences, files, read = compare(folder, about / FILES)
            findings += differences
        return Check(
            run_id, status, self.sealed(run_id), findings + left_behind(folder) + left_behind(about), files, read
        )

    def ids(self) -> list[str]:
        """All runs that the store knows, sorted."""
        return self._index.ids()

    def foreign(self) -> list[Finding]:
        """What lies in the store and belongs to no run."""
        entries = [entry for folder in (self._layout.runs, self._layout.abouts) for entry in _entries(folder)]
        return [Finding("extra", entry, "is not the folder of a run") for entry in entries if not is_id(entry.name)]

    def _account(self, run_id: str) -> Account:
        return self._accounts.get(run_id) or Account(measured=False)

    def _status(self, run_id: str, body: Body) -> Status:
        if error_of(body) is not None:
            return "failed"
        # A transfer stores what it has when some seeds fail; the same command tries these again.
        if body["result"] is not None and not body["result"].get("failed_seeds"):
            return "done"
        if self._claims.is_held(run_id):
            return "running"
        begun = any(content is not None for content in body.values()) or self.folder(run_id).exists()
        return "unfinished" if begun else "absent"


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _trace(error: BaseException | str) -> str | None:
    """Where a bug happened; our own errors say all in their message."""
    if isinstance(error, str | TicketsError):
        return None
    return "".join(traceback.format_exception(error))
