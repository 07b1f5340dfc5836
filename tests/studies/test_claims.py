"""Claims that compare with another stage, and conditions with parameters."""

from __future__ import annotations

import pytest

from samples.study_report_samples import fill_store, sample_plan, score_of
from winning_tickets.runs.errors import UsageError
from winning_tickets.studies.report.claims import judge_claim
from winning_tickets.studies.report.observations import gather_runs

TO_DENSE = {"axis": "method", "first": "TAMT", "second": {"stage": "dense"}}


def judged(tmp_path, claim, **parameters):
    """The verdict on a claim about the sample study."""

    def change(body):
        body["claims"] = {"c": {"text": "It is so.", "stage": "transfer", **claim}}
        body["parameters"] = parameters

    plan = sample_plan(change)
    return judge_claim(plan.study, "c", gather_runs(plan, fill_store(tmp_path, plan)))


@pytest.mark.parametrize("pair_by", [["task", "sparsity", "seed"], ["task", "seed"], []])
def test_a_stage_without_an_axis_stands_beside_all_its_values(tmp_path, pair_by):
    verdict = judged(tmp_path, {"better": TO_DENSE, "pair_by": pair_by})
    pairs = 12 if "sparsity" in pair_by else 6
    assert (verdict.word, verdict.finding.n, verdict.finding.planned) == ("contradicted", pairs, pairs)
    differences = [
        score_of({"method": "TAMT", "task": task, "sparsity": sparsity, "seed": seed})
        - score_of({"method": "dense", "task": task, "seed": seed})
        for task in ("rte", "mrpc")
        for sparsity in (0.5, 0.7)
        for seed in (0, 1, 2)
    ]
    assert verdict.finding.effect.estimate == pytest.approx(sum(differences) / 12)
    assert "mean difference of score, TAMT minus score of dense" in verdict.test
    assert all(name.endswith((": TAMT", ": score of dense")) for name in verdict.cells)


def test_not_worse_than_another_stage_and_conditions_of_the_first_alone(tmp_path):
    claim = {"not_worse": TO_DENSE, "pair_by": ["task", "sparsity", "seed"], "margin": 0.05}
    assert judged(tmp_path / "all", claim).word == "inconclusive"
    verdict = judged(tmp_path / "some", claim | {"where": [{"sparsity": 0.5}]})
    assert (verdict.word, verdict.finding.n) == ("holds", 6)


def test_conditions_may_hold_parameters(tmp_path):
    claim = {"better": TO_DENSE, "pair_by": ["task", "sparsity", "seed"], "where": [{"sparsity": "${wanted}"}]}
    assert judged(tmp_path / "one", claim, wanted=0.7).finding.n == 6
    assert judged(tmp_path / "two", claim, wanted=[0.5, 0.7]).finding.n == 12


def test_what_no_run_is_planned_for(tmp_path):
    verdict = judged(tmp_path, {"better": TO_DENSE, "where": [{"sparsity": 0.9}]})
    assert (verdict.word, verdict.reason) == (
        "inconclusive",
        "No pairs for it are planned with these parameters.",
    )


def test_unknown_stages_and_parameters_are_told(tmp_path):
    with pytest.raises(UsageError, match="Unknown stage 'dens'. Did you mean 'dense'"):
        judged(tmp_path, {"better": TO_DENSE | {"second": {"stage": "dens"}}})
    with pytest.raises(UsageError, match="Unknown parameter 'task'. Did you mean 'tasks'"):
        judged(tmp_path, {"better": TO_DENSE, "where": [{"task": "${task}"}]})


def test_exactly_the_margin_worse_is_not_above_it_whatever_the_rounding(tmp_path):
    """On rte all three differences to the dense model are -0.06, of which the sum rounds to a little less."""
    claim = {"not_worse": TO_DENSE | {"first": "OMP"}, "pair_by": ["task", "sparsity", "seed"]}
    claim["where"] = [{"sparsity": 0.5, "task": "rte"}]
    verdict = judged(tmp_path / "at", claim | {"margin": 0.06})
    assert (verdict.word, verdict.finding.n) == ("inconclusive", 3)
    assert judged(tmp_path / "below", claim | {"margin": 0.061}).word == "holds"
