"""Sensitivity to seeds and settings: numbers by hand, pairs with the dense model, refusals."""

import json
import statistics

import pytest
from scipy import stats

from samples.analyse_samples import command_line
from samples.analyse_samples import transfer_run as run
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.studies.analysis.kinds import ANALYSES

sensitivity = ANALYSES["sensitivity"]
FOUND = {"method": "importance", "search": {"objective": "task", "tasks": ["rte"]}}


def transfer(path, scores, rate=1e-4, task="rte", **settings):
    common = {"learning_rate": rate, "batch_size": 32, "max_length": 128, "data_hash": "d"}
    return run(path, task, scores, **(common | settings))


def dense(path, scores, rate=1e-4, **settings):
    return transfer(path, scores, rate, ticket=None, sparsity=0.0, **settings)


@pytest.fixture
def runs(tmp_path):
    return [
        dense(tmp_path / "d1", {0: 0.60, 1: 0.70, 2: 0.65}),
        dense(tmp_path / "d2", {0: 0.50, 1: 0.80}, 2e-4),
        transfer(tmp_path / "t1", {0: 0.70, 1: 0.72, 2: 0.71}, ticket="t", **FOUND),
        transfer(tmp_path / "t2", {0: 0.68, 1: 0.70}, 2e-4, ticket="t", **FOUND),
    ]


def test_scores_that_differ_by_rounding_are_no_wins(tmp_path):
    runs = [dense(tmp_path / "d", {0: 0.3, 1: 0.1 + 0.2}), transfer(tmp_path / "t", {0: 0.1 + 0.2, 1: 0.3}, ticket="t")]
    (difference,) = sensitivity(runs)["differences"]
    assert (difference["wins"], difference["losses"], difference["n"]) == (0, 0, 2)


def test_every_number_by_hand(runs):
    result = sensitivity(runs)
    assert (result["task"], result["metric"], result["baseline"]) == ("rte", "accuracy", "dense")
    first, second, third, _ = result["settings"]
    assert (first["group"], first["learning_rate"], first["n"]) == ("dense", 1e-4, 3)
    assert first["mean"] == pytest.approx(0.65)
    assert first["std"] == pytest.approx(0.05)
    assert (first["best"], first["min"], first["seeds"]) == (0.70, 0.60, [0, 1, 2])
    assert second["learning_rate"] == 2e-4
    assert third["group"] == "importance task:rte, 60 %"
    whole, ticket = result["groups"]
    assert whole["seeds"] == [0, 1]  # those that both learning rates have
    assert whole["over_seeds"] == pytest.approx(statistics.stdev([0.55, 0.75]))
    assert whole["over_settings"] == pytest.approx(0.0, abs=1e-12)
    assert ticket["over_seeds"] == pytest.approx(statistics.stdev([0.69, 0.71]))
    assert ticket["over_settings"] == pytest.approx(statistics.stdev([0.71, 0.69]))
    assert ticket["range"] == pytest.approx(0.02)
    assert ticket["best_setting"] == {"learning_rate": 1e-4, "batch_size": 32, "steps": 10}
    assert ticket["best_mean"] == pytest.approx(0.71)


def test_differences_are_paired_by_seed(runs):
    first, second = sensitivity(runs)["differences"]
    differences = [0.10, 0.02, 0.06]
    assert first["difference"] == pytest.approx(0.06)
    assert (first["wins"], first["losses"], first["n"]) == (3, 0, 3)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert first["interval"] == pytest.approx(expected)
    assert (second["learning_rate"], second["n"], second["wins"]) == (2e-4, 2, 1)
    assert (second["interval"], second["no_interval"]) == (None, "2 repetitions, and an interval needs 3")


def test_one_seed_has_no_deviation(tmp_path):
    result = sensitivity([dense(tmp_path / "d", {0: 0.6}), transfer(tmp_path / "t", {0: 0.7}, **FOUND)])
    assert [one["std"] for one in result["settings"]] == [None, None]
    assert [one["over_seeds"] for one in result["groups"]] == [None, None]
    assert result["differences"][0]["interval"] is None


def test_groups_and_the_baseline(tmp_path):
    shared = {"start_from": "/x/ticket-share"}
    runs = [
        dense(tmp_path / "a", {0: 0.6}, start_from="/x/mt-dnn"),
        transfer(tmp_path / "b", {0: 0.7}, sparsity=0.2, **FOUND, **shared),
        transfer(tmp_path / "c", {1: 0.7}, sparsity=0.20004, ticket="another seed's", **FOUND, **shared),
        transfer(tmp_path / "d", {0: 0.7}, sparsity=0.3, **FOUND, **shared),
    ]
    result = sensitivity(runs)
    assert result["baseline"] == "dense from mt-dnn"
    label = "importance task:rte"
    assert [one["group"] for one in result["groups"]] == ["dense from mt-dnn", f"{label}, 20 %", f"{label}, 30 %"]
    assert result["groups"][1]["seeds"] == [0, 1]
    assert sensitivity([*runs, dense(tmp_path / "e", {0: 0.6})])["baseline"] == "dense"
    two = sensitivity([runs[0], runs[3], dense(tmp_path / "f", {0: 0.6}, start_from="/x/other")])
    assert (two["baseline"], two["differences"]) == (None, [])
    assert sensitivity(runs[3:])["baseline"] is None


def test_random_tickets_of_one_level_are_one_group_though_their_sparsities_differ(tmp_path):
    runs = [
        transfer(tmp_path / str(s), {s: 0.7}, sparsity=sparsity, ticket=str(s), asked={"level": [50.0]}, **FOUND)
        for s, sparsity in enumerate((0.62, 0.74, 0.77))
    ]
    (group,) = sensitivity(runs)["groups"]
    assert (group["group"], group["seeds"]) == ("importance task:rte, 71 %", [0, 1, 2])


def test_score_and_metric(runs):
    assert sensitivity(runs, score="best")["settings"][0]["mean"] == pytest.approx(0.75)
    with pytest.raises(UsageError, match="metric"):
        sensitivity(runs, metric="f1")


def test_refusals(tmp_path, runs):
    with pytest.raises(UsageError, match="No transfer run was given"):
        sensitivity([])
    with pytest.raises(
        ContentError, match=r"d1/seed-0/result.json is of the task rte and .* of cola; analyse each task"
    ):
        sensitivity([runs[0], dense(tmp_path / "cola", {0: 0.5}, task="cola")])
    with pytest.raises(ContentError, match="starts from the weights of m, .* from other ones, those of big"):
        sensitivity([runs[0], dense(tmp_path / "big", {0: 0.5}, model="big", base_hash="b")])
    with pytest.raises(ContentError, match="The runs differ in max_length: 128 in .* and 64 in"):
        sensitivity([runs[0], dense(tmp_path / "short", {0: 0.5}, max_length=64)])
    with pytest.raises(
        ContentError, match="The runs of dense with one setting hold rte with seed 1 twice: .*d1.* and .*again"
    ):
        sensitivity([runs[0], dense(tmp_path / "again", {1: 0.5})])
    with pytest.raises(ContentError, match="lacks its learning_rate; wait until all seeds of the run are done"):
        sensitivity([run(tmp_path / "half", "rte", {0: 0.5}, summary=False)])


def test_the_command_line(tmp_path, runs, capsys, monkeypatch):
    tickets = command_line(capsys, monkeypatch)
    code, out, _ = tickets("analyse", "sensitivity", *runs, "--out", tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "out" / "analysis.json").read_text())
    code, out, _ = tickets("analyse", "sensitivity", *runs)
    assert "| dense                     | 65.0 |" in out
    code, out, err = tickets("analyse", "sensitivity", runs[0], dense(tmp_path / "cola", {0: 0.5}, task="cola"))
    assert (code, out) == (1, "")
    assert "analyse each task by itself" in err
