"""Runs as tasks of a Ray cluster; all nodes must see the store, and the data, under the same paths."""

from __future__ import annotations

import importlib
import os
import time
from typing import Any

from winning_tickets.errors import UsageError
from winning_tickets.study.jobs import Job, Outcome, Stopped, perform

STOP_SECONDS = 120.0
"""So long a task may take to reach its next checkpoint."""


def perform_line(line: str) -> str:
    """Do a job on whatever node this is; both as lines of text, so that nodes need not agree on classes."""
    job = Job.of_line(line)
    try:
        return perform(job).line()
    except (Stopped, KeyboardInterrupt):
        return Outcome(job.run, "stopped", "Stopped between two checkpoints; it goes on from the last one.").line()


class RayEngine:
    """Ray tasks with resources; a task whose worker or node dies is reported as lost, and the driver retries it.

    Args:
        address: of the cluster; None takes the one of RAY_ADDRESS, else starts one on this machine.
        cpus: processor cores of a run.
        gpus: GPUs of a run; may be a fraction.

    Raises:
        UsageError: Ray is not installed, or the cluster has no room for a run.
    """

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
        end = time.monotonic() + STOP_SECONDS
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
