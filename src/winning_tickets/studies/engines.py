"""Engines that do the runs of a study: local worker processes, Ray, and Slurm."""

from __future__ import annotations

import importlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from pydantic import Field

from winning_tickets.config import Settings
from winning_tickets.runs.errors import UsageError, unknown
from winning_tickets.studies.worker import Job, JobOutcome, perform, perform_or_stop, stop_worker

STOP_SECONDS = 120.0  # time for a worker to reach its next checkpoint
MAX_REQUEUES = 100  # how often a Slurm job may use up its time limit and resume
_PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME", "WINNING_TICKETS_CACHE")  # environment variables that other nodes need too


_PACKAGES = {"ray": ("ray", "Ray"), "slurm": ("submitit", "submitit")}


def _package(engine: str) -> Any:
    """Return the package of an engine, or refuse the engine if it is not installed."""
    module, name = _PACKAGES[engine]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(f"The engine {engine} needs {name}: pip install 'winning-tickets[{engine}]'.") from error


@dataclass
class _Worker:
    process: Any  # a Popen with pipes for stdin and stdout
    log: Path
    job: Job | None = None


class LocalEngine:
    """Worker processes that each do many jobs, so that heavy imports happen once; logs go to `logs/` of the store."""

    def __init__(self, workers: int, store: Path) -> None:
        if workers < 1:
            raise UsageError(f"--workers {workers} is impossible; it must be at least 1.")
        self._count = workers
        self._logs = store / "logs"
        self._workers: dict[int, _Worker] = {}
        self._lines: queue.Queue[tuple[int, _Worker, bytes]] = queue.Queue()  # lines of workers; empty at their end

    def free(self) -> int:
        return self._count - sum(worker.job is not None for worker in self._workers.values())

    def start(self, job: Job) -> None:
        place = next(
            place for place in range(self._count) if place not in self._workers or self._workers[place].job is None
        )
        worker = self._workers.get(place)
        if worker is None or worker.process.poll() is not None:
            worker = self._workers[place] = self._spawn(place)
            threading.Thread(target=self._listen, args=(place, worker), daemon=True).start()
        worker.job = job
        with suppress(BrokenPipeError):  # the worker has just died; `wait` reports it
            worker.process.stdin.write(job.line().encode() + b"\n")
            worker.process.stdin.flush()

    def wait(self, seconds: float) -> list[JobOutcome]:
        try:
            found = [self._lines.get(timeout=seconds)]
        except queue.Empty:
            return []
        with suppress(queue.Empty):
            while True:
                found.append(self._lines.get_nowait())
        return [one for place, worker, line in found for one in self._read(place, worker, line)]

    def stop(self) -> list[JobOutcome]:
        for worker in self._workers.values():
            if worker.job is not None:
                with suppress(OSError):  # closing the pipe stops the worker, because Windows has no SIGTERM
                    worker.process.stdin.close()
        try:
            return _wait_for_all(self, lambda: any(worker.job for worker in self._workers.values()))
        finally:
            self.close()

    def close(self) -> None:
        workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            if worker.job is not None:
                worker.process.kill()
            with suppress(BrokenPipeError):
                worker.process.stdin.close()
        for worker in workers:
            worker.process.wait()
            worker.process.stdout.close()

    def _read(self, place: int, worker: _Worker, line: bytes) -> list[JobOutcome]:
        if self._workers.get(place) is not worker:
            return []  # the worker was dismissed
        if not line.endswith(b"\n"):
            worker, code = self._dismiss(place)
            if worker.job is None:
                return []
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            message = f"Its worker died ({how}); its last output is in {worker.log}."
            return [JobOutcome(worker.job.run, "lost", message)]
        worker.job = None
        outcome = JobOutcome.of_line(line.decode())
        if outcome.kind == "stopped":
            self._dismiss(place)  # the worker ends and does no more jobs
        return [outcome]

    def _dismiss(self, place: int) -> tuple[_Worker, int]:
        """Wait for a worker to end, and return it with its exit code."""
        worker = self._workers.pop(place)
        with suppress(BrokenPipeError):
            worker.process.stdin.close()
        code = worker.process.wait()
        worker.process.stdout.close()
        return worker, code

    def _spawn(self, place: int) -> _Worker:
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"worker-{place + 1}.log"
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "winning_tickets.studies.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | threads_of(self._count) | gpu_of(place),
                start_new_session=True,  # Ctrl-C in the terminal reaches the driver alone
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
            )
        return _Worker(process, log)

    def _listen(self, place: int, worker: _Worker) -> None:
        """Pass on the lines that a worker writes, then an empty one when it has ended."""
        with suppress(OSError, ValueError):  # the pipe may be closed while it is read
            for line in worker.process.stdout:
                self._lines.put((place, worker, line))
        self._lines.put((place, worker, b""))


def threads_of(workers: int, cores: int | None = None) -> dict[str, str]:
    """Return the environment variables that give each worker its share of the cores."""
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // workers)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        threads = min(threads, int(asked))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) | {"TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"}


def gpu_of(place: int) -> dict[str, str]:
    """Return the environment variable that gives a worker one of several GPUs; empty with fewer than two."""
    visible: Any = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        names = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    else:
        names = [name.strip() for name in visible.split(",") if name.strip()]
    return {"CUDA_VISIBLE_DEVICES": names[place % len(names)]} if len(names) > 1 else {}


class InlineEngine:
    """Does each run in this process, for small studies; a signal stops the study at the next checkpoint of the run."""

    def __init__(self) -> None:
        self._job: Job | None = None

    def free(self) -> int:
        return int(self._job is None)

    def start(self, job: Job) -> None:
        self._job = job

    def wait(self, seconds: float) -> list[JobOutcome]:
        job, self._job = self._job, None
        return [] if job is None else [perform(job)]

    def stop(self) -> list[JobOutcome]:
        return []

    def close(self) -> None:
        pass


def perform_line(line: str) -> str:
    """Do a job on a node; jobs and outcomes are text, so that nodes need not share classes."""
    return perform_or_stop(Job.of_line(line)).line()


class RayEngine:
    """Ray tasks; a task whose worker or node dies is lost, and the driver retries it."""

    def __init__(self, address: str | None = None, cpus: float = 1, gpus: float = 0) -> None:
        self._ray = _package("ray")
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="warning")
        self._cpus, self._gpus = cpus, gpus
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(max(1, int(cpus))))
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        # Ray does not retry: the driver does, as it counts attempts and knows the progress of other processes.
        self._task = self._ray.remote(perform_line).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=0, runtime_env={"env_vars": threads | passed_on}
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
        return max(0, self._room() - len(self._jobs))

    def _room(self) -> int:
        room = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                resources = node["Resources"]
                fits = int(resources.get("CPU", 0) // self._cpus) if self._cpus else len(self._jobs) + 1
                room += min(fits, int(resources.get("GPU", 0) // self._gpus)) if self._gpus else fits
        return room

    def start(self, job: Job) -> None:
        self._jobs[self._task.remote(job.line())] = job

    def wait(self, seconds: float) -> list[JobOutcome]:
        if not self._jobs:
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=seconds)
        return [self._outcome(reference) for reference in ready]

    def _outcome(self, reference: Any) -> JobOutcome:
        job = self._jobs.pop(reference)
        try:
            return JobOutcome.of_line(self._ray.get(reference))
        except self._ray.exceptions.TaskCancelledError:
            return JobOutcome(job.run, "stopped", "Stopped before it began.")
        except self._ray.exceptions.RayError as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            return JobOutcome(job.run, "lost", f"Its worker or node died: {first}")

    def stop(self) -> list[JobOutcome]:
        for reference in list(self._jobs):
            self._ray.cancel(reference)
        outcomes = _wait_for_all(self, lambda: bool(self._jobs))
        self.close()
        return outcomes

    def close(self) -> None:
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()


class SlurmJob:
    """A run as a Slurm job; before its time limit, the job writes a checkpoint and is queued again."""

    def __init__(self, cpus: int) -> None:
        self._cpus = cpus

    def __call__(self, line: str) -> str:
        os.environ.update(threads_of(1, self._cpus))
        number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        requeue = signal.getsignal(number)
        asked: list[int] = []

        def stop(number: int, frame: Any) -> None:
            asked.append(number)
            signal.raise_signal(signal.SIGTERM)

        signal.signal(signal.SIGTERM, stop_worker)
        signal.signal(number, stop)
        outcome = perform_or_stop(Job.of_line(line))
        if outcome.kind == "stopped" and asked and callable(requeue):
            requeue(number, None)  # submitit's handler calls `checkpoint` and ends this process
        return outcome.line()

    def checkpoint(self, line: str) -> Any:
        """Return the same job for submitit to submit again; it resumes the run."""
        return importlib.import_module("submitit").helpers.DelayedSubmission(self, line)


class SlurmEngine:
    """Slurm jobs, submitted by submitit as arrays; a job whose node dies is lost, and the driver retries it."""

    def __init__(self, options: EngineOptions, store: Path) -> None:
        submitit = _package("slurm")
        if options.gpus % 1 or options.cpus % 1 or options.cpus < 1:
            raise UsageError("The engine slurm needs whole numbers of --cpus and --gpus.")
        self._options, self._cluster = options, options.slurm.get("cluster", "slurm")
        self._make: Callable[..., Any] = submitit.AutoExecutor
        self._folder = (store / "logs" / "slurm").absolute()
        self._executor: Any = None
        self._job = SlurmJob(int(options.cpus))
        self._waiting: list[Job] = []
        self._jobs: dict[Any, Job] = {}
        with TemporaryDirectory() as folder:  # the store may not exist yet
            self._make_executor(folder)

    def _make_executor(self, folder: Path | str) -> Any:
        options = self._options
        given = {key.replace("-", "_"): value for key, value in options.slurm.items() if key != "cluster"}
        often = {"slurm_max_num_timeout": MAX_REQUEUES, "local_max_num_timeout": MAX_REQUEUES}
        try:
            executor = self._make(folder=folder, cluster=self._cluster, **often)
            executor.update_parameters(
                name="tickets",
                timeout_min=options.walltime,
                cpus_per_task=int(options.cpus),
                gpus_per_node=int(options.gpus),
                slurm_array_parallelism=options.workers,
                slurm_signal_delay_s=int(STOP_SECONDS),
                **{f"slurm_{key}": value for key, value in given.items()},
            )
        except (RuntimeError, ValueError, TypeError, NameError) as error:
            raise UsageError(f"The engine slurm cannot be used: {error}") from error
        return executor

    def free(self) -> int:
        return self._options.workers - len(self._jobs) - len(self._waiting)

    def start(self, job: Job) -> None:
        self._waiting.append(job)  # `wait` submits all waiting jobs together

    def wait(self, seconds: float) -> list[JobOutcome]:
        self._submit()
        end = time.monotonic() + seconds
        while not (done := [one for one in self._jobs if one.done()]) and time.monotonic() < end:
            time.sleep(min(seconds, 0.2))
        return [self._outcome(one) for one in done]

    def _submit(self) -> None:
        jobs, self._waiting = self._waiting, []
        if not jobs:
            return
        if self._executor is None:
            self._executor = self._make_executor(self._folder)
        try:
            with self._executor.batch():
                submitted = [self._executor.submit(self._job, job.line()) for job in jobs]
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            raise UsageError(f"Slurm refused the jobs: {str(error).strip()}") from error
        self._jobs |= dict(zip(submitted, jobs, strict=True))

    def _outcome(self, submitted: Any) -> JobOutcome:
        job = self._jobs.pop(submitted)
        try:
            return JobOutcome.of_line(submitted.result())
        except Exception as error:  # the job's error, of any class
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            return JobOutcome(job.run, "lost", f"Its job died: {last} Its output is in {submitted.paths.stderr}.")

    def stop(self) -> list[JobOutcome]:
        outcomes = [JobOutcome(job.run, "stopped", "Stopped before it was submitted.") for job in self._waiting]
        self._waiting = []
        self._cancel()
        return outcomes + _wait_for_all(self, lambda: bool(self._jobs))

    def _cancel(self) -> None:
        """Send SIGTERM to all jobs; Slurm's `KillWait` gives them time for a checkpoint."""
        for submitted in self._jobs:
            if self._cluster == "slurm":
                submitted.cancel(check=False)
            elif self._cluster == "local":
                with suppress(ProcessLookupError):
                    os.kill(int(submitted.job_id), signal.SIGTERM)

    def close(self) -> None:
        self._cancel()


class EngineOptions(Settings):
    """Resources of an engine: jobs at a time (`local`, `slurm`), cores and GPUs of a run (`ray`, `slurm`), and more."""

    workers: int = 1
    address: str | None = None  # address of the Ray cluster
    cpus: float = 1  # only Ray allows fractions of cores and GPUs
    gpus: float = 0
    walltime: int = 240  # time limit of a Slurm job, in minutes
    slurm: dict[str, str] = Field(default_factory=dict)  # parameters of sbatch, such as `partition`


class Engine(Protocol):
    """Does several jobs at a time."""

    def free(self) -> int:
        """Return how many more jobs may be started now."""

    def start(self, job: Job) -> None:
        """Start a job; `free` must be positive."""

    def wait(self, seconds: float) -> list[JobOutcome]:
        """Return the outcomes of jobs that have ended; wait for one at most `seconds`."""

    def stop(self) -> list[JobOutcome]:
        """Stop all jobs at their next checkpoint, and return their outcomes."""

    def close(self) -> None:
        """End the workers; no job is running."""


def _wait_for_all(engine: Engine, is_busy: Callable[[], bool]) -> list[JobOutcome]:
    outcomes: list[JobOutcome] = []
    end = time.monotonic() + STOP_SECONDS
    while is_busy() and time.monotonic() < end:
        outcomes += engine.wait(1.0)
    return outcomes


ENGINES: dict[str, Callable[[EngineOptions, Path], Engine]] = {
    "local": lambda options, store: LocalEngine(options.workers, store),
    "ray": lambda options, store: RayEngine(options.address, options.cpus, options.gpus),
    "slurm": SlurmEngine,
}


def check_engine(name: str) -> None:
    """Refuse a name that is not in `ENGINES`, and an engine whose package is not installed."""
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if name in _PACKAGES:
        _package(name)


def make_engine(name: str, options: EngineOptions, store: Path) -> Engine:
    """Return a new engine by its name in `ENGINES`; workers write their logs into the store."""
    check_engine(name)
    return ENGINES[name](options, store)
