"""Settings chosen for each arm of a stage, and shares of the dense model above chance."""

from __future__ import annotations

import pytest

from winning_tickets.runs.errors import UsageError
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import plan_study
from winning_tickets.studies.report.chosen import choice_grids, keep_chosen
from winning_tickets.studies.report.grids import table_grid
from winning_tickets.studies.report.observations import StudyRun

STUDY = {
    "name": "s",
    "title": "S",
    "scales": {"small": {}},
    "stages": {
        "scores": {
            "verb": "transfer",
            "with": {"target": "m", "task": "rte"},
            "over": {"start_from": ["pretrained", "reinit"], "seed": [0, 1]},
            "choose": {"among": {"learning_rate": [1e-4, 2e-4]}, "select_on": 0.25},
        },
        "dense": {"verb": "transfer", "with": {"target": "m", "task": "rte", "learning_rate": 1e-4, "seeds": [0, 1]}},
    },
    "tables": {
        "t": {"stage": "scores", "rows": ["start_from"]},
        "shares": {
            "stage": "scores",
            "rows": ["start_from"],
            "share_of": {"stage": "dense"},
        },
    },
}  # fmt: skip


def runs_of(selecting, rest):
    """Finished runs with these scores by start, rate and seed; those without a score failed or are not there."""
    found = []
    for start in ("pretrained", "reinit"):
        for rate in (1e-4, 2e-4):
            for seed in (0, 1):
                axes = {"start_from": start, "seed": seed, "learning_rate": rate}
                name, status = f"{start}-{rate}-{seed}", selecting[start, rate]
                result = None
                if not isinstance(status, str):
                    values = {
                        "final_selection": {"values": [status]},
                        "final": {"values": [rest[start, rate] + seed / 100]},
                    }
                    result = {"metrics": {"accuracy": values}, "primary_metric": "accuracy", "seeds": [seed]}
                    result |= {
                        "constant": {"accuracy": 0.5},
                        "majority": 0.5,
                        "degenerate": False,
                        "learning_rate": rate,
                    }
                    status = "done"
                found.append(StudyRun(name, "scores", "transfer", axes, status=status, result=result))
    final = {"metrics": {"accuracy": {"final": {"values": [0.9, 0.91]}}}, "primary_metric": "accuracy", "seeds": [0, 1]}
    return [*found, StudyRun("d", "dense", "transfer", {}, status="done", result=final | {"learning_rate": 1e-4})]


REST = {("pretrained", 1e-4): 0.9, ("pretrained", 2e-4): 0.99, ("reinit", 1e-4): 0.7, ("reinit", 2e-4): 0.8}


def shown(runs, table="t"):
    study = load_study(STUDY)
    grid = table_grid(study, table, keep_chosen(study, runs))
    return [grid.cells[row, 1].mean for row in range(len(grid.labels))], " ".join(grid.notes)


def test_each_candidate_is_a_run_that_selects_on_the_same_part():
    plan = plan_study(load_study(STUDY), "small")
    assert len(plan.stage_runs("scores")) == 8
    assert {run.settings.select_on for run in plan.runs.values()} == {0.25, 0.0}
    assert {run.settings.learning_rate for run in plan.runs.values()} == {1e-4, 2e-4}


def test_each_arm_has_its_best_setting_on_the_selecting_part_and_its_scores_on_the_rest():
    selecting = {("pretrained", 1e-4): 0.8, ("pretrained", 2e-4): 0.7, ("reinit", 1e-4): 0.1, ("reinit", 2e-4): 0.2}
    runs = runs_of(selecting, REST)
    means, notes = shown(runs)
    assert means == [pytest.approx(0.905), pytest.approx(0.805)]  # not the best on the rest
    assert "differ in learning_rate" not in notes
    assert [dict(run.chosen) for run in keep_chosen(load_study(STUDY), runs)][:4:2] == [
        {"learning_rate": 1e-4},
        {"learning_rate": 2e-4},
    ]
    (grid,) = choice_grids(load_study(STUDY), runs)
    assert [grid.cells[0, column].mean for column in (1, 2)] == [0.8, 0.7]
    assert "**80.0" in grid.markdown()
    shares, notes = shown(runs, "shares")
    assert shares == [pytest.approx(1.0), pytest.approx((0.3 / 0.4 + 0.31 / 0.41) / 2)]
    assert "above chance" in notes


def test_a_failed_candidate_is_out_and_a_missing_one_leaves_the_arm_open():
    failed = {
        ("pretrained", 1e-4): 0.8,
        ("pretrained", 2e-4): "failed",
        ("reinit", 1e-4): 0.1,
        ("reinit", 2e-4): "absent",
    }
    means, _ = shown(runs_of(failed, REST))
    assert means == [pytest.approx(0.905), None]


def test_other_verbs_have_no_choice():
    stage = STUDY["stages"]["scores"] | {"verb": "search"}
    with pytest.raises(UsageError, match="choose is for transfer"):
        load_study(STUDY | {"stages": {"scores": stage}})
