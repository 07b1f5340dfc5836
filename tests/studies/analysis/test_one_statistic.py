"""One set of numbers through every door that says whether A is better than B: one interval."""

import itertools
from pathlib import Path

import pytest

from samples.analyse_samples import transfer_run
from samples.study_samples import little
from winning_tickets.cli import show
from winning_tickets.finetuning import super_ticket
from winning_tickets.studies.analysis.kinds import ANALYSES
from winning_tickets.studies.analysis.report import views
from winning_tickets.studies.load import load_study
from winning_tickets.studies.report.claims import judge_claim
from winning_tickets.studies.report.grids import table_grid
from winning_tickets.studies.report.observations import StudyRun

BEFORE = {("rte", 0): 0.6, ("rte", 1): 0.61, ("rte", 2): 0.62, ("mrpc", 0): 0.7, ("mrpc", 1): 0.71, ("mrpc", 2): 0.72}
GAINS = {("rte", 0): 0.03, ("rte", 1): 0.02, ("rte", 2): 0.035, ("mrpc", 0): 0.001, ("mrpc", 1): 0.012,
         ("mrpc", 2): 0.004}  # fmt: skip
ONE = "[-0.8, +2.0]"  # MRPC alone, Student's t over its seeds
BOTH = "[-12.7, +16.1]"  # both tasks, which are a sample, too


def of_study(tasks, seeds=3):
    """The verdict and the p-value of a study on these numbers."""
    grid = {"method": ["new", "old"], "task": list(tasks), "seed": list(range(seeds))}
    stage = {"verb": "transfer", "with": {"target": "tiny:bert", "task": "rte"}, "label": grid}
    table = {"stage": "s", "rows": [], "values": {"p": "a_score"}, "minus": {"method": "old"}, "statistic": "p"}
    claim = {
        "text": "So.",
        "stage": "s",
        "value": "a_score",
        "better": {"axis": "method", "first": "new", "second": "old"},
    }
    study = load_study(little(stages={"s": stage}, tables={"t": table | {"average": ["task"]}}, claims={"c": claim}))
    runs = []
    for method, task, seed in itertools.product(*grid.values()):
        value = BEFORE[task, seed] + (GAINS[task, seed] if method == "new" else 0.0)
        place = {"method": method, "task": task, "seed": seed}
        runs.append(StudyRun(f"r{len(runs)}", "s", "transfer", place, {}, "done", {"a_score": value}))
    (cell,) = table_grid(study, "t", runs).cells.values()
    return judge_claim(study, "c", runs), cell.mean


def of_folders(folder, tasks, seeds=3, dense=False):
    """Folders of transfers of both groups; with `dense` the second one is the full model."""
    groups = {"old": BEFORE, "new": {key: BEFORE[key] + GAINS[key] for key in BEFORE}}
    return {
        name: [
            transfer_run(
                folder / f"{name}-{task}", task, {seed: scores[task, seed] for seed in range(seeds)},
                ticket=None if dense and name == "old" else name, metric="pearson", batch_size=4, learning_rate=1e-4,
            )
            for task in tasks
        ]
        for name, scores in groups.items()
    }  # fmt: skip


def of_super(task, seeds=3):
    """What `tickets super` stores and prints of these numbers, with them as scores on the rest of the dev set."""

    def side(gains):
        values = [BEFORE[task, seed] + gains.get((task, seed), 0.0) for seed in range(seeds)]
        metrics = {"accuracy": {"best": {"values": values}}}
        common = {"primary_metric": "accuracy", "seeds": list(range(seeds)), "degenerate": False, "learning_rate": 1e-4}
        return super_ticket.Runs(("r",), ({"metrics": metrics, **common},), "s")

    found = super_ticket._difference(side(GAINS), side({}), "rest")
    scores = {"rest": {"mean": 0.7, "std": 0.01}, "degenerate": False}
    best = {"level": 20.0, "folder": "f", "against": {"full": {"rest": found}}, **scores}
    printed = {"task": task, "metric": "accuracy", "seeds": [0], "full": scores, "selections": {}, "super_ticket": best}
    return found, show.super_ticket(printed, Path("out"))


def test_one_task_through_every_door(tmp_path):
    verdict, p = of_study(["mrpc"])
    expected = verdict.finding.effect
    assert ONE in verdict.reason
    assert (verdict.word, p) == ("inconclusive", pytest.approx(expected.p))
    assert p == pytest.approx(0.23, abs=0.005)
    groups = of_folders(tmp_path / "pair", ["mrpc"])
    gain = ANALYSES["gain"](groups["new"], groups["old"])
    for facts in (gain["mean"], gain["tasks"][0]):
        assert (facts["interval"], facts["p"]) == (pytest.approx(expected.interval), pytest.approx(expected.p))
    assert f"Mean gain +0.6, 95 % interval {ONE}, p = 0.23 (1 task, 3 seeds)" in views.analysis_table(gain).text()
    groups = of_folders(tmp_path / "dense", ["mrpc"], dense=True)
    winning = ANALYSES["winning"](groups["new"], groups["old"])
    assert winning["cells"][0]["interval"] == pytest.approx(expected.interval)
    assert ONE in views.analysis_table(winning).text()
    stored, printed = of_super("mrpc")
    assert (stored["interval"], stored["p"]) == (pytest.approx(expected.interval), pytest.approx(expected.p))
    assert f"against the full model +0.6, 95 % interval {ONE}, p = 0.23 (3 seeds)" in printed


def test_two_tasks_through_every_door_that_pools(tmp_path):
    verdict, p = of_study(["rte", "mrpc"])
    expected = verdict.finding.effect
    assert BOTH in verdict.reason
    assert p == pytest.approx(expected.p)
    groups = of_folders(tmp_path, ["rte", "mrpc"])
    gain = ANALYSES["gain"](groups["new"], groups["old"])
    assert (gain["mean"]["interval"], gain["mean"]["p"]) == (pytest.approx(expected.interval), pytest.approx(p))
    assert f"Mean gain +1.7, 95 % interval {BOTH}, p = 0.37 (2 tasks, 3 seeds)" in views.analysis_table(gain).text()


def test_two_seeds_have_no_interval_at_any_door(tmp_path):
    verdict, p = of_study(["mrpc"], seeds=2)
    assert (verdict.finding.effect, p) == (None, None)
    groups = of_folders(tmp_path, ["mrpc"], seeds=2, dense=True)
    gain, winning = ANALYSES["gain"](groups["new"], groups["old"]), ANALYSES["winning"](groups["new"], groups["old"])
    said = "2 repetitions of mrpc, and an interval needs 3"
    assert f"Mean gain +0.7, without an interval: {said};" in views.analysis_table(gain).text()
    stored, printed = of_super("mrpc", seeds=2)
    for facts in (gain["mean"], winning["cells"][0], stored):
        assert (facts["interval"], facts["p"]) == (None, None)
    assert "against the full model +0.7, without an interval: 2 repetitions, and an interval needs 3" in printed


def test_tables_and_claims_say_rates_that_differ_and_scores_at_chance():
    """On RTE the full model has half the rate, and the score of the most frequent class; on MRPC all have one rate."""
    grid = {"method": ["Full", "A", "B"], "task": ["rte", "mrpc"], "seed": [0, 1, 2]}
    stage = {"verb": "transfer", "with": {"target": "tiny:bert", "task": "rte"}, "label": grid}
    table = {"stage": "s", "rows": ["method"], "columns": "task"}
    better = {"axis": "method", "first": "A", "second": "Full"}
    claims = {"c": {"text": "So.", "stage": "s", "value": "score", "better": better}}
    study = load_study(little(stages={"s": stage}, tables={"t": table}, claims=claims))
    runs = []
    for method, task, seed in itertools.product(*grid.values()):
        full = method == "Full"
        score = 0.5 if full and task == "rte" else 0.6 + 0.01 * seed + (0.01 * seed + 0.02 if method == "A" else 0.0)
        rate = 1e-4 if full or task == "mrpc" else 2e-4
        metrics = {"accuracy": {"final": {"values": [score]}}}
        result = {
            "primary_metric": "accuracy",
            "metrics": metrics,
            "majority": 0.5,
            "learning_rate": rate,
            "task": task,
        }
        place = {"method": method, "task": task, "seed": seed}
        runs.append(StudyRun(f"r{len(runs)}", "s", "transfer", place, {}, "done", result | {"seeds": [seed]}))
    grid = table_grid(study, "t", runs)
    assert "| Full | 50.0 ± 0.0 (at chance) | 61.0 ± 1.0 |" in " ".join(grid.markdown().split())
    rates = (
        "(Full 0.0001, A 0.0002, B 0.0002). Fine-tune all of them with the same --learning-rate of tickets transfer."
    )
    assert f"The rows differ in learning_rate {rates}" in grid.notes
    assert [one["at_chance"] for one in grid.records()] == [3, 0, 0, 0, 0, 0]
    finding = judge_claim(study, "c", runs).finding
    assert finding.learning_rates == {"A": [2e-4], "Full": [1e-4]}
    assert finding.reason.endswith(
        "Some run is no better than one answer for all examples: Full (3 of 6). The runs differ in learning_rate "
        "(A 0.0002, Full 0.0001). Fine-tune all of them with the same --learning-rate of tickets transfer."
    )
