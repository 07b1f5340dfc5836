"""Paired gains: numbers by hand, a naive bootstrap as the oracle, refusals, the command line."""

import json

import numpy as np
import pytest

from samples.analyse_samples import command_line
from samples.analyse_samples import transfer_run as run
from winning_tickets.analysis.kinds import ANALYSES
from winning_tickets.analysis.report import save
from winning_tickets.runs.errors import ContentError, UsageError

gain = ANALYSES["gain"]


@pytest.fixture
def tickets(capsys, monkeypatch):
    return command_line(capsys, monkeypatch)


@pytest.fixture
def groups(tmp_path):
    """Gains: rte +0.10, -0.05, 0 (mean 1/60); cola +0.2, +0.1, +0.3 (mean 0.2)."""
    target = [
        run(tmp_path / "a-rte", "rte", {0: 0.60, 1: 0.50, 2: 0.55}, ticket="a"),
        run(tmp_path / "a-cola", "cola", {0: 0.4, 1: 0.2, 2: 0.4}, ticket="a", metric="matthews"),
    ]
    baseline = [
        run(tmp_path / "b-cola", "cola", {2: 0.1, 0: 0.2, 1: 0.1}, ticket="b", metric="matthews"),
        run(tmp_path / "b-rte", "rte", {0: 0.50, 1: 0.55, 2: 0.55}, ticket="b"),
    ]
    dense = [
        run(tmp_path / "d-rte", "rte", {0: 0.6, 1: 0.6, 2: 0.7}, ticket=None, sparsity=0.0),
        run(tmp_path / "d-cola", "cola", {0: 0.5, 1: 0.5, 2: 0.5}, ticket=None, sparsity=0.0, metric="matthews"),
    ]
    return target, baseline, dense


def test_every_number_by_hand(groups):
    result = gain(*groups)
    rte, cola = result["tasks"]
    assert (rte["task"], rte["metric"], rte["seeds"]) == ("rte", "accuracy", [0, 1, 2])
    assert rte["target"] == pytest.approx(0.55)
    assert rte["baseline"] == pytest.approx(1.6 / 3)
    assert rte["dense"] == pytest.approx(1.9 / 3)
    assert rte["gain"] == pytest.approx(0.05 / 3)
    # Deviations from 1/60: 5/60, -4/60, -1/60; squares add up to 42/3600, over n - 1 = 2.
    assert rte["gain_std"] == pytest.approx((21 / 3600) ** 0.5)
    assert (rte["n"], rte["wins"], rte["ties"], rte["losses"]) == (3, 1, 1, 1)
    assert cola["gain"] == pytest.approx(0.2)
    assert cola["gain_std"] == pytest.approx(0.1)
    mean = result["mean"]
    assert mean["gain"] == pytest.approx((0.05 / 3 + 0.2) / 2)
    assert mean["target"] == pytest.approx((0.55 + 1 / 3) / 2)
    assert (mean["n"], mean["wins"], mean["ties"], mean["losses"]) == (6, 4, 1, 1)
    assert (mean["tasks"], mean["tasks_won"]) == (2, 2)
    share = result["dense_share"]
    dense = (1.9 / 3 + 0.5) / 2
    assert share["dense"] == pytest.approx(dense)
    assert share["target"] == pytest.approx((0.55 + 1 / 3) / 2 / dense)
    assert share["baseline"] == pytest.approx((1.6 / 3 + 0.4 / 3) / 2 / dense)
    assert share["n"] == 6
    assert result["missing"] == result["different_settings"] == []
    assert result["groups"]["target"]["tickets"] == [{"ticket_id": "a", "sparsity": 0.6, "model": "m"}]
    assert result["cells"][4] == {
        "task": "cola",
        "seed": 1,
        "metric": "matthews",
        "target": 0.2,
        "baseline": 0.1,
        "dense": 0.5,
        "gain": 0.1,
    }


def test_gains_that_differ_by_rounding_are_ties(tmp_path):
    target = [run(tmp_path / "a", "rte", {0: 0.90, 1: 0.81}), run(tmp_path / "b", "cola", {0: 0.1 + 0.2, 1: 0.3})]
    baseline = [run(tmp_path / "c", "rte", {0: 0.88, 1: 0.83}), run(tmp_path / "d", "cola", {0: 0.3, 1: 0.1 + 0.2})]
    result = gain(target, baseline)
    rte, cola = result["tasks"]
    assert 0 < rte["gain"] < 1e-15
    assert result["mean"]["tasks_won"] == 0
    assert (rte["wins"], rte["ties"], rte["losses"]) == (1, 0, 1)
    assert (cola["wins"], cola["ties"], cola["losses"]) == (0, 2, 0)


def test_the_interval_is_that_of_a_naive_bootstrap(groups):
    result = gain(*groups, seed=3)
    gains = [cell["gain"] for cell in result["cells"]]
    generator = np.random.default_rng(3)
    means = sorted(np.mean([gains[i] for i in row]) for row in generator.integers(6, size=(10_000, 6)))
    assert result["mean"]["interval"] == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert gain(*groups, seed=3) == result
    low, high = result["dense_share"]["target_interval"]
    assert low < result["dense_share"]["target"] < high
    assert result["bootstrap"]["resampled"] == "cells (task and seed), each task with equal weight"


def test_tasks_weigh_the_same_whatever_their_number_of_seeds(tmp_path):
    target = [run(tmp_path / "a", "rte", {0: 0.9, 1: 0.9, 2: 0.9}), run(tmp_path / "b", "cola", {0: 0.5})]
    baseline = [run(tmp_path / "c", "rte", {0: 0.5, 1: 0.5, 2: 0.5}), run(tmp_path / "d", "cola", {0: 0.5})]
    result = gain(target, baseline)
    assert result["mean"]["gain"] == pytest.approx(0.2)  # (0.4 + 0) / 2, not 1.2 / 4
    low, high = result["mean"]["interval"]
    # Below the 2.5 % quantile lie the draws of four colas (1 in 256), on it those of three (12 in 256): one rte cell of
    # weight 1/6 beside three of 1/2. No cola at all (81 in 256) gives the gain of rte.
    assert (low, high) == pytest.approx((0.4 / 6 / (1 / 6 + 3 / 2), 0.4))
    assert result["dense_share"] is None


def test_one_cell_has_no_interval_and_scores_can_be_the_best(tmp_path):
    target, baseline = run(tmp_path / "a", "rte", {0: 0.6}), run(tmp_path / "b", "rte", {0: 0.5})
    result = gain([target], [baseline], score="best")
    assert result["mean"]["interval"] is None
    assert result["tasks"][0]["gain_std"] is None
    assert result["cells"][0]["target"] == pytest.approx(0.7)


def test_files_and_unfinished_runs_are_read_too(tmp_path):
    target = run(tmp_path / "a", "rte", {0: 0.6, 10: 0.8, 2: 0.7}, summary=False)
    baseline = run(tmp_path / "b", "rte", {0: 0.5, 2: 0.5, 10: 0.5})
    by_folder = gain([target], [baseline])
    by_file = gain([target / f"seed-{seed}" / "result.json" for seed in (0, 2, 10)], [baseline / "result.json"])
    assert [cell["seed"] for cell in by_folder["cells"]] == [0, 2, 10]
    assert by_folder["cells"] == by_file["cells"]


def test_a_missing_cell_is_named_or_left_out(groups, tmp_path):
    target, baseline, dense = groups
    (baseline[0] / "seed-1" / "result.json").unlink()
    (dense[1] / "seed-2" / "result.json").unlink()
    expected = r"2 are missing: cola seed 1 \(not in baseline\), cola seed 2 \(not in dense\)\. Run them"
    with pytest.raises(ContentError, match=expected):
        gain(*groups)
    result = gain(*groups, allow_missing=True)
    assert [(entry["group"], entry["task"], entry["seed"]) for entry in result["missing"]] == [
        ("baseline", "cola", 1),
        ("dense", "cola", 2),
    ]
    assert result["tasks"][1]["seeds"] == [0, 2]
    assert result["tasks"][1]["gain"] == pytest.approx((0.2 + 0.3) / 2)
    assert result["dense_share"]["n"] == 4
    other = run(tmp_path / "other", "mrpc", {0: 0.5})
    with pytest.raises(UsageError, match="share no task and seed"):
        gain(target, [other], allow_missing=True)


def test_settings_that_differ_are_said(tmp_path):
    target = run(tmp_path / "a", "rte", {0: 0.6}, steps=20)
    baseline = run(tmp_path / "b", "rte", {0: 0.5})
    result = gain([target], [baseline])
    assert result["different_settings"] == [
        {"task": "rte", "seed": 0, "setting": "steps", "values": {"target": 20, "baseline": 10}}
    ]
    assert "Not a fair comparison: the groups differ in steps on rte." in save.analysis_table(result).text()


def test_refusals(tmp_path):
    one, again = run(tmp_path / "a", "rte", {0: 0.6}), run(tmp_path / "b", "rte", {0: 0.5})
    with pytest.raises(ContentError, match=r"target runs hold rte with seed 0 twice: .*a/seed-0.* and .*b/seed-0"):
        gain([one, again], [again])
    with pytest.raises(UsageError, match="No baseline run was given"):
        gain([one], [])
    with pytest.raises(UsageError, match="There is no transfer run .*nowhere"):
        gain([one], [tmp_path / "nowhere"])
    (tmp_path / "started").mkdir()
    (tmp_path / "started" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="has no finished seed yet"):
        gain([one], [tmp_path / "started"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is not a transfer run"):
        gain([one], [tmp_path / "empty"])
    (tmp_path / "search.json").write_text('{"verb": "search"}')
    with pytest.raises(ContentError, match="not the result of a transfer but a result of tickets search"):
        gain([one], [tmp_path / "search.json"])
    (tmp_path / "cut.json").write_text('{"verb": "transfer-seed", "primary_metric": "f1"}')
    with pytest.raises(ContentError, match="is an incomplete transfer result"):
        gain([one], [tmp_path / "cut.json"])
    two = run(tmp_path / "two", "rte", {0: 0.5, 1: 0.6})
    twice = json.loads((two / "result.json").read_text()) | {"seeds": [0, 0]}
    (tmp_path / "twice.json").write_text(json.dumps(twice))
    with pytest.raises(ContentError, match="a seed comes twice"):
        gain([one], [tmp_path / "twice.json"])
    other = run(tmp_path / "c", "rte", {0: 0.5}, metric="f1")
    with pytest.raises(ContentError, match="rte is scored by accuracy in .* and by f1 in"):
        gain([one], [other])


def test_the_command_line_takes_what_a_shell_makes_of_a_star(groups, tickets, tmp_path):
    target, baseline, dense = groups
    words = ["analyse", "gain", *target, "--baseline", *baseline, "--dense", *dense]
    code, out, err = tickets(*words, "--json", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert json.loads(out)["mean"]["gain"] == pytest.approx((0.05 / 3 + 0.2) / 2)
    code, out, err = tickets("analyse", "gain", f"--baseline={baseline[0]}", baseline[1], "--", *target)
    assert (code, err) == (0, "")
    assert "Mean gain +10.8, 95 % interval [" in out
    assert "better in 4 of 6 cells and on the average of 2 of 2 tasks" in out
    for wrong, message in (
        ([*words, "--dense"], "Option '--dense' needs one or more paths."),
        (["analyse", "gain", "--baseline", *baseline], "Missing argument 'RUN...'"),
        (["analyse", "gain", *target], "Missing option '--baseline'"),
        (["analyse", "gian", *target], "Did you mean 'gain'?"),
        ([*words, "--score", "last"], "Unknown score 'last'."),
    ):
        code, out, err = tickets(*wrong)
        assert (code, out) == (2, ""), wrong
        assert message in err


def test_seeds_drawn_within_each_task_by_exact_enumeration(groups):
    """All 27 x 27 draws of three seeds from three for each of the two tasks; 10,000 draws come near their quantiles."""
    from itertools import product

    rte, cola = (0.10, -0.05, 0.0), (0.2, 0.1, 0.3)
    means = [(sum(a) / 3 + sum(b) / 3) / 2 for a in product(rte, repeat=3) for b in product(cola, repeat=3)]
    result = gain(*groups)["mean"]
    assert result["interval_within_tasks"] == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.005)
    low, high = result["interval"]
    assert low < result["interval_within_tasks"][0]
    assert high > result["interval_within_tasks"][1]


def test_a_task_with_one_seed_does_not_move_within_itself(tmp_path):
    pairs = [
        [run(tmp_path / f"{name}-{task}", task, scores, ticket=name) for task, scores in runs.items()]
        for name, runs in {"a": {"rte": {0: 0.7}, "sst2": {0: 0.9}}, "b": {"rte": {0: 0.6}, "sst2": {0: 0.6}}}.items()
    ]
    result = gain(*pairs)
    assert result["mean"]["interval_within_tasks"] is None  # not an interval of no width
    assert "With seeds resampled within each task: –." in save.analysis_table(result).text()  # noqa: RUF001
    for name, side in zip("ab", pairs, strict=True):
        side.append(run(tmp_path / f"{name}-cola", "cola", {0: 0.5, 1: 0.7 if name == "a" else 0.5}, ticket=name))
    result = gain(*pairs)
    low, high = result["mean"]["interval_within_tasks"]
    assert (low, high) == pytest.approx((0.4 / 3, 0.6 / 3))  # cola draws 0, 0.1 or 0.2; rte and sst2 stay
    assert "is too narrow, as there is only one seed of rte, sst2." in save.analysis_table(result).text()


def test_the_weights_that_were_started_from_are_a_setting(tmp_path):
    target = run(tmp_path / "a", "rte", {0: 0.6}, start_from="reinit")
    baseline = run(tmp_path / "b", "rte", {0: 0.5})
    (one,) = gain([target], [baseline])["different_settings"]
    assert (one["setting"], one["values"]) == ("start_from", {"target": "reinit", "baseline": "pretrained"})


def test_gains_over_other_data_are_refused(tmp_path):
    target = run(tmp_path / "a", "local", {0: 0.6}, data_hash="one")
    baseline = run(tmp_path / "b", "local", {0: 0.5}, data_hash="two")
    with pytest.raises(ContentError, match=r"local has other data in .*a/.* than in .*b/.* tickets transfer --task"):
        gain([target], [baseline])
