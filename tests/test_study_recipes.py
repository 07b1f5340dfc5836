"""Every recipe plans at every scale, and runs at `smoke` over one store: what several of them need is done once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from study_samples import InlineEngine
from winning_tickets.report.study import report_study
from winning_tickets.store import Store
from winning_tickets.study.load import load_study, recipe_names, recipe_text
from winning_tickets.study.plan import plan_study
from winning_tickets.study.run import run_study

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("tamt-table-2", "bert-tickets-figure-10", "super-tickets-figure-6", "super-tickets-table-9")
"""Recipes that run in the default suite; the others do in the slow one."""


@pytest.fixture(scope="session")
def recipe_store(tmp_path_factory):
    """One store for all recipes of this process."""
    return Store(tmp_path_factory.mktemp("recipes") / "store")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in recipe_names()]
)
def test_a_recipe_runs_and_reports(name, recipe_store, tmp_path):
    plan = plan_study(load_study(name), "smoke")
    known = {record.id for record in recipe_store.records(status="done")} if recipe_store.exists() else set()
    engine = InlineEngine()
    result = run_study(plan, recipe_store, engine)
    assert result["failed"] == {}
    assert result["done"] == len(plan.runs)
    assert set(engine.done) == set(plan.runs) - known
    for run in plan.runs:
        assert recipe_store.result(run)
    report = report_study(plan, recipe_store, tmp_path / "report", ["md", "csv"])
    assert report["problems"] == []
    assert report["runs"] == {"done": len(plan.runs), "failed": 0, "missing": 0}


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_shows_something_of_what_it_plans(name):
    study = load_study(name)
    assert (study.name, set(study.scales)) == (name, {"smoke", "small", "paper"})
    assert study.tables or study.figures
    assert study.paper is not None
    assert study.shows
    for scale in ("smoke", "small", "paper"):
        plan = plan_study(study, scale)
        filled = {point.stage for point in plan.points}
        for shown in (*study.tables.values(), *study.figures.values()):
            stages = [shown.stage] if isinstance(shown.stage, str) else shown.stage
            assert set(stages) <= filled, f"{name} at {scale} shows stages without runs"


@pytest.mark.parametrize("name", [name for name in recipe_names() if "\npublished:" in recipe_text(name)])
def test_published_numbers_have_a_place(name, tmp_path):
    """Every number of a paper stands beside a cell of ours at the paper's scale."""
    study = load_study(name)
    report_study(plan_study(study, "paper"), Store(tmp_path / "none"), tmp_path / "report", ["csv"])
    for shown in {number.of for number in study.published}:
        kind = "table" if shown in study.tables else "figure"
        text = (tmp_path / "report" / f"{kind}-{shown}.csv").read_text(encoding="utf-8")
        head, *lines = (line.split(",") for line in text.splitlines())
        found = sum(line[head.index("published")] != "" for line in lines)
        assert found == sum(number.of == shown for number in study.published), shown


def test_the_docs_name_exactly_the_recipes():
    page = (ROOT / "docs/reference/recipes.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `([a-z]+-[a-z0-9-]+)` \|", page, re.MULTILINE)) == sorted(recipe_names())


def test_recipes_of_one_paper_share_their_runs():
    whole = set(plan_study(load_study("tamt-figure-3"), "paper").runs)
    # At 10 % sparsity the first figure has runs of its own.
    left = plan_study(load_study("tamt-figure-1"), "paper", {"sparsities": [0.2, 0.5, 0.9]})
    assert {name for name, run in left.runs.items() if run.verb != "evaluate"} <= whole
    first, sixth = (plan_study(load_study(f"super-tickets-{name}"), "paper") for name in ("table-1", "table-6"))
    assert first.runs.keys() == sixth.runs.keys()
    assert plan_study(load_study("super-tickets-figure-7"), "paper").runs.keys() < first.runs.keys()
    cross, same = (plan_study(load_study(f"bert-tickets-figure-{number}"), "paper") for number in (5, 11))
    assert set(same.stage_runs("imp")) == set(cross.stage_runs("imp"))
