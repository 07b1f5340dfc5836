"""Run a study: each run is done once, after the runs that it needs; a killed study resumes."""

from __future__ import annotations

import logging
import signal
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from winning_tickets.config import Runtime
from winning_tickets.report.costs import CPU, Speed
from winning_tickets.runs.errors import Interrupted
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.engines import Engine
from winning_tickets.studies.estimates import Estimator
from winning_tickets.studies.expressions import map_strings
from winning_tickets.studies.needs import is_there
from winning_tickets.studies.plan import Plan
from winning_tickets.studies.references import Run
from winning_tickets.studies.status import blocked_by
from winning_tickets.studies.text import duration
from winning_tickets.studies.worker import TINY, Job, JobOutcome

logger = logging.getLogger(__name__)

State = Literal["waiting", "ready", "running", "done", "failed"]
MAX_LOSSES = 3  # number of dead workers after which a run counts as failed
CLAIMED_SECONDS = 2.0  # time between two attempts to claim a run that another process holds
WAIT_SECONDS = 1.0


@dataclass
class Progress:
    """Progress of a study: state of each run, runs that ended in this process, number of dead workers by run."""

    states: dict[str, State]
    finished: list[str] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)

    def count(self, state: State) -> int:
        return sum(one == state for one in self.states.values())


Watch = Callable[[Progress, Run, JobOutcome], None]  # callback for each run that has ended


def run_study(
    plan: Plan,
    store: Store,
    engine: Engine,
    runtime: Runtime | None = None,
    *,
    retry_failed: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Do all runs of a study that are not done; processes with the same store share the work.

    The error of a failed run is stored, the runs that need it are blocked, and all others continue.

    Returns:
        `runs`, `done`, `failed` (id -> error), `blocked` (id -> the failed run it waits for), `finished_now`.
    """
    driver = _Driver(plan, store, engine, runtime or Runtime(quiet=True), watch=watch)
    try:
        driver.begin(retry_failed=retry_failed)
        driver.work()
    except (KeyboardInterrupt, SystemExit) as stop:
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        driver.stopping = True
        for outcome in engine.stop():
            driver.note(outcome)
        progress = driver.progress
        raise Interrupted(
            number,
            f"Stopped after {progress.count('done')} of {len(plan.runs)} runs; runs in training wrote a checkpoint. "
            "Run the same command again to resume.",
        ) from stop
    finally:
        engine.close()
    return driver.summary()


class _Driver:
    """Tracks the states of all runs and gives jobs to the engine."""

    def __init__(self, plan: Plan, store: Store, engine: Engine, runtime: Runtime, *, watch: Watch | None) -> None:
        self._plan = plan
        self._store = store
        self._engine = engine
        self._runtime = runtime
        self._watch = watch
        self._open: dict[str, int] = {}
        self._dependants: dict[str, list[str]] = {}
        self._ready: deque[str] = deque()
        self._claimed: deque[tuple[float, str]] = deque()
        self._reasons: dict[str, str] = {}
        self.progress = Progress(dict.fromkeys(plan.runs, "waiting"))
        self.stopping = False

    def begin(self, *, retry_failed: bool) -> None:
        states = self.progress.states
        for run in self._plan.runs.values():
            status = self._store.status(run.id)
            if status == "failed" and retry_failed:
                self._store.retry(run.id)
                status = "unfinished"
            if status == "failed":
                states[run.id] = "failed"
            elif status == "done" and self._store.sealed(run.id):
                states[run.id] = "done"
            needs = [need for need in run.needs if states[need] != "done"]
            self._open[run.id] = len(needs)
            for need in needs:
                self._dependants.setdefault(need, []).append(run.id)
            if states[run.id] == "waiting" and not needs:
                self._make_ready(run.id)

    def work(self) -> None:
        while self._ready or self._claimed or self.progress.count("running"):
            # Try runs that other processes hold again after a while, then fill the engine.
            now = time.monotonic()
            while self._claimed and self._claimed[0][0] <= now:
                self._make_ready(self._claimed.popleft()[1])
            while self._ready and self._engine.free():
                self._start(self._ready.popleft())
            # Wait for outcomes, or for the time of the next attempt.
            if self.progress.count("running"):
                for outcome in self._engine.wait(WAIT_SECONDS):
                    self.note(outcome)
            elif not self._ready or not self._engine.free():
                time.sleep(WAIT_SECONDS / 10)

    def note(self, outcome: JobOutcome) -> None:
        run, states = self._plan.runs[outcome.run], self.progress.states
        # A dead worker, or one that somebody else stopped, costs an attempt.
        if outcome.kind == "lost" or (outcome.kind == "stopped" and not self.stopping):
            self.progress.losses[run.id] += 1
            if self.progress.losses[run.id] < MAX_LOSSES:
                self._make_ready(run.id)
            else:
                message = f"{outcome.message} It was tried {MAX_LOSSES} times."
                self._store.fail(run.id, message)
                states[run.id] = "failed"
        elif outcome.kind == "claimed":
            states[run.id] = "waiting"
            self._claimed.append((time.monotonic() + CLAIMED_SECONDS, run.id))
        elif outcome.kind == "stopped":
            states[run.id] = "waiting"
        else:
            states[run.id] = outcome.kind
            self.progress.finished.append(run.id)
            if outcome.kind == "done":
                self._release(run.id)
            else:
                self._reasons[run.id] = outcome.message
        if self._watch is not None:
            self._watch(self.progress, run, outcome)

    def summary(self) -> dict[str, Any]:
        states = self.progress.states
        failed = [run for run, state in states.items() if state == "failed"]
        kept = {run: (self._store.record(run).error or {}).get("message") for run in failed}
        # On a full disk the error could not be stored.
        errors = {run: message or self._reasons.get(run, "") for run, message in kept.items()}
        return {
            "runs": len(states),
            "done": self.progress.count("done"),
            "failed": errors,
            "blocked": blocked_by(self._plan, failed),
            "finished_now": len(self.progress.finished),
        }

    def _make_ready(self, run: str) -> None:
        self.progress.states[run] = "ready"
        self._ready.append(run)

    def _start(self, run_id: str) -> None:
        run = self._plan.runs[run_id]
        self.progress.states[run_id] = "running"
        labels = {"study": self._plan.study.name, "scale": self._plan.scale, "stage": run.stage}
        self._store.describe(run.id, run.verb, run.config, labels)
        config, store = absolute_paths(run.config), str(self._store.path.absolute())
        self._engine.start(Job(run.id, run.verb, config, store, self._runtime.model_dump()))

    def _release(self, run: str) -> None:
        for dependant in self._dependants.get(run, ()):
            self._open[dependant] -= 1
            if self._open[dependant] == 0 and self.progress.states[dependant] == "waiting":
                self._make_ready(dependant)


def absolute_paths(value: Any) -> Any:
    """Make existing paths absolute, because workers may have other working directories."""

    def absolute(text: str) -> str:
        may_be_path = text.startswith((".", "~")) or "/" in text
        if may_be_path and not text.startswith(("@", TINY, "builtin:")) and is_there(text):
            return str(Path(text).expanduser().absolute())
        return text

    return map_strings(value, absolute)


_AGAIN_SECONDS, _SHARE = 30.0, 20.0
"""An estimate reads the whole store, so the next one is made after 30 s, or after 20 times its duration if sooner."""


class ProgressLines:
    """Logs a line of progress for each run that has ended."""

    def __init__(self, plan: Plan, store: Store, workers: int, speed: Speed = CPU, *, gpus: float = 0) -> None:
        self._plan = plan
        self._store = store
        self._workers = workers
        self._speed, self._gpus = speed, gpus
        self._made = self._again = self._seconds = 0.0

    def __call__(self, progress: Progress, run: Run, outcome: JobOutcome) -> None:
        if outcome.kind == "claimed":
            return  # a run of another process
        counts = f"{progress.count('done')}/{len(self._plan.runs)} done"
        failed = progress.count("failed")
        extra = f", {failed} failed" if failed else ""
        message = f": {outcome.message}" if outcome.message else ""
        left = self._time_left(progress)
        logger.info("[%s%s%s] %s %s%s", counts, extra, left, outcome.kind, run.id, message)

    def _time_left(self, progress: Progress) -> str:
        failed = [run for run, state in progress.states.items() if state == "failed"]
        over = {*failed, *blocked_by(self._plan, failed)}
        left = [run for run, state in progress.states.items() if state != "done" and run not in over]
        if not left:
            return ""
        now = time.monotonic()
        if now >= self._again:
            records = {record.id: record for record in self._store.records()}
            estimator = Estimator(self._plan, records, self._speed, self._gpus)
            self._seconds = estimator.estimate(left, self._workers)["seconds"]
            self._made = time.monotonic()
            self._again = self._made + min(_AGAIN_SECONDS, _SHARE * (self._made - now))
        passed = time.monotonic() - self._made
        return f", about {duration(max(0.0, self._seconds - passed))} left"
