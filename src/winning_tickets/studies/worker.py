"""Worker of a study: claims a run, calls the library function of its verb, stores the result and its checksums."""

from __future__ import annotations

import _thread
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

from winning_tickets.config import Runtime, Settings
from winning_tickets.runs import signals
from winning_tickets.runs.directory import MARKER, RunDirectory, stored_run, trusting
from winning_tickets.runs.errors import Interrupted, TicketsError
from winning_tickets.runs.locks import ClaimedError, LostError
from winning_tickets.runs.messages import shown
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.expressions import is_reference, map_strings
from winning_tickets.studies.verbs import VERBS

Kind = Literal["done", "failed", "claimed", "stopped", "lost"]
TINY = "tiny:"  # prefix of models and data that are generated in the store
_FURTHER_PATHS = {"gain": ("baseline", "dense"), "winning": ("dense",)}
"""Further arguments of analyses, after the paths."""


class Stopped(signals.Repeated, BaseException):  # not an Exception, so that no handler of errors catches it
    """The worker was asked to end."""

    number = signal.SIGTERM


class _Line:
    """A dataclass that is sent to another process as one line of JSON."""

    def line(self) -> str:
        return json.dumps(asdict(self))  # type: ignore[call-overload]

    @classmethod
    def of_line(cls, line: str) -> Self:
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Job(_Line):
    """One run for a worker; `config` has references as `@ID/path`, and `runtime` has the fields of a `Runtime`."""

    run: str
    verb: str
    config: dict[str, Any]
    store: str
    runtime: dict[str, Any]


@dataclass(frozen=True)
class JobOutcome(_Line):
    """How a job ended; `claimed`: another process has the run; `stopped`: it resumes later; `lost`: the worker died."""

    run: str
    kind: Kind
    message: str = ""


def perform(job: Job) -> JobOutcome:
    """Do a run unless it is done or has failed; raise only a request to stop, and store any error."""
    try:
        store = Store(job.store)
        with store.claim(job.run) as held:
            status = store.status(job.run)
            if status == "failed":  # it has failed in another process meanwhile
                kept = store.record(job.run).error or {}
                return JobOutcome(job.run, "failed", str(kept.get("message", "")))
            if status != "done":
                try:
                    with trusting(remote_code=bool(job.runtime.get("trust_remote_code"))):
                        execute(job, store)
                except (Interrupted, LostError):
                    raise
                except Exception as error:  # any error ends this run only
                    store.fail(job.run, error)
                    message = str(error) if isinstance(error, TicketsError) else f"{type(error).__name__}: {error}"
                    return JobOutcome(job.run, "failed", message)
            held.check()  # a result is recorded only by the process that still holds the run
            store.seal(job.run)
            return JobOutcome(job.run, "done")
    except (ClaimedError, LostError) as error:
        return JobOutcome(job.run, "claimed", str(error))
    except Interrupted:
        raise
    except TicketsError as error:  # the store itself: a full disk, a foreign folder
        return JobOutcome(job.run, "failed", str(error))


def execute(job: Job, store: Store) -> None:
    """Call the library function of the verb, which resumes an earlier attempt."""
    verb = VERBS[job.verb]
    fields = resolve(job.config, store)
    if is_reference(job.config.get("target")) and "base" in verb.settings.model_fields:
        fields = {"base": moved_base(Path(fields["target"]), store)} | fields
    settings = verb.settings.of(**fields)
    runtime = Runtime.of(**job.runtime)
    folder = store.folder(job.run)
    if verb.writes:
        verb.call(settings, folder, runtime, force=_moved(job, settings, folder))
        return
    with RunDirectory.claim(folder, job.verb, job.run, settings.model_dump(mode="json")) as run:
        if run.status != "done":
            run.finish(dict(_CALLS[job.verb](verb.call, settings, runtime, folder)))


def resolve(value: Any, store: Store) -> Any:
    """Replace references, and models and data that are generated in the store, by their folders."""

    def folder_of(text: str) -> str:
        if is_reference(text):
            run, slash, rest = text.removeprefix("@").partition("/")
            return str(store.folder(run).absolute()) + slash + rest
        if text.startswith(TINY):
            from winning_tickets.studies.tiny import tiny_folder

            return str(tiny_folder(text.removeprefix(TINY), store.path.absolute() / "tiny"))
        return text

    return map_strings(value, folder_of)


def moved_base(ticket: Path, store: Store) -> str | None:
    """Return the present path of a ticket's base model if it is in this store and the store was moved; else None."""
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
    """Return whether the store was moved since the run started; its verb would refuse the new paths, so it restarts."""
    found = stored_run(folder / MARKER)
    before = (found and found.config) or {}
    inside = [name for name, value in job.config.items() if is_reference(value) or str(value).startswith(TINY)]
    return any(name in before and before[name] != getattr(settings, name) for name in inside)


def _analyse(functions: Any, settings: Any, runtime: Runtime, folder: Path) -> dict[str, Any]:
    further = (getattr(settings, name) for name in _FURTHER_PATHS.get(settings.kind, ()))
    return dict(functions[settings.kind](settings.paths, *further, **settings.options))


_CALLS: dict[str, Callable[[Any, Any, Runtime, Path], Any]] = {
    "evaluate": lambda evaluate, settings, runtime, folder: evaluate(settings, runtime),
    "measure": lambda measure, settings, runtime, folder: measure(settings, runtime),
    "compare": lambda compare, settings, runtime, folder: compare(settings.tickets, settings.average),
    "export": lambda export, settings, runtime, folder: export(settings, folder / VERBS["export"].output),
    "import-mask": lambda read, settings, runtime, folder: read(settings, folder / VERBS["import-mask"].output),
    "analyse": _analyse,
    "submit": lambda submit, settings, runtime, folder: submit(
        settings.runs, settings.data_dir, folder / VERBS["submit"].output, seed=settings.seed, runtime=runtime
    ),
}
"""Calls of the functions that do not store their result themselves."""


EXIT_STOPPED = 143


def main() -> int:
    """Do the jobs that arrive on stdin, and return the exit code."""
    outcomes = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # outcomes use the original stdout; what libraries print goes to stderr
    signal.signal(signal.SIGTERM, stop_worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C and sends SIGTERM
    jobs: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()
    try:
        with shown():
            while (line := jobs.get()) is not None:
                outcome = perform_or_stop(Job.of_line(line))
                outcomes.write(outcome.line() + "\n")
                outcomes.flush()
                if outcome.kind == "stopped":
                    return EXIT_STOPPED
    except (Stopped, BrokenPipeError):
        signals.leave()
        return EXIT_STOPPED
    return 0


def perform_or_stop(job: Job) -> JobOutcome:
    """Do a run; a stop is an outcome too."""
    try:
        return perform(job)
    except Interrupted as error:
        return JobOutcome(job.run, "stopped", str(error))
    except (Stopped, KeyboardInterrupt):
        signals.leave()
        return JobOutcome(job.run, "stopped", "Stopped between two checkpoints; it resumes from the last one.")


def _read(jobs: queue.Queue[str | None]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    jobs.put(None)
    if os.name == "posix":
        os.kill(os.getpid(), signal.SIGTERM)  # the signal also ends a wait of the main thread
    else:
        _thread.interrupt_main(signal.SIGTERM)  # os.kill would end the process without a checkpoint


def stop_worker(number: int, frame: Any) -> NoReturn:
    """End the job at once, unless a training catches the signal for a checkpoint."""
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
