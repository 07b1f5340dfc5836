"""ENGINES: who does the runs of a study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from winning_tickets.config import Settings
from winning_tickets.errors import unknown
from winning_tickets.study.engines.local import LocalEngine
from winning_tickets.study.engines.ray import RayEngine
from winning_tickets.study.jobs import Job, Outcome


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
    """An engine of `ENGINES`.

    Args:
        name: its key.
        options: how runs are spread.
        store: folder of the store, where workers leave their logs.

    Raises:
        UsageError: an unknown name, an impossible number of workers, or Ray is not installed.
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    return ENGINES[name](options, store)
