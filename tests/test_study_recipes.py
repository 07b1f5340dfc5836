"""Every recipe at `smoke`, over one store: what several of them need is done once."""

from __future__ import annotations

import pytest

from study_samples import InlineEngine
from winning_tickets.store import Store
from winning_tickets.study.load import load_study, recipe_names
from winning_tickets.study.plan import plan_study
from winning_tickets.study.run import run_study


@pytest.fixture(scope="session")
def recipe_store(tmp_path_factory):
    """One store for all recipes of this process."""
    return Store(tmp_path_factory.mktemp("recipes") / "store")


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_runs(name, recipe_store):
    plan = plan_study(load_study(name), "smoke")
    known = {record.id for record in recipe_store.records(status="done")} if recipe_store.exists() else set()
    engine = InlineEngine()
    result = run_study(plan, recipe_store, engine)
    assert result["failed"] == {}
    assert result["done"] == len(plan.runs)
    assert set(engine.done) == set(plan.runs) - known
    for run in plan.runs:
        assert recipe_store.result(run)
