"""The content of a store: its paths, checks of its JSON files, and records of runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from winning_tickets.runs.directory import MARKER
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import is_temporary, read_json, write_json
from winning_tickets.runs.results import RESULT, Stored, problem
from winning_tickets.runs.statistics import is_score

FORMAT_VERSION = 1
STORE_MARKER = "store.json"
DESCRIPTION, ERROR, PROVENANCE, FILES = "run.json", "error.json", "provenance.json", "files.json"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Layout:
    """Paths inside a store; the store's own files are in `about/<id>`, as verbs refuse foreign files in `runs/<id>`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.runs = self.path / "runs"
        self.abouts = self.path / "about"
        self.claims = self.path / "claims"
        self.cache = self.path / "cache"

    def run(self, run_id: str) -> Path:
        return self.runs / check_id(run_id)

    def about(self, run_id: str) -> Path:
        return self.abouts / check_id(run_id)

    def files(self, run_id: str) -> dict[str, str]:
        """Return the paths of the files of a run from which its record is made, by kind."""
        run, about = f"{self.runs}/{check_id(run_id)}", f"{self.abouts}/{run_id}"
        return {
            "description": f"{about}/{DESCRIPTION}",
            "marker": f"{run}/{MARKER}",
            "result": f"{run}/{RESULT}",
            "error": f"{about}/{ERROR}",
            "provenance": f"{about}/{PROVENANCE}",
        }

    def exists(self) -> bool:
        """Return whether the store was created; foreign files or another format are refused."""
        if self.path.is_file():
            raise UsageError(f"The store {self.path} is a file; give a folder that is absent, empty, or a store.")
        if self._marked():
            return True
        foreign = self.path.is_dir() and any(not is_temporary(entry) for entry in self.path.iterdir())
        # Another process may have created the store between the two checks.
        if foreign and not self._marked():
            raise UsageError(
                f"{self.path} holds files that are not a store of this tool; it was left untouched. "
                "Give a folder that is absent, empty, or a store."
            )
        return foreign  # true only if another process has created the store meanwhile

    def create(self) -> None:
        """Create the store unless it exists; its marker is written first."""
        if not self.exists():
            write_json(self.path / STORE_MARKER, {"what": "winning-tickets store", "format_version": FORMAT_VERSION})
        for folder in (self.runs, self.abouts, self.claims):
            folder.mkdir(exist_ok=True)

    def _marked(self) -> bool:
        if not is_store(self.path):
            return False
        body = read_json(self.path / STORE_MARKER, "marker of the store")
        found = body.get("format_version") if isinstance(body, dict) else None
        if found != FORMAT_VERSION:
            raise ContentError(
                f"The store {self.path} has format version {found}, this version reads {FORMAT_VERSION}; "
                "upgrade winning-tickets, or choose another store."
            )
        return True


def is_store(path: Path) -> bool:
    """Return whether a folder has the marker of a store."""
    return (path / STORE_MARKER).is_file()


def is_id(name: str) -> bool:
    """Return whether a name can be the id of a run."""
    return _RUN_ID.fullmatch(name) is not None


def check_id(run_id: str) -> str:
    """Return the id; refuse an id that is not safe as the name of a folder."""
    if not is_id(run_id):
        raise UsageError(
            f"{run_id!r} cannot be the id of a run: it must begin with a letter or digit, hold only letters, digits, "
            "dots, dashes and underscores, and have at most 200 characters."
        )
    return run_id


class _Marked(Stored):
    """What `run.json` of the store and the marker of a run directory say of a run."""

    verb: str | None = None
    config: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None


class _Provenance(Stored):
    seconds: float | None = None
    peak_memory: float | None = None
    versions: dict[str, Any] | None = None
    machine: dict[str, Any] | None = None
    finished_at: str | None = None
    source: dict[str, Any] | None = None


class _Failure(Stored):
    kind: str | None = None
    message: str | None = None
    provenance: _Provenance | None = None


_CLASSES: dict[str, type[Stored]] = {
    "description": _Marked,
    "marker": _Marked,
    "error": _Failure,
    "provenance": _Provenance,
}


def shape_problem(file: str, content: Mapping[str, Any]) -> str | None:
    """Return the problem of a parsed file; None if it can be used."""
    return problem(content, _CLASSES.get(file))


Status = Literal["absent", "running", "unfinished", "failed", "done"]
State = Literal["failed", "done", "open"]
"""What the files of a run say of it; a run that is open may be running, unfinished or absent."""

_DAMAGED = "(damaged)"  # key of the message about a file that cannot be read
_FILES = ("description", "marker", "result", "error", "provenance")


@dataclass(frozen=True)
class Record:
    """Everything that a store knows about one run."""

    id: str
    verb: str = ""
    status: Status = "unfinished"
    config: dict[str, Any] = field(default_factory=dict)  # settings of run.json, updated by those of the run directory
    result: dict[str, Any] | None = None  # None unless the run is done
    error: dict[str, Any] | None = None  # `kind`, `message`, `time` and more of a failed run
    labels: dict[str, Any] = field(default_factory=dict)  # notes of the study that started the run
    seconds: float | None = None  # of the last attempt
    resumed: bool | None = None  # whether there were earlier attempts
    peak_memory: int | None = None  # bytes of main memory
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    finished_at: str | None = None  # UTC, ISO 8601
    source: dict[str, Any] | None = None  # commit of the working directory, and whether it had changes

    @property
    def headline(self) -> str:
        """The main scores and the time of a run that is done, or the first line of its error."""
        if self.error is not None:
            return str(self.error.get("message", "")).partition("\n")[0][:100]
        seconds = "" if self.seconds is None else f"{self.seconds:,.1f} s"
        return ", ".join(part for part in (*_main_scores(self.result or {}), seconds) if part)


@dataclass(frozen=True)
class ListedRun:
    """One line of a list of runs."""

    id: str
    verb: str
    status: Status
    headline: str


def _main_scores(result: dict[str, Any]) -> list[str]:
    """Return the primary metric of the task in percent, or the losses and the sparsity of the result, as text."""
    primary, metrics = result.get("primary_metric"), result.get("metrics")
    scores = metrics.get(primary) if isinstance(metrics, dict) and isinstance(primary, str) else None
    final = scores.get("final") if isinstance(scores, dict) else None
    if isinstance(final, dict):
        deviation = f" ± {100 * final['std']:.1f}" if is_score(final.get("std")) else ""
        return [f"{primary} {100 * final['mean']:.1f}{deviation}"] if is_score(final.get("mean")) else []
    names = ("kd_loss", "mlm_loss", "similarity_spearman", "sparsity")
    return [f"{name} {result[name]:.4f}" for name in names if isinstance(result.get(name), float)]


Body = dict[str, Any]  # parsed `description`, `marker`, `result`, `error`, `provenance` of a run; None if absent


def record_of(run_id: str, body: Body, status: Status) -> Record:
    """Return the record of a run from its files."""
    described, marker = body["description"] or {}, body["marker"] or {}
    provenance = body["provenance"] or (body["error"] or {}).get("provenance") or {}
    return Record(
        id=run_id,
        verb=str(described.get("verb") or marker.get("verb") or ""),
        status=status,
        config=(described.get("config") or {}) | (marker.get("config") or {}),
        result=body["result"] if status == "done" else None,
        error=stored_error(body) if status == "failed" else None,
        labels=described.get("labels") or {},
        seconds=provenance.get("seconds"),
        resumed=provenance.get("resumed"),
        peak_memory=provenance.get("peak_memory"),
        versions=provenance.get("versions") or {},
        machine=provenance.get("machine") or {},
        finished_at=provenance.get("finished_at"),
        source=provenance.get("source"),
    )


def state_of(body: Body) -> State:
    """Return the state of a run from its files."""
    if stored_error(body) is not None:
        return "failed"
    # A transfer with failed seeds stores a result; the same command tries these seeds again.
    return "done" if body["result"] is not None and not body["result"].get("failed_seeds") else "open"


def stored_error(body: Body) -> dict[str, Any] | None:
    """Return the error of a failed run, where a damaged file counts as an error; None if there is no error."""
    for message in damages(body):
        return {"kind": ContentError.__name__, "message": message}
    error: dict[str, Any] | None = body["error"]
    return error


def damages(body: Body) -> list[str]:
    """Return a message for each file of a run that cannot be read."""
    return [content[_DAMAGED] for content in body.values() if content is not None and _DAMAGED in content]


def read_body(paths: Mapping[str, str]) -> Body:
    """Return the content of the files of a run by kind; None for files that do not exist or have no path given."""
    return {name: _parsed(name, paths[name]) if name in paths else None for name in _FILES}


def _parsed(name: str, path: str) -> dict[str, Any] | None:
    """Return the JSON object of a file; None if there is no file, `{_DAMAGED: message}` if it was edited or cut off."""
    try:
        content = read_json(Path(path), "file")
    except UsageError:
        return None
    except ContentError as error:
        return {_DAMAGED: str(error)}
    if not isinstance(content, dict):
        return {_DAMAGED: f"{path} holds {type(content).__name__} instead of an object; it was edited."}
    if (problem := shape_problem(name, content)) is not None:
        return {_DAMAGED: f"{path} was edited: {problem} Copy it again, or delete the run and repeat it."}
    return content
