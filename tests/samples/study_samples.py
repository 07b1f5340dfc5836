"""Small studies, an engine that works in this process, and one that plays a script."""

from __future__ import annotations

from collections.abc import Callable

from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import plan_study
from winning_tickets.studies.worker import Job, JobOutcome, perform


def little(**changes):
    """A study of cheap runs: two searches, an evaluation of each ticket, a comparison, one fine-tuning each."""
    study = {
        "name": "little",
        "title": "Little",
        "scales": {"smoke": {"model": "tiny:bert", "sparsities": [0.5, 0.7], "tasks": ["rte"], "steps": 1}},
        "stages": {
            "search": {
                "verb": "search",
                "with": {"model": "${model}", "sparsity": "${sparsities}"},
                "over": {"method": ["magnitude", "random"]},
            },
            "evaluate": {
                "verb": "evaluate",
                "with": {
                    "target": "@search[sparsity]",
                    "corpus": "tiny:text",
                    "segments": "lines",
                    "max_tokens": 100,
                },
            },
            "compare": {"verb": "compare", "with": {"targets": ["@search[sparsity]"]}},
            "transfer": {
                "verb": "transfer",
                "with": {"target": "@search[sparsity=0.5]", "data_dir": "tiny:glue", "steps": "${steps}"},
                "over": {"task": "${tasks}", "seed": [0]},
            },
        },
    }
    return study | changes


def planned(study, scale="smoke", **overrides):
    """The plan of a study that is given as a mapping."""
    return plan_study(load_study(study), scale, overrides)


class InlineEngine:
    """Does each job at once, in this process."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.done: list[str] = []
        self.closed = False

    def free(self) -> int:
        return 1 - len(self.jobs)

    def start(self, job: Job) -> None:
        self.jobs.append(job)

    def wait(self, seconds: float) -> list[JobOutcome]:
        job = self.jobs.pop()
        self.done.append(job.run)
        return [perform(job)]

    def stop(self) -> list[JobOutcome]:
        stopped = [JobOutcome(job.run, "stopped") for job in self.jobs]
        self.jobs = []
        return stopped

    def close(self) -> None:
        self.closed = True


class ScriptedEngine(InlineEngine):
    """Ends each job as a function says; nothing is computed.

    Args:
        ending: from the job and how often it was started before to its outcome.
        slots: jobs at a time.
    """

    def __init__(self, ending: Callable[[Job, int], JobOutcome], slots: int = 2) -> None:
        super().__init__()
        self._ending = ending
        self._slots = slots

    def free(self) -> int:
        return self._slots - len(self.jobs)

    def wait(self, seconds: float) -> list[JobOutcome]:
        job = self.jobs.pop(0)
        before = self.done.count(job.run)
        self.done.append(job.run)
        return [self._ending(job, before)]
