"""What is said while a study runs: how many are done, and how long the rest takes."""

from __future__ import annotations

import logging

import pytest

from samples.study_samples import little, planned
from winning_tickets.runs.store.store import Store
from winning_tickets.studies import run as progress_lines
from winning_tickets.studies.run import Progress, ProgressLines
from winning_tickets.studies.status import study_status
from winning_tickets.studies.worker import JobOutcome


@pytest.fixture
def watched(tmp_path, monkeypatch, caplog):
    """A plan; a function that says at a time how runs stand, and gives the line; and the estimates that were made."""
    caplog.set_level(logging.INFO, "winning_tickets")
    plan, made = planned(little()), []
    clock, took = [1000.0], [0.0]

    class Ten:
        """Ten seconds a run."""

        def __init__(self, plan, records, speed, gpus):
            pass

        def estimate(self, left, workers):
            made.append(list(left))
            clock[0] += took[0]
            return {"seconds": 10.0 * len(made[-1])}

    monkeypatch.setattr(progress_lines, "Estimator", Ten)
    monkeypatch.setattr(progress_lines.time, "monotonic", lambda: clock[0])
    lines = ProgressLines(plan, Store(tmp_path / "store"), 1)

    def line(seconds, estimating=0.0, **states):
        clock[0], took[0] = 1000.0 + seconds, estimating
        named = {run: state for state, runs in states.items() for run in runs}
        progress = Progress({run: named.get(run, "waiting") for run in plan.runs})
        lines(progress, next(iter(plan.runs.values())), JobOutcome("", "done"))
        return caplog.messages[-1].partition("]")[0] + "]"

    return plan, line, made


def test_time_goes_by_between_two_estimates(watched):
    plan, line, made = watched
    runs = list(plan.runs)
    assert line(0, 1, done=runs[:1]) == "[1/9 done, about 80 s left]"
    assert line(15, done=runs[:2]) == "[2/9 done, about 66 s left]"
    assert line(21, 2, done=runs[:8]) == "[8/9 done, about 10 s left]"  # 20 times what the first one took
    assert line(43, done=runs[:8]) == "[8/9 done, about 0 s left]"
    assert line(53, done=runs[:8]) == "[8/9 done, about 10 s left]"  # 30 seconds
    assert line(53, done=runs[:7]) == "[7/9 done, about 20 s left]"  # it took nothing
    assert [len(left) for left in made] == [8, 1, 1, 2]
    assert line(54, done=runs) == "[9/9 done]"


def test_blocked_runs_are_not_left(watched):
    plan, line, made = watched
    failed = plan.stage_runs("search")[0]  # of 9 runs 2 evaluations, the comparison and a fine-tuning need it
    assert line(0, failed=[failed]) == "[0/9 done, 1 failed, about 40 s left]"
    rest = list(made[0])
    assert line(1, failed=[failed], done=rest) == "[4/9 done, 1 failed]"


def test_blocked_runs_are_not_in_the_estimate_of_a_study(tmp_path):
    plan, store = planned(little()), Store(tmp_path / "store")
    for run in plan.stage_runs("search"):
        store.fail(run, "no luck")
    status = study_status(plan, store)
    assert (status["blocked"], status["estimate"]["runs"], status["estimate"]["seconds"]) == (7, 0, 0.0)
