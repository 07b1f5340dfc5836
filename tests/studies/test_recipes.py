"""Every recipe plans at every scale, and runs at `smoke` over one store: what several of them need is done once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from samples.study_samples import InlineEngine
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.load import load_study, recipe_names, recipe_text
from winning_tickets.studies.plan import plan_study
from winning_tickets.studies.report import report_study
from winning_tickets.studies.report.claims import judge_claim
from winning_tickets.studies.report.observations import gather_runs
from winning_tickets.studies.run import run_study

ROOT = Path(__file__).resolve().parents[2]
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
    scales = {"smoke", "small"} if name == "demo" else {"smoke", "small", "paper"}
    assert (study.name, set(study.scales)) == (name, scales)
    assert study.tables or study.figures
    assert (study.paper is None) == (name == "demo")
    assert study.shows
    for scale in scales:
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
    assert sorted(re.findall(r"^\| `(demo|[a-z]+-[a-z0-9-]+)` \|", page, re.MULTILINE)) == sorted(recipe_names())


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


@pytest.mark.parametrize(
    ("name", "steps"), [("tamt-figure-8", {0.7: 17000}), ("tamt-figure-17", {0.6: 14000, 0.7: 17000, 0.8: 20000})]
)
def test_the_masks_that_are_compared_are_those_of_the_main_results(name, steps):
    plan = plan_study(load_study(name), "paper")
    main = plan_study(load_study("tamt-figure-3"), "paper").runs
    similar = {point.axes["sparsity"]: plan.runs[point.run] for point in plan.points if point.stage == "similarity"}
    assert similar.keys() == steps.keys()
    for sparsity, run in similar.items():
        assert len(run.config["paths"]) == 10
        trained = [main[path.removeprefix("@")] for path in run.config["paths"][-6:]]
        assert {(one.settings.sparsity, one.settings.steps) for one in trained} == {(sparsity, steps[sparsity])}
        assert [one.settings.objective for one in trained] == ["mlm"] * 3 + ["kd"] * 3
    (small,) = plan_study(load_study("tamt-figure-8"), "small").stage_runs("similarity")
    assert small.startswith("analyse-similarity-")


@pytest.mark.parametrize("name", [f"super-tickets-{name}" for name in ("table-3", "table-4", "table-5", "table-8")])
def test_super_tickets_are_fine_tuned_as_in_their_paper(name):
    dropout = {"cola": 0.05, "mnli": 0.3}
    for scale, long in (("paper", (6.0, None, 1, 512)), ("small", (None, 200, None, None))):
        plan = plan_study(load_study(name), scale)
        found = [run.settings for run in plan.runs.values() if run.verb == "transfer"]
        assert found
        assert {(one.epochs, one.steps, one.patience, one.max_length) for one in found} == {long}
        for one in found:
            assert one.head_dropout == (dropout.get(one.task, 0.1) if scale == "paper" else None)


def test_the_importances_are_of_models_fine_tuned_as_in_the_paper():
    runs = plan_study(load_study("super-tickets-figure-6"), "paper").runs.values()
    found = {run.settings.task: run.settings for run in runs if run.verb == "transfer"}
    assert len(found) == 8
    assert {(one.epochs, one.patience, one.max_length) for one in found.values()} == {(6.0, 1, 512)}
    assert [found[task].head_dropout for task in ("rte", "cola", "mnli")] == [0.1, 0.05, 0.3]
    fewer = plan_study(load_study("super-tickets-figure-6"), "paper", {"tasks": ["rte", "mnli"]}).runs.values()
    assert {run.settings.task for run in fewer if run.verb == "transfer"} == {"rte", "mnli"}


def test_only_the_seed_varies_in_the_sensitivity_to_it():
    plan = plan_study(load_study("super-tickets-table-5"), "paper")
    settings = [plan.runs[run].settings.resolved() for run in plan.stage_runs("alone")]
    assert {(one.learning_rates, one.batch_sizes) for one in settings} == {((5e-5,), (32,))}


def verdicts(name, scale="smoke", **overrides):
    """The claims of a recipe, judged where no run is done yet."""
    plan = plan_study(load_study(name), scale, overrides)
    return {claim: judge_claim(plan.study, claim, gather_runs(plan, Store("no-store"))) for claim in plan.study.claims}


def steps_of(verdict):
    """The steps of the runs that a verdict rests on."""
    return {one.axes["step"] for cell in verdict.cells.values() for one in cell.observations}


@pytest.mark.parametrize(
    ("name", "claims", "steps"),
    [
        ("tamt-figure-6", ["mlm-over-imp", "kd-over-imp", "mlm-fewer-steps", "kd-fewer-steps"], 16752),
        ("tamt-figure-14", ["mlm-faster", "kd-faster"], 13960),
        ("tamt-figure-15", ["mlm-faster", "kd-faster"], 16752),
        ("tamt-figure-16", ["mlm-over-imp"], 19544),
    ],
)
def test_a_pace_is_compared_over_steps(name, claims, steps):
    """Both curves are whole; the claims compare them at equal steps, as far as both go."""
    study, found = load_study(name), verdicts(name, "paper")
    for claim in claims:
        assert study.claims[claim].comparison.along == "step"
        assert {25000, steps} <= steps_of(found[claim])


def test_the_final_results_are_those_after_the_last_step():
    assert steps_of(verdicts("tamt-figure-7", "paper")["mlm"]) == {25000}
    assert steps_of(verdicts("tamt-figure-7", "small", trained_steps=240)["kd"]) == {240}


def test_a_correlation_is_judged_across_sparsities_and_at_each():
    found = verdicts("tamt-figure-5", "paper")
    at = {name: verdict.finding.planned for name, verdict in found.items() if name.startswith("mlm-goes")}
    assert at == {"mlm-goes-with-score": 196, **{f"mlm-goes-with-score-{one}": 49 for one in (60, 70, 80)}}


@pytest.mark.parametrize(
    ("name", "claim", "scale", "planned"),
    [
        ("super-tickets-figure-4", "winning-over-full", "paper", 2 * 3 * 5 * 4),
        ("super-tickets-figure-7", "winning-over-full", "small", 3 * 3 * 3),
        ("super-tickets-figure-5", "winning-over-full", "paper", 3 * 5 * 4),
        ("bert-tickets-table-7", "universal", "paper", 50),
        ("bert-tickets-figure-9", "gain", "paper", 30),
        ("bert-tickets-figure-9", "no-more-than-marginal", "small", 6),
    ],
)
def test_findings_are_planned_as_pairs(name, claim, scale, planned):
    assert verdicts(name, scale)[claim].finding.planned == planned


def test_what_findings_leave_out():
    groups = {
        one.axes["group"]
        for cell in verdicts("bert-tickets-figure-9", "paper")["gain"].cells.values()
        for one in cell.observations
    }
    assert groups == {"MLM", "MLM+MNLI", "MLM+MNLI+QQP", "MLM+MNLI+QQP+SST-2"}
    for scale, constrained in (("paper", {67360, 8576, 88656}), ("small", {200}), ("smoke", {1})):
        cells = verdicts("bert-tickets-table-8", scale)["matches"].cells.values()
        assert {one.axes["examples"] for cell in cells for one in cell.observations} == {"all", *constrained}
