"""ENGINES: who does the runs of a study."""

from __future__ import annotations

import importlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from winning_tickets.config import Settings
from winning_tickets.runs.errors import UsageError, unknown
from winning_tickets.studies.worker import Job, Outcome, Stopped, perform

STOP_SECONDS = 120.0
"""So long a worker may take to reach its next checkpoint."""
_MODULE = "winning_tickets.studies.worker"


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    log: Path
    job: Job | None = None
    rest: bytes = field(default=b"")


class LocalEngine:
    """Worker processes that stay from job to job, so that heavy imports happen once."""

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
    """Environment that gives each of some workers its share of the cores, so that they do not hinder each other."""
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


RAY_STOP_SECONDS = 120.0
"""So long a task may take to reach its next checkpoint."""


def perform_line(line: str) -> str:
    """Do a job on whatever node this is; both as lines of text, so that nodes need not agree on classes."""
    job = Job.of_line(line)
    try:
        return perform(job).line()
    except (Stopped, KeyboardInterrupt):
        return Outcome(job.run, "stopped", "Stopped between two checkpoints; it goes on from the last one.").line()


class RayEngine:
    """Ray tasks with resources; a task whose worker or node dies is reported as lost, and the driver retries it."""

    def __init__(self, address: str | None = None, cpus: float = 1, gpus: float = 0) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            raise UsageError("The engine ray needs Ray: pip install 'winning-tickets[ray]'.") from error
        if not self._ray.is_initialized():
            self._ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="warning")
            self._ours = True
        else:
            self._ours = False
        self._cpus, self._gpus = cpus, gpus
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(max(1, int(cpus))))
        # Retries are the driver's, which counts them and knows what other processes did meanwhile.
        self._task = self._ray.remote(perform_line).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=0, runtime_env={"env_vars": threads | _passed_on()}
        )
        self._jobs: dict[Any, Job] = {}
        if self._room() < 1:
            total = self._ray.cluster_resources()
            self.close()
            raise UsageError(
                f"A run needs {cpus:g} cores and {gpus:g} GPUs, and the Ray cluster has {total.get('CPU', 0):g} and "
                f"{total.get('GPU', 0):g}; lower --cpus or --gpus."
            )

    def free(self) -> int:
        """How many more tasks the living nodes have room for."""
        return max(0, self._room() - len(self._jobs))

    def _room(self) -> int:
        """Tasks that fit on all living nodes, each of which holds whole tasks only."""
        room = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                resources = node["Resources"]
                fits = int(resources.get("CPU", 0) // self._cpus) if self._cpus else len(self._jobs) + 1
                room += min(fits, int(resources.get("GPU", 0) // self._gpus)) if self._gpus else fits
        return room

    def start(self, job: Job) -> None:
        """Hand a job to the cluster."""
        self._jobs[self._task.remote(job.line())] = job

    def wait(self, seconds: float) -> list[Outcome]:
        """Outcomes of tasks that have ended."""
        if not self._jobs:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=seconds)
        return [self._outcome(reference) for reference in ready]

    def _outcome(self, reference: Any) -> Outcome:
        job = self._jobs.pop(reference)
        try:
            return Outcome.of_line(self._ray.get(reference))
        except self._ray.exceptions.TaskCancelledError:
            return Outcome(job.run, "stopped", "Stopped before it began.")
        except self._ray.exceptions.RayError as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            return Outcome(job.run, "lost", f"Its worker or node died: {first}")

    def stop(self) -> list[Outcome]:
        """Interrupt all tasks; those in training write a checkpoint."""
        for reference in list(self._jobs):
            self._ray.cancel(reference)
        outcomes: list[Outcome] = []
        end = time.monotonic() + RAY_STOP_SECONDS
        while self._jobs and time.monotonic() < end:
            outcomes += self.wait(1.0)
        self.close()
        return outcomes

    def close(self) -> None:
        """Leave the cluster, and end it where we started it."""
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()


def _passed_on() -> dict[str, str]:
    """Settings of this process that runs on other nodes need too."""
    names = ("HF_HUB_OFFLINE", "HF_HOME", "WINNING_TICKETS_CACHE")
    return {name: os.environ[name] for name in names if name in os.environ}


class EngineOptions(Settings):
    """How runs are spread.

    Attributes:
        workers: processes at a time, of `local`.
        address: of a Ray cluster; None starts one on this machine.
        cpus: processor cores of a run, of `ray`.
        gpus: GPUs of a run, of `ray`; may be a fraction.
    """

    workers: int = 1
    address: str | None = None
    cpus: float = 1
    gpus: float = 0


class Engine(Protocol):
    """Does jobs, several at a time."""

    def free(self) -> int:
        """How many more jobs may be started now."""

    def start(self, job: Job) -> None:
        """Begin a job; only where `free` is positive."""

    def wait(self, seconds: float) -> list[Outcome]:
        """Outcomes of jobs that have ended, after at most so long."""

    def stop(self) -> list[Outcome]:
        """Stop all jobs at their next checkpoint, and tell how they ended."""

    def close(self) -> None:
        """Let the workers go; no job runs."""


def _local(options: EngineOptions, store: Path) -> Engine:
    return LocalEngine(options.workers, store)


def _ray(options: EngineOptions, store: Path) -> Engine:
    return RayEngine(options.address, options.cpus, options.gpus)


ENGINES: dict[str, Callable[[EngineOptions, Path], Engine]] = {"local": _local, "ray": _ray}


def make_engine(name: str, options: EngineOptions, store: Path) -> Engine:
    """An engine of `ENGINES`."""
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    return ENGINES[name](options, store)
