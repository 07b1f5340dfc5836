"""One line on stderr for each run that ends: how many are done, and how long the rest will take."""

from __future__ import annotations

import time
from typing import TextIO

from winning_tickets.store import Store
from winning_tickets.study.costs import Estimator
from winning_tickets.study.jobs import Outcome
from winning_tickets.study.plan import Plan, Run
from winning_tickets.study.progress import blocked_by
from winning_tickets.study.run import Progress
from winning_tickets.study.text import duration

_AGAIN_SECONDS, _SHARE = 30.0, 20.0
"""An estimate reads the whole store: it is made again after so many seconds, or so many times what it took."""


class Lines:
    """Watches a study and writes its progress.

    Args:
        plan: of the study.
        store: its store.
        workers: how many runs are done at a time.
        stream: where to write.
    """

    def __init__(self, plan: Plan, store: Store, workers: int, stream: TextIO) -> None:
        self._plan = plan
        self._store = store
        self._workers = workers
        self._stream = stream
        self._made = self._again = self._seconds = 0.0

    def __call__(self, progress: Progress, run: Run, outcome: Outcome) -> None:
        """Write a line; of a run that another process works on, nothing."""
        if outcome.kind == "claimed":
            return
        counts = f"{progress.count('done')}/{len(self._plan.runs)} done"
        failed = progress.count("failed")
        extra = f", {failed} failed" if failed else ""
        message = f": {outcome.message}" if outcome.message else ""
        self._stream.write(f"[{counts}{extra}{self._time_left(progress)}] {outcome.kind} {run.id}{message}\n")
        self._stream.flush()

    def _time_left(self, progress: Progress) -> str:
        failed = [run for run, state in progress.states.items() if state == "failed"]
        over = {*failed, *blocked_by(self._plan, failed)}
        left = [run for run, state in progress.states.items() if state != "done" and run not in over]
        if not left:
            return ""
        now = time.monotonic()
        if now >= self._again:
            records = {record.id: record for record in self._store.records()}
            self._seconds = Estimator(self._plan, records).estimate(left, self._workers)["seconds"]
            self._made = time.monotonic()
            self._again = self._made + min(_AGAIN_SECONDS, _SHARE * (self._made - now))
        passed = time.monotonic() - self._made
        return f", about {duration(max(0.0, self._seconds - passed))} left"
