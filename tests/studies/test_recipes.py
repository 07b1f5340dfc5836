"""Every recipe plans at every scale, and runs at `smoke` over one store: what several of them need is done once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from samples.recipes import RECIPES, planned, recipe
from samples.study_samples import InlineEngine
from winning_tickets.config import SearchConfig
from winning_tickets.models.architectures import join_parts
from winning_tickets.report.costs import cost_of, size_of
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.estimates import Estimator
from winning_tickets.studies.load import recipe_names
from winning_tickets.studies.needs import list_problems
from winning_tickets.studies.plan import plan_study
from winning_tickets.studies.report import report_files, report_study
from winning_tickets.studies.report.claims import judge_claim
from winning_tickets.studies.report.observations import gather_runs
from winning_tickets.studies.run import run_study
from winning_tickets.studies.text import recipe_list
from winning_tickets.tickets.ticket import Ticket

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
    plan = plan_study(recipe(name), "smoke")
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
    _check_estimate(plan, recipe_store)


def _check_estimate(plan, store):
    """Steps are exact and bytes within a factor of two, but for what depends on the size of the tasks' data."""
    for run in plan.runs.values():
        if run.verb != "search" or run.settings.method == "importance":
            continue
        folder, cost = store.folder(run.id), cost_of(run.settings, size_of("tiny:bert"))
        log = folder / "metrics.jsonl"
        assert cost.steps == (len(log.read_text().splitlines()) if log.exists() else 0), run.id
        kept = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        estimate = Estimator(plan, {}).estimate([run.id], 1)["bytes"]
        assert kept / 2 < estimate < 2 * kept, run.id


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_shows_something_of_what_it_plans_and_is_listed(name):
    """Where the list is not current, run `make reference`; seconds of large plans are not compared, to save time."""
    study, listed = recipe(name), next(one for one in recipe_list() if one["name"] == name)
    scales = ["smoke", "small"] if name == "demo" else ["smoke", "small", "paper"]
    assert (study.name, study.scale_names, list(listed["scales"])) == (name, scales, scales)
    assert study.tables or study.figures
    assert (study.paper is None) == (name == "demo")
    assert study.shows
    texts = ("title", "paper", "shows", "needs")
    assert [listed[key] for key in texts] == [getattr(study, key) for key in texts]
    assert listed["published"] == len(study.published)
    for scale, costs in listed["scales"].items():
        plan = planned(name, scale)
        filled = {point.stage for point in plan.points}
        for shown in (*study.tables.values(), *study.figures.values()):
            stages = [shown.stage] if isinstance(shown.stage, str) else shown.stage
            assert set(stages) <= filled, f"{name} at {scale} shows stages without runs"
        assert costs["runs"] == len(plan.runs)
        if len(plan.runs) < 50:
            estimate = Estimator(plan, {}).estimate(plan.runs, 1)
            assert costs["bytes"] == estimate["bytes"]
            assert costs["hours"] == estimate["hours"]
    if study.published:
        check_published(study, planned(name, "paper"))


def check_published(study, plan):
    """Every number of a paper stands beside a cell of ours at the paper's scale."""
    files, _ = report_files(plan, Store("no-store"), ["csv"])
    for shown in {number.of for number in study.published}:
        kind = "table" if shown in study.tables else "figure"
        head, *lines = (line.split(",") for line in files[f"{kind}-{shown}.csv"].decode().splitlines())
        found = sum(line[head.index("published")] != "" for line in lines)
        assert found == sum(number.of == shown for number in study.published), shown


def test_the_docs_name_exactly_the_recipes():
    page = (ROOT / "docs/reference/recipes.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(demo|[a-z]+-[a-z0-9-]+)` \|", page, re.MULTILINE)) == sorted(recipe_names())


def test_recipes_of_one_paper_share_their_runs():
    whole = set(planned("tamt-figure-3", "paper").runs)
    # At 10 % sparsity the first figure has runs of its own.
    left = plan_study(recipe("tamt-figure-1"), "paper", {"sparsities": [0.2, 0.5, 0.9]})
    assert {name for name, run in left.runs.items() if run.verb != "evaluate"} <= whole
    first, sixth = (planned(f"super-tickets-{name}", "paper") for name in ("table-1", "table-6"))
    assert first.runs.keys() == sixth.runs.keys()
    every = {"selections": ["winning", "random", "losing"]}
    shared = plan_study(recipe("super-tickets-table-1"), "paper", every)
    assert planned("super-tickets-figure-7", "paper").runs.keys() < shared.runs.keys()
    cross, same = (planned(f"bert-tickets-figure-{number}", "paper") for number in (5, 11))
    assert set(cross.stage_runs("imp")) < set(same.stage_runs("imp"))  # three runs and five


@pytest.mark.parametrize(
    ("name", "steps"), [("tamt-figure-8", {0.7: 17000}), ("tamt-figure-17", {0.6: 14000, 0.7: 17000, 0.8: 20000})]
)
def test_the_masks_that_are_compared_are_those_of_the_main_results(name, steps):
    plan = planned(name, "paper")
    main = planned("tamt-figure-3", "paper").runs
    similar = {point.axes["sparsity"]: plan.runs[point.run] for point in plan.points if point.stage == "similarity"}
    assert similar.keys() == steps.keys()
    for sparsity, run in similar.items():
        assert len(run.config["paths"]) == 10
        trained = [main[path.removeprefix("@")] for path in run.config["paths"][-6:]]
        assert {(one.settings.sparsity, one.settings.steps) for one in trained} == {(sparsity, steps[sparsity])}
        assert [one.settings.objective for one in trained] == ["mlm"] * 3 + ["kd"] * 3
    (small,) = planned("tamt-figure-8", "small").stage_runs("similarity")
    assert small.startswith("analyse-similarity-")


@pytest.mark.parametrize("name", [f"super-tickets-{name}" for name in ("table-3", "table-4", "table-5", "table-8")])
def test_super_tickets_are_fine_tuned_as_in_their_paper(name):
    dropout = {"cola": 0.05, "mnli": 0.3}
    for scale, long in (("paper", (6.0, None, "epoch", 512)), ("small", (None, 200, None, None))):
        plan = planned(name, scale)
        found = [run.settings for run in plan.runs.values() if run.verb == "transfer"]
        assert found
        assert {(one.epochs, one.steps, one.eval_steps, one.max_length) for one in found} == {long}
        for one in found:
            assert one.head_dropout == (dropout.get(one.task, 0.1) if scale == "paper" else None)


def test_the_importances_are_of_models_fine_tuned_as_in_the_paper():
    runs = planned("super-tickets-figure-6", "paper").runs.values()
    found = {run.settings.task: run.settings for run in runs if run.verb == "transfer"}
    assert len(found) == 8
    assert len([run for run in runs if run.verb == "transfer"]) == 24  # three seeds of each task
    assert {(one.epochs, one.eval_steps, one.max_length) for one in found.values()} == {(6.0, "epoch", 512)}
    assert [found[task].head_dropout for task in ("rte", "cola", "mnli")] == [0.1, 0.05, 0.3]
    fewer = plan_study(recipe("super-tickets-figure-6"), "paper", {"tasks": ["rte", "mnli"]}).runs.values()
    assert {run.settings.task for run in fewer if run.verb == "transfer"} == {"rte", "mnli"}


def test_files_of_the_authors_are_read_where_they_are_given(recipe_store, tmp_path):
    """A file in the form of the authors' code takes the place of our own masks."""
    given = {f"masks_{name.lower()}": f"{tmp_path}/{name}/mask.pt" for name in ("MLM", "KD")}
    plan = plan_study(recipe("tamt-released-masks"), "smoke", given)
    imported = {point.axes["objective"]: plan.runs[point.run] for point in plan.points if point.stage == "imported"}
    assert {name: run.settings.file for name, run in imported.items()} == {
        name: f"{tmp_path}/{name}/mask.pt" for name in ("MLM", "KD")
    }
    assert [line.split(":")[0] for line in list_problems(plan, lambda run: False)] == [
        f"{name}={path}" for name, path in given.items()
    ]
    # The file of MLM has the form of TAMT's mask training, and masks unlike ours; that of KD the form of its pruning.
    assert run_study(plan_study(recipe("tamt-released-masks"), "smoke"), recipe_store, InlineEngine())["failed"] == {}
    masks = join_parts(Ticket.from_pretrained(recipe_store.folder(plan.stage_runs("ours")[1])).masks)
    for name, path in given.items():
        Path(path).parent.mkdir()
        torch.save({f"bert.{one}": mask.flip(0) for one, mask in masks.items()}, path)
        if name == "masks_kd":
            torch.save({f"bert.{one}_mask": mask.float() for one, mask in masks.items()}, path)
    assert run_study(plan, recipe_store, InlineEngine())["failed"] == {}
    alike = [recipe_store.result(run) for run in plan.stage_runs("alike")]
    assert [one["sparsity"][0] for one in alike] == [one["sparsity"][1] for one in alike]
    assert alike[0]["kept_jaccard"][0][1] < 0.5
    assert alike[1]["kept_jaccard"][0][1] == 1


def test_only_the_seed_varies_in_the_sensitivity_to_it():
    plan = planned("super-tickets-table-5", "paper")
    settings = [plan.runs[run].settings.resolved() for run in plan.stage_runs("alone")]
    assert {(one.learning_rates, one.batch_sizes) for one in settings} == {((5e-5,), (32,))}


def verdicts(name, scale="smoke", **overrides):
    """The claims of a recipe, judged where no run is done yet."""
    plan = plan_study(recipe(name), scale, overrides) if overrides else planned(name, scale)
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
    study, found = recipe(name), verdicts(name, "paper")
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
        ("super-tickets-figure-4", "winning-over-full", "paper", 2 * (2 * 5 + 3) * 4),
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


SCALES = ("smoke", "miniature", "small", "paper")


def settings_of(name, scale, verb):
    """The settings of all runs of a verb."""
    return [run.settings for run in planned(name, scale).runs.values() if run.verb == verb]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", [f"tamt-figure-{number}" for number in (1, 5, 12, 13)])
def test_losses_that_are_compared_are_measured_in_one_way(name, scale):
    found = settings_of(name, scale, "evaluate")
    assert found
    assert {one.mlm_head for one in found} == {"base"}
    assert {one.segments for one in found} == {
        {"smoke": "packed:64", "miniature": "packed:128"}.get(scale, "packed:512")
    }


@pytest.mark.parametrize("scale", SCALES)
def test_searches_of_one_figure_have_equal_numbers_of_steps(scale):
    found = settings_of("bert-tickets-figure-9", scale, "search")
    assert len({(one.round_steps, one.round_examples, one.sparsity) for one in found}) == 1
    assert found[0].round_steps is not None


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("tamt")])
def test_the_rate_of_imp_is_that_of_two_epochs_unless_its_series_says_otherwise(name):
    plan = planned(name, "paper")
    for point in plan.points:
        settings = plan.runs[point.run].settings
        if plan.runs[point.run].verb != "search" or settings.method != "imp" or point.stage == "pretraining":
            continue
        wanted = {
            "IMP": ("paper", "total", 2, None),
            "IMP (rate per round)": ("paper", "round", None, None),
            "IMP (released code)": ("code", "round", 2, None),
        }
        assert (settings.profile, settings.rate_horizon, settings.schedule_passes, settings.rewind) == wanted[
            point.axes["method"]
        ]


def test_scores_are_ranked_as_equation_3_and_as_the_released_code_say():
    """TAMT, eq. 3: an entry is kept that reaches the threshold, at every step; the code: every 1,000 or 100 steps."""
    plan = plan_study(recipe("tamt-figure-3"), "paper", {"released_code": True})
    found = {}
    for point in plan.points:
        run = plan.runs[point.run]
        if run.verb == "search" and run.settings.method == "mask-training":
            settings = run.settings.resolved()
            chosen = (settings.rank_by, settings.reselect_steps, settings.teacher_dropout)
            found.setdefault(point.axes["method"], set()).add(chosen)
    assert found == {
        "TAMT-MLM": {("signed", 1, False)},
        "TAMT-KD": {("signed", 1, False)},
        "TAMT-MLM+KD": {("signed", 1, False)},
        "TAMT-MLM (released code)": {("signed", 1000, False)},
        "TAMT-KD (released code)": {("signed", 100, True)},
    }
    released = {
        point.axes["method"]: plan.runs[point.run].settings.resolved() for point in plan.points if point.stage == "imp"
    }
    assert {name: one.rewind for name, one in released.items()} == {
        "IMP": "pretrained",
        "IMP (rate per round)": "pretrained",
        "IMP (released code)": "none",
    }


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("bert")])
def test_a_run_of_imp_is_a_search_and_a_fine_tuning_with_one_seed(name):
    plan = planned(name, "paper")
    for point in plan.points:
        run = plan.runs[point.run]
        target = run.config.get("target", "")
        if run.verb == "transfer" and target.startswith("@search-imp"):
            assert (plan.runs[target[1:].split("/")[0]].settings.seed,) == run.settings.seeds
    seeds = {run.settings.seed for run in plan.runs.values() if run.verb == "search" and run.settings.method == "imp"}
    assert seeds == set(plan.parameters["seeds"])


def test_few_examples_are_adapted_to_with_the_grid_of_the_paper():
    plan = planned("super-tickets-table-4", "paper")
    grids = {}
    for run in (plan.runs[one] for one in plan.stage_runs("adapted")):
        settings = run.settings
        grids.setdefault(settings.train_size, set()).add((settings.learning_rate, settings.batch_size))
    assert {size: len(grid) for size, grid in grids.items()} == {"0.1%": 9, "1%": 9, "10%": 1, "100%": 1}
    assert {rate for rate, _ in grids["0.1%"]} == {5e-5, 1e-4, 5e-4}


def test_three_trials_of_mnli_in_the_phase_transition():
    plan = planned("super-tickets-figure-4", "paper")
    seeds = {}
    for point in plan.points:
        if point.stage == "phases" and point.axes["plm"] == "BASE":
            seeds.setdefault(point.axes["task"], set()).add(point.axes["seed"])
    assert {task: len(own) for task, own in seeds.items()} == {"rte": 5, "sst2": 5, "mnli": 3}


@pytest.mark.parametrize("name", RECIPES)
def test_a_miniature_has_the_profile_the_stages_and_the_series_of_the_paper(name):
    """Labels of axes are those of the paper, or fewer, but for numbers of steps."""
    small, paper = planned(name, "miniature"), planned(name, "paper")
    assert small.parameters.get("profile") == paper.parameters.get("profile")
    assert small.parameters.keys() == paper.parameters.keys()
    found, wanted = ({point.stage for point in plan.points} for plan in (small, paper))
    assert found == wanted
    for stage in found:
        ours, theirs = (_labels(plan, stage) for plan in (small, paper))
        assert ours.keys() == theirs.keys()
        for axis in set(ours) - {"step"}:
            assert ours[axis] <= theirs[axis]
            names = {one for one in theirs[axis] if isinstance(one, str)}
            if axis not in ("task", "source", "seed", "size", "train_size"):
                assert {one for one in ours[axis] if isinstance(one, str)} == names, axis
            assert len(ours[axis]) >= min(2, len(theirs[axis])) or axis in ("task", "batch_size"), axis


def _labels(plan, stage):
    found = {}
    for point in plan.points:
        for axis, value in point.axes.items() if point.stage == stage else ():
            found.setdefault(axis, set()).add(value)
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_workers_make_the_settings_that_are_planned(name):
    """It has only the fields that the plan keeps. IMP of TAMT ranks inside each matrix, that of Chen et al. in all."""
    for run in planned(name, "paper").runs.values():
        if run.verb == "search":
            assert SearchConfig.of(**run.config) == run.settings
            if run.settings.method == "imp":
                assert run.settings.ranking == ("matrix" if name.startswith("tamt") else "global")


@pytest.mark.parametrize("name", RECIPES)
def test_a_miniature_has_pairs_for_every_claim(name):
    assert [claim for claim, verdict in verdicts(name, "miniature").items() if not verdict.finding.planned] == []


def test_text_is_a_target_of_the_tasks_tables_and_transfer_figures():
    """It is the text of the search, and fine-tuning on it has as many steps as one of its rounds."""
    rows = {"table-4": 5, "table-5": 10, "figure-5": 13, "figure-6": 13, "figure-7": 6, "figure-8": 6, "figure-11": 10}
    for name, count in rows.items():
        plan = planned(f"bert-tickets-{name}", "paper")
        points = [point for point in plan.points if plan.runs[point.run].config.get("task") == "mlm"]
        settings = [plan.runs[point.run].settings for point in points]
        assert {(one.corpus, one.steps) for one in settings} == {("wikipedia:20231101.en", 10_000)}
        axes = {frozenset((key, value) for key, value in point.axes.items() if key != "seed") for point in points}
        assert {point.axes["task"] for point in points} == {"mlm"}
        assert len(axes) >= count, name


def test_a_search_on_fewer_examples_has_fewer_segments_and_rounds_of_equal_length():
    plan = planned("bert-tickets-table-8", "paper")
    found = {
        (run.settings.train_size, run.settings.round_steps, run.settings.round_examples)
        for run in plan.runs.values()
        if run.verb == "search" and run.settings.objective == "mlm"
    }
    assert found == {(size, None, 160_000) for size in ("8576", "67360", "88656", "160000")}
