"""Runs in processes of this machine: each has its share of the cores, and its own GPU where there are several."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from winning_tickets.errors import UsageError
from winning_tickets.study.jobs import Job, Outcome

STOP_SECONDS = 120.0
"""So long a worker may take to reach its next checkpoint."""
_MODULE = "winning_tickets.study.worker"


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    log: Path
    job: Job | None = None
    rest: bytes = field(default=b"")


class LocalEngine:
    """Worker processes that stay from job to job, so that heavy imports happen once.

    Args:
        workers: processes at a time.
        store: folder of the store; logs go to its `logs/`.

    Raises:
        UsageError: fewer than one worker.
    """

    def __init__(self, workers: int, store: Path) -> None:
        if workers < 1:
            raise UsageError(f"--workers {workers} is impossible; at least 1.")
        self._count = workers
        self._logs = store / "logs"
        self._workers: dict[int, _Worker] = {}

    def free(self) -> int:
        """Workers without a job, started or not."""
        return self._count - sum(worker.job is not None for worker in self._workers.values())

    def start(self, job: Job) -> None:
        """Give a job to a worker."""
        place = next(
            place for place in range(self._count) if place not in self._workers or self._workers[place].job is None
        )
        worker = self._workers.get(place)
        if worker is None or worker.process.poll() is not None:
            worker = self._workers[place] = self._spawn(place)
        worker.job = job
        assert worker.process.stdin is not None
        with suppress(BrokenPipeError):  # it has just died; `wait` tells
            worker.process.stdin.write(job.line().encode() + b"\n")
            worker.process.stdin.flush()

    def wait(self, seconds: float) -> list[Outcome]:
        """Outcomes of jobs that have ended; a worker that died without one has lost its job."""
        busy = {place: worker for place, worker in self._workers.items() if worker.job is not None}
        outcomes: list[Outcome] = []
        with selectors.DefaultSelector() as selector:
            for place, worker in busy.items():
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, place)
            for key, _ in selector.select(seconds):
                outcomes += self._read(key.data)
        return outcomes

    def stop(self) -> list[Outcome]:
        """Ask all busy workers to stop at a checkpoint; one that takes too long is killed."""
        for worker in self._workers.values():
            if worker.job is not None:
                with suppress(ProcessLookupError):
                    worker.process.send_signal(signal.SIGTERM)
        outcomes: list[Outcome] = []
        end = time.monotonic() + STOP_SECONDS
        try:
            while any(worker.job for worker in self._workers.values()) and time.monotonic() < end:
                outcomes += self.wait(1.0)
        finally:
            self.close()
        return outcomes

    def close(self) -> None:
        """End all workers: idle ones at once, and whatever is left is killed."""
        workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            if worker.job is not None:
                worker.process.kill()
            assert worker.process.stdin is not None
            with suppress(BrokenPipeError):
                worker.process.stdin.close()
        for worker in workers:
            worker.process.wait()
            assert worker.process.stdout is not None
            worker.process.stdout.close()

    def _read(self, place: int) -> list[Outcome]:
        worker = self._workers[place]
        assert worker.process.stdout is not None
        content = os.read(worker.process.stdout.fileno(), 1 << 16)
        if not content:
            return [self._bury(place)]
        worker.rest += content
        *lines, worker.rest = worker.rest.split(b"\n")
        if not lines:
            return []
        worker.job = None
        outcomes = [Outcome.of_line(line.decode()) for line in lines]
        if any(outcome.kind == "stopped" for outcome in outcomes):
            self._dismiss(place)  # it is ending, and does no more jobs
        return outcomes

    def _dismiss(self, place: int) -> tuple[_Worker, int]:
        """A worker that ends, and its exit code."""
        worker = self._workers.pop(place)
        assert worker.process.stdin is not None
        assert worker.process.stdout is not None
        with suppress(BrokenPipeError):
            worker.process.stdin.close()
        code = worker.process.wait()
        worker.process.stdout.close()
        return worker, code

    def _bury(self, place: int) -> Outcome:
        worker, code = self._dismiss(place)
        assert worker.job is not None
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Outcome(worker.job.run, "lost", f"Its worker died ({how}); what it wrote last is in {worker.log}.")

    def _spawn(self, place: int) -> _Worker:
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"worker-{place + 1}.log"
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | threads_of(self._count) | gpu_of(place),
                start_new_session=True,  # the terminal's Ctrl-C reaches the driver alone
            )
        return _Worker(process, log)


def threads_of(workers: int, cores: int | None = None) -> dict[str, str]:
    """Environment that gives each of some workers its share of the cores, so that they do not hinder each other.

    Args:
        workers: processes at a time.
        cores: to share; None takes all that this process may use.
    """
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // workers)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        threads = min(threads, int(asked))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) | {"TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"}


def gpu_of(place: int) -> dict[str, str]:
    """Environment that gives a worker one of several GPUs, in turn; nothing where there are fewer than two."""
    visible: Any = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        names = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    else:
        names = [name.strip() for name in visible.split(",") if name.strip()]
    return {"CUDA_VISIBLE_DEVICES": names[place % len(names)]} if len(names) > 1 else {}
