"""A worker process: reads jobs from stdin, a line each, does them one after the other, writes outcomes to stdout.

When its stdin ends, because the driver has closed it or died, it stops at the next checkpoint.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from typing import Any, NoReturn

from winning_tickets.study.jobs import Job, Outcome, Stopped, perform

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
