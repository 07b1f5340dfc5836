"""One run of a study, done by a worker: claimed, executed by its verb's library function, stored, sealed."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NoReturn

from winning_tickets.config import Runtime, Settings
from winning_tickets.runs.directory import MARKER, RunDirectory, stored_run
from winning_tickets.runs.errors import Interrupted, TicketsError
from winning_tickets.runs.store.claims import ClaimedError
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.expressions import is_reference
from winning_tickets.studies.verbs import VERBS

Kind = Literal["done", "failed", "claimed", "stopped", "lost"]
TINY = "tiny:"
"""Begins the names of models and data that are made in the store."""
_FURTHER_PATHS = {"gain": ("baseline", "dense"), "winning": ("dense",)}
"""Arguments of analyses beside the first paths."""


class Stopped(BaseException):  # no handler of errors may keep it
    """The worker was told to end."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to do one run.

    Attributes:
        run: its id.
        verb: a name of `VERBS`.
        config: fields of its configuration; references are `@ID/path`.
        store: folder of the store.
        runtime: fields of a `Runtime`.
    """

    run: str
    verb: str
    config: dict[str, Any]
    store: str
    runtime: dict[str, Any]

    def line(self) -> str:
        """As one line of text, for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def of_line(cls, line: str) -> Job:
        """From one line of text."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        run: its id.
        kind: `done`, `failed` (the store keeps the error), `claimed` (another process has it), `stopped` (it goes on
            from where it was another time) or `lost` (its worker died).
        message: in words; empty where it is done.
    """

    run: str
    kind: Kind
    message: str = ""

    def line(self) -> str:
        """As one line of text, for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def of_line(cls, line: str) -> Outcome:
        """From one line of text."""
        return cls(**json.loads(line))


def perform(job: Job) -> Outcome:
    """Do a run unless it is done or has failed; an error is kept in the store, and nothing but a stop is raised."""
    try:
        store = Store(job.store)
        with store.claim(job.run) as claim:
            status = store.status(job.run)
            if status == "failed":  # by another process, since this one was told to try it
                kept = store.record(job.run).error or {}
                return Outcome(job.run, "failed", str(kept.get("message", "")))
            if status != "done":
                try:
                    execute(job, store)
                except Interrupted as error:
                    return Outcome(job.run, "stopped", str(error))
                except Exception as error:  # whatever it is, it ends this run and no other
                    store.fail(job.run, error)
                    return Outcome(job.run, "failed", _told(error))
            if not claim.is_held():
                return Outcome(job.run, "claimed", "Another process took this run over.")
            store.seal(job.run)
            return Outcome(job.run, "done")
    except ClaimedError as error:
        return Outcome(job.run, "claimed", str(error))
    except TicketsError as error:  # the store itself: a full disk, a foreign folder
        return Outcome(job.run, "failed", str(error))


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, TicketsError) else f"{type(error).__name__}: {error}"


def execute(job: Job, store: Store) -> None:
    """Call the verb's library function, which goes on where an earlier attempt stopped."""
    verb = VERBS[job.verb]
    fields = resolve(job.config, store)
    if is_reference(job.config.get("target")) and "base" in verb.settings.model_fields:
        fields = {"base": moved_base(Path(fields["target"]), store)} | fields
    settings = verb.settings.of(**fields)
    runtime = Runtime.of(**job.runtime)
    folder = store.folder(job.run)
    module, _, name = verb.function.partition(":")
    function = getattr(import_module(module), name)
    if verb.writes:
        function(settings, folder, runtime, force=_moved(job, settings, folder))
        return
    run = RunDirectory.claim(folder, job.verb, job.run, settings.model_dump(mode="json"))
    if run.status != "done":
        run.finish(_CALLS[job.verb](function, settings, runtime, folder))


def resolve(value: Any, store: Store) -> Any:
    """Put folders in place of references, and of models and data that are made in the store."""
    if is_reference(value):
        run, slash, rest = value.removeprefix("@").partition("/")
        return str(store.folder(run).absolute()) + slash + rest
    if isinstance(value, str) and value.startswith(TINY):
        from winning_tickets.studies.tiny import tiny_folder

        return str(tiny_folder(value.removeprefix(TINY), store.path.absolute() / "tiny"))
    if isinstance(value, Mapping):
        return {key: resolve(item, store) for key, item in value.items()}
    return [resolve(item, store) for item in value] if isinstance(value, list | tuple) else value


def moved_base(ticket: Path, store: Store) -> str | None:
    """Where a ticket's base model is now, if it was made in this store and the store was elsewhere then; else None."""
    try:
        content = json.loads((ticket / "ticket.json").read_text(encoding="utf-8"))
        before = Path(content["info"]["applies_to"]["name"])
    except (OSError, ValueError, KeyError):
        return None
    for place in ("runs", "tiny"):
        if place in before.parts and not before.exists():
            last = len(before.parts) - 1 - before.parts[::-1].index(place)
            now = store.path.absolute().joinpath(*before.parts[last:])
            return str(now) if now.exists() else None
    return None


def _moved(job: Job, settings: Settings, folder: Path) -> bool:
    """Whether the store was elsewhere when this run began: the verb takes paths for another run then; start again."""
    found = stored_run(folder / MARKER)
    before = (found and found.config) or {}
    inside = [name for name, value in job.config.items() if is_reference(value) or str(value).startswith(TINY)]
    return any(name in before and before[name] != getattr(settings, name) for name in inside)


def _evaluate(function: Callable[..., Any], settings: Any, runtime: Runtime, folder: Path) -> dict[str, Any]:
    return dict(function(settings, runtime))


def _measure(function: Callable[..., Any], settings: Any, runtime: Runtime, folder: Path) -> dict[str, Any]:
    return dict(function(**settings.model_dump(), runtime=runtime))


def _compare(function: Callable[..., Any], settings: Any, runtime: Runtime, folder: Path) -> dict[str, Any]:
    return dict(function(settings.tickets, settings.average))


def _export(function: Callable[..., Any], settings: Any, runtime: Runtime, folder: Path) -> dict[str, Any]:
    return dict(function(**settings.model_dump(), out=folder / VERBS["export"].output))


def _analyse(functions: Any, settings: Any, runtime: Runtime, folder: Path) -> dict[str, Any]:
    further = (getattr(settings, name) for name in _FURTHER_PATHS.get(settings.kind, ()))
    return dict(functions[settings.kind](settings.paths, *further, **settings.options))


_CALLS: dict[str, Callable[..., dict[str, Any]]] = {
    "evaluate": _evaluate,
    "measure": _measure,
    "compare": _compare,
    "export": _export,
    "analyse": _analyse,
}


EXIT_STOPPED = 143


def main() -> int:
    """Work until there is nothing more to do.

    Returns:
        The exit code.
    """
    outcomes = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints does not get among the outcomes
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the driver, which tells us once
    jobs: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    try:
        while (line := jobs.get()) is not None:
            outcome = _do(Job.of_line(line))
            outcomes.write(outcome.line() + "\n")
            outcomes.flush()
            if outcome.kind == "stopped":
                return EXIT_STOPPED
    except (Stopped, BrokenPipeError):
        return EXIT_STOPPED
    return 0


def _do(job: Job) -> Outcome:
    try:
        return perform(job)
    except (Stopped, KeyboardInterrupt):
        return Outcome(job.run, "stopped", "Stopped between two checkpoints; it goes on from the last one.")


def _read(jobs: queue.Queue[str | None]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    jobs.put(None)
    os.kill(os.getpid(), signal.SIGTERM)


def _stop(number: int, frame: Any) -> NoReturn:
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
