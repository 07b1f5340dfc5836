"""What each of several processes does that share one store: all runs of a study that nobody has done."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from winning_tickets.runs.store.store import Store
from winning_tickets.studies import worker
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import Plan, plan_study

WORD = "crowd"
"""In place of a verb."""
STUDY: dict[str, Any] = {
    "name": "crowd",
    "title": "Crowd",
    "scales": {"smoke": {"sparsity": 0.5}},
    "stages": {
        "search": {
            "verb": "search",
            "with": {
                "model": "tiny:bert",
                "corpus": "tiny:text",
                "sparsity": "${sparsity}",
                "segments": "packed:16",
                "batch_tokens": 64,
                "calibration_batches": 2,
            },
            "over": {"method": ["wanda"], "seed": [0, 1, 2, 3]},
        }
    },
}


def plan() -> Plan:
    """Four runs that need the same text, and nothing of each other."""
    study = STUDY
    return plan_study(load_study(study), "smoke", {})


def work(folder: str, log: str, seed: str) -> int:
    """Do what is left, in an order of one's own, until all is done.

    Args:
        folder: of the store.
        log: a file that gets a line for each run that is really executed.
        seed: of the order.
    """
    execute = worker.execute

    def noted(job: worker.Job, store: Store) -> None:
        with Path(log).open("a") as lines:
            lines.write(f"{job.run}\n")
        execute(job, store)

    worker.execute = noted
    left = [
        worker.Job(run.id, run.verb, run.config, folder, {"quiet": True, "device": "cpu"})
        for run in plan().runs.values()
    ]
    random.Random(seed).shuffle(left)
    while left:
        outcomes = {job.run: worker.perform(job) for job in left}
        failed = [outcome for outcome in outcomes.values() if outcome.kind not in ("done", "claimed")]
        if failed:
            raise AssertionError(failed)
        left = [job for job in left if outcomes[job.run].kind == "claimed"]
        time.sleep(0.02)
    return 0
