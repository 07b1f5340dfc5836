"""Benchmarks of studies and their store: not timed here, but each must measure what it says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from winning_tickets.runs.store.store import Store
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import plan_study
from winning_tickets.studies.status import study_status

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script():
    """Imports a benchmark; it is forgotten afterwards."""
    return importlib.import_module


def test_a_made_up_run_goes_through_all_parts_of_the_store(script, tmp_path):
    overhead = script("store_overhead")
    seconds = overhead.one_run(tmp_path / "store", "run-1", b"content")
    store = Store(tmp_path / "store")
    assert set(seconds) == set(overhead.PARTS)
    assert all(value > 0 for value in seconds.values())
    assert (store.status("run-1"), store.sealed("run-1")) == ("done", True)
    assert store.check("run-1").files == 4


def test_part_of_a_plan_is_filled_with_runs_that_count(script, tmp_path):
    planning, opening = script("study_plan"), script("report_open")
    plan = opening.plan_of(320)
    opening.fill(tmp_path / "store", planning.partly(plan))
    status = study_status(plan, Store(tmp_path / "store"))
    assert status["runs"] == len(plan.runs) == 320 + 40
    assert status["done"] == len(planning.partly(plan).points) == 240
    assert status["estimate"]["measured_runs"] == status["estimate"]["runs"] == status["runs"] - status["done"]


@pytest.mark.slow
def test_the_largest_recipe_has_over_a_thousand_runs(script):
    name = script("study_plan").largest("paper")
    assert len(plan_study(load_study(name), "paper").runs) > 1_000


def test_the_grid_of_the_workers_is_a_study(script):
    content = json.loads(json.dumps(script("workers").study(3, 5)))
    assert len(plan_study(load_study(content), "smoke").runs) == 2 + 2 * 2 * 3
