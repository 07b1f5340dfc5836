"""Run directories: one per run, resumable, idempotent, never overwritten by accident."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Self

from winning_tickets.runs import distributed
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError, closest, foreign, shown
from winning_tickets.runs.files import (
    append_line,
    is_temporary,
    parse_json,
    read_object,
    remove_leftovers,
    write_json,
    write_text,
)
from winning_tickets.runs.locks import Hold, hold, is_lock, remove_dead_lock
from winning_tickets.runs.results import RESULT, StoredResult, problem

HEAD_MARKER = "fit_head.json"  # marker of a fitted head: its folder is a model, which has a `config.json` of its own
MARKER = "config.json"
METRICS = "metrics.jsonl"
SCRATCH = ".scratch"
_DIFFERENCES = 3  # number of differing settings in an error

Status = Literal["new", "unfinished", "done"]
_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusting(*, remote_code: bool) -> Iterator[None]:
    """Let models run code from their repositories inside the block if `remote_code` is true."""
    token = _TRUSTED.set(remote_code)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def is_trusted() -> bool:
    """Return whether the user lets models run code from their repositories."""
    return _TRUSTED.get()


def remote_code_facts() -> dict[str, bool]:
    """Return the entry `trust_remote_code` of a result; empty if models may not run code of their own."""
    return {"trust_remote_code": True} if is_trusted() else {}


@dataclass(frozen=True)
class StoredRun:
    """The run of a directory, read from its marker file; `config` is None if it is not a JSON object."""

    verb: str
    id: str
    config: dict[str, Any] | None


def stored_run(marker: Path) -> StoredRun | None:
    """Read a marker file; return None if it is absent or not a marker, such as the `config.json` of a model."""
    try:
        content = parse_json(marker.read_text(encoding="utf-8"))
        config = content.get("config") if isinstance(content, dict) else None
        return StoredRun(str(content["verb"]), str(content["id"]), config if isinstance(config, dict) else None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


class RunDirectory:
    """A directory that belongs to exactly one run, which is done if `result.json` exists and no seed failed.

    Absent or empty: the run starts. Unfinished with the same id: it resumes. Finished with the same id: the stored
    result is returned. Another id, or foreign files: refused untouched. `force` replaces only directories that have a
    marker of this library. Until the `with` block ends, other launches are refused, unless the run is already done.
    """

    def __init__(self, path: Path, status: Status, id: str) -> None:  # noqa: A002 - the id of the run
        self.path = path
        self.status = status
        self.id = id
        self.watch: Callable[[dict[str, Any]], None] | None = None  # called for each logged record
        self._hold: Hold | None = None  # only the main process holds the lock
        self._marker = MARKER

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if self._hold is None:
            return
        # A run that was refused before it wrote anything leaves nothing.
        if self.status == "new" and kind is not None and issubclass(kind, UsageError | ContentError):
            entries = [entry for entry in self.path.iterdir() if not is_lock(entry)]
            if [entry.name for entry in entries] == [self._marker]:
                entries[0].unlink()
        self._hold.release()

    @classmethod
    def claim(
        cls,
        path: Path | str,
        verb: str,
        run_id: str,
        config: dict[str, Any],
        *,
        force: bool = False,
        marker: str = MARKER,
    ) -> RunDirectory:
        """Take `path` for the run `run_id`; `marker` is the file with its id and settings."""
        distributed.check_same(f"{verb} {run_id}", "run")
        run = cls(Path(path), "new", run_id)
        run._marker = marker
        run.status = distributed.on_main(lambda: run._claim(verb, config, force=force))
        return run

    def _claim(self, verb: str, config: dict[str, Any], *, force: bool) -> Status:
        # A directory is not locked if it is refused, or if its run is done, since it may be read-only then.
        if self._find_status(verb, config, force=force) == "done":
            _tidy(self.path)  # a kill may have come right after the result
            remove_dead_lock(self.path)
            return "done"
        self._hold = hold(self.path)
        try:
            status = self._find_status(verb, config, force=force)  # another launch may have worked here meanwhile
            if status == "new":
                if force and self.path.is_dir():
                    _empty(self.path, last=self._marker)
                write_json(self.path / self._marker, {"verb": verb, "id": self.id, "config": config})
            return status
        except BaseException:
            self._hold.release()
            raise

    def _find_status(self, verb: str, config: dict[str, Any], *, force: bool) -> Status:
        """Return the status of the directory; `new` if it is empty or may be emptied."""
        path = self.path
        if path.exists() and not path.is_dir():
            raise UsageError(f"--out {path} is a file; give a directory that is absent or empty.")
        # A kill before the first write is complete leaves only these.
        if not path.is_dir() or all(is_temporary(entry) or is_lock(entry) for entry in path.iterdir()):
            return "new"
        found = stored_run(path / self._marker)
        if found is None:
            raise foreign(path, "a run of this tool")
        if force:  # only a directory with a marker is replaced
            return "new"
        if (found.verb, found.id) != (verb, self.id):
            differ = _differences(found.config or {}, config) if found.verb == verb else ""
            raise UsageError(
                f"--out {path} holds another run ({found.verb} {found.id}), this one is {verb} {self.id}{differ}; "
                "it was left untouched. Give another directory, or --force to replace that run."
            )
        return "done" if is_done(path) else "unfinished"

    @property
    def scratch(self) -> Path:
        """Return the folder of checkpoints, which is removed when the run is done."""
        return self.path / SCRATCH

    def log(self, record: dict[str, Any]) -> None:
        """Append one record to `metrics.jsonl`."""

        def write() -> None:
            if self._hold is not None:
                self._hold.check()
            append_line(self.path / METRICS, json.dumps(record, allow_nan=False))
            if self.watch is not None:
                self.watch(record)

        distributed.on_main(write)

    def forget_after(self, step: int | None) -> int:
        """Remove records after the step of a checkpoint from the log, or without a checkpoint (None) all records.

        Returns:
            The number of consecutive skipped steps up to this one.
        """

        def write() -> int:
            if not (self.path / METRICS).exists():
                return 0
            kept = [] if step is None else [record for record in read_log(self.path) if record["step"] <= step]
            write_text(self.path / METRICS, "".join(json.dumps(record) + "\n" for record in kept))
            steps = [record for record in kept if "learning_rate" in record]  # not the evaluations
            return len(list(takewhile(lambda record: record.get("skipped"), reversed(steps))))

        return distributed.on_main(write)

    def result(self) -> dict[str, Any]:
        """Return the stored result; a `ContentError` says that it was edited."""
        content = read_object(self.path / RESULT, "result")
        StoredResult.parse(content, self.path / RESULT)
        return content

    def reopen(self) -> None:
        """Lock the directory of a run that is done, to add outputs; `finish` stores its result again."""

        def lock() -> None:
            if self._hold is None:
                self._hold = hold(self.path)

        distributed.on_main(lock)

    def finish(self, result: dict[str, Any]) -> None:
        """Store the result, which completes the run, then remove all temporary files.

        Raises:
            TrainingError: the result is not what its class in `runs.results` describes; checkpoints stay.
        """

        def write() -> None:
            if self._hold is not None:
                self._hold.check()
            whole = result | execution_of(self.path) | remote_code_facts()
            if (wrong := problem(json.loads(json.dumps(whole)))) is not None:  # tuples are stored as lists
                raise TrainingError(
                    f"The result of {self.path} cannot be stored, which is a bug of winning-tickets: {wrong} Nothing "
                    "of the run was removed; please report it."
                )
            write_json(self.path / RESULT, whole)
            _tidy(self.path)

        distributed.on_main(write)


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Return the first differing settings of two runs as text; empty if only the data or weights differ."""
    here = json.loads(json.dumps(here))  # tuples were stored as lists
    differ = [name for name in here if name in there and there[name] != here[name]]
    texts = [f"{name}: {shown(there[name])} there, {shown(here[name])} here" for name in differ[:_DIFFERENCES]]
    if len(differ) > _DIFFERENCES:
        texts.append(f"and {len(differ) - _DIFFERENCES} more")
    return f" ({'; '.join(texts)})" if texts else ""


def _empty(path: Path, last: str) -> None:
    """Remove the content of a folder, but not the targets of links in it; the file `last` goes last."""
    # With its marker, a folder that was emptied half-way is not taken for foreign files.
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == last):
        if is_lock(entry):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def is_done(path: Path) -> bool:
    """Return whether a run has a result without failed seeds; the same command tries failed seeds again."""
    result = path / RESULT
    if not result.exists():
        return False
    try:
        content = parse_json(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a damaged result is reported when it is read
        return True
    return not (isinstance(content, dict) and content.get("failed_seeds"))


def _tidy(path: Path) -> None:
    shutil.rmtree(path / SCRATCH, ignore_errors=True)
    remove_leftovers(path)


def execution_of(path: Path) -> dict[str, Any]:
    """Return `skipped_steps`, `precision` and `compiled` of a result, from its log; empty for plain float32 throughout.

    `training.trainer.FiniteSteps` skips steps.
    """
    log = read_log(path)
    skipped = [record["step"] for record in log if record.get("skipped")]
    steps = [record for record in log if "learning_rate" in record]
    return ({"skipped_steps": skipped} if skipped else {}) | joint_execution(steps)


def joint_execution(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `precision` and `compiled` of a whole from those of its parts, such as steps or seeds."""
    found = {name for part in parts for name in str(part.get("precision", "float32")).split(" and ")}
    facts: dict[str, Any] = {} if found <= {"float32"} else {"precision": " and ".join(sorted(found))}
    return facts | ({"compiled": True} if any(part.get("compiled") for part in parts) else {})


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a run's `metrics.jsonl`; lines that are not a complete record of a step are skipped."""
    if not (path / METRICS).exists():
        return []
    records = []
    for line in (path / METRICS).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


_SHOWN = 8
_MODELS = ("model", "model/encoder", "seed-*/model", "seed-*/model/encoder")  # places of the models in a run


def missing(name: str) -> str | None:
    """Return the error message for `folder/name` if the folder exists but has no `name`; None if it may be a hub id."""
    parent, _, last = name.partition("/")
    could_be_an_id = bool(last) and "/" not in last and not name.startswith((".", "~", "/"))
    if not could_be_an_id or not Path(parent).is_dir() or Path(name).is_dir():
        return None
    folders = [path for path in Path(parent).iterdir() if path.is_dir() and not path.name.startswith(".")]
    if any((path / MARKER).is_file() and stored_run(path / MARKER) is None for path in folders):
        return None  # the parent holds models, like a local copy of a hub organization
    there = sorted(path.name for path in folders)
    hint = closest(last, there, f"{parent}/")
    listed = ", ".join(there[:_SHOWN]) + (", ..." if len(there) > _SHOWN else "")
    return f"There is no folder {name}; {parent}/ has {listed or 'no folders'}.{hint}"


def absent_model(name: str) -> str | None:
    """Return the error message for a model that has to be on this machine and is not; None if it may be a hub id."""
    if Path(name).expanduser().is_dir():
        return None
    if name.startswith((".", "~", "/")) or Path(name).is_absolute() or name.count("/") > 1:
        return f"There is no model folder {name}; give a folder, a hub id or builtin:minilm."
    return missing(name)


def refuse_unfinished(path: Path) -> None:
    """Refuse the folder of a run without a result."""
    found = stored_run(path / MARKER)
    if found is not None and not (path / RESULT).exists():
        raise UsageError(
            f"{path} is a run of tickets {_command(found.verb)} that has not finished; run the same command again."
        )


def refuse_run(path: Path) -> None:
    """Refuse the folder of a run where a model is expected, and name the models of the run."""
    found = stored_run(path / MARKER)
    if found is None:
        return
    models = sorted(file.parent for place in _MODELS for file in path.glob(f"{place}/config.json"))
    if not models:
        refuse_unfinished(path)
    has = f"it has {', '.join(map(str, models[:_SHOWN]))}; give one of these" if models else "none was saved in it"
    raise UsageError(f"{path} is a run of tickets {_command(found.verb)}, not a model, and {has}.")


def _command(verb: str) -> str:
    """Return the command of a run; the verb of a single seed's run ends in `-seed`."""
    return verb.removesuffix("-seed")
