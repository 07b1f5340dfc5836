"""Paired gains: numbers by hand, intervals, runs that say nothing, refusals, the command line."""

import json

import pytest
from scipy import stats

from samples.analyse_samples import transfer_run as run
from winning_tickets.report.effects import mean_effect
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.studies.analysis.kinds import ANALYSES
from winning_tickets.studies.analysis.report import views

gain = ANALYSES["gain"]


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
        "degenerate": [],
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


def test_the_interval_takes_tasks_and_seeds_as_samples(groups):
    result = gain(*groups)
    cells = {(cell["task"], cell["seed"]): cell for cell in result["cells"]}

    def effect(first, second):
        places = [{"task": task, "seed": seed} for task, seed in cells]
        return mean_effect([cell[first] - cell[second] for cell in cells.values()], places)

    mean, share, expected = result["mean"], result["dense_share"], effect("target", "baseline")
    assert (mean["interval"], mean["p"]) == (expected.interval, expected.p)
    assert (mean["levels"], mean["no_interval"]) == ({"task": 2, "seed": 3}, None)
    # A share is 1 plus the difference from the dense model, divided by its mean.
    below = effect("target", "dense")
    assert share["target"] == pytest.approx(1 + below.mean / share["dense"])
    assert share["target_interval"] == pytest.approx(tuple(1 + end / share["dense"] for end in below.interval))
    gains = [cells["rte", seed]["gain"] for seed in range(3)]
    by_t = stats.ttest_1samp(gains, 0.0)
    assert result["tasks"][0]["interval"] == pytest.approx(tuple(by_t.confidence_interval()))
    assert result["tasks"][0]["p"] == pytest.approx(by_t.pvalue)


def test_tasks_weigh_the_same_and_too_few_seeds_have_no_interval(tmp_path):
    target = [run(tmp_path / "a", "rte", {0: 0.9, 1: 0.9, 2: 0.9}), run(tmp_path / "b", "cola", {0: 0.5})]
    baseline = [run(tmp_path / "c", "rte", {0: 0.5, 1: 0.5, 2: 0.5}), run(tmp_path / "d", "cola", {0: 0.5})]
    result = gain(target, baseline)
    assert result["mean"]["gain"] == pytest.approx(0.2)  # (0.4 + 0) / 2, not 1.2 / 4
    assert result["mean"]["interval"] is None
    assert result["dense_share"] is None
    said = (
        "Mean gain +20.0, without an interval: 1 to 3 repetitions of a task, and an interval needs 3; better in 3 of 4"
    )
    assert said in views.analysis_table(result).text()


def test_one_cell_has_no_interval_and_scores_can_be_the_best(tmp_path):
    target, baseline = run(tmp_path / "a", "rte", {0: 0.6}), run(tmp_path / "b", "rte", {0: 0.5})
    result = gain([target], [baseline], score="best")
    assert (result["mean"]["interval"], result["mean"]["p"]) == (None, None)
    assert result["mean"]["no_interval"] == "1 repetition of rte, and an interval needs 3"
    assert result["tasks"][0]["gain_std"] is None
    assert result["cells"][0]["target"] == pytest.approx(0.7)


def test_tickets_of_one_search_are_not_independent(tmp_path):
    """Two tickets, each fine-tuned with two seeds: the searches are the sample, whose levels contain those of seeds."""
    scores = {0: {0: 0.60, 1: 0.61}, 1: {2: 0.70, 3: 0.71}}
    target = [run(tmp_path / f"a{one}", "rte", own, ticket=f"a{one}", search_seed=one) for one, own in scores.items()]
    baseline = run(tmp_path / "b", "rte", dict.fromkeys(range(4), 0.5))
    mean = gain(target, [baseline])["mean"]
    assert mean["levels"] == {"task": 1, "seed": 4, "search_seed": 2}
    assert mean["interval"] == pytest.approx(tuple(stats.ttest_1samp([0.105, 0.205], 0.0).confidence_interval()))


def test_runs_that_learned_nothing_are_said_and_a_task_of_nothing_else_is_not_counted(tmp_path):
    def side(name, rte, mrpc, ticket, **more):
        own = {"majority": 0.5, **more}
        return [
            run(tmp_path / f"{name}-rte", "rte", dict(enumerate(rte)), ticket=ticket, **own),
            run(tmp_path / f"{name}-mrpc", "mrpc", dict(enumerate(mrpc)), ticket=ticket, **own),
        ]

    target = side("a", [0.5, 0.5, 0.48], [0.7, 0.72, 0.71], "a")
    baseline = side("b", [0.5, 0.5, 0.5], [0.6, 0.61, 0.5], "b")
    dense = side("d", [0.7, 0.7, 0.7], [0.8, 0.8, 0.8], None)
    result = gain(target, baseline, dense)
    assert result["not_counted"] == ["rte"]
    flat = [(one["group"], one["task"], one["seed"]) for one in result["degenerate"]]
    assert (
        flat
        == [*((name, "rte", seed) for name in ("target", "baseline") for seed in range(3)), ("baseline", "mrpc", 2)][:7]
    )
    assert result["mean"]["gain"] == pytest.approx(0.14)
    assert result["mean"]["levels"] == {"task": 1, "seed": 3}
    assert result["dense_share"]["target"] == pytest.approx(0.71 / 0.8)
    assert result["dense_share"]["constant"] == pytest.approx(0.5 / 0.8)
    text = views.analysis_table(result).text()
    assert "Not above chance, so not counted: rte." in text
    assert "better in 3 of 3 cells and on the average of 1 of 1 tasks. It is about mrpc alone." in text
    assert "one answer for all examples 62.5 %." in text
    nothing = gain(target[:1], baseline[:1], dense[:1])
    assert nothing["mean"]["interval"] is nothing["dense_share"]["target_interval"] is None
    assert "without an interval: no run of either group is above chance" in views.analysis_table(nothing).text()


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


def test_settings_that_differ_are_said_with_their_values_and_the_option(tmp_path):
    pairs = [
        [run(tmp_path / f"{name}-{task}", task, {0: 0.6, 1: 0.7}, learning_rate=rate) for task in ("rte", "cola")]
        for name, rate in (("a", 2e-4), ("b", 1e-4))
    ]
    result = gain(*pairs)
    assert result["different_settings"][0] == {
        "task": "rte", "seed": 0, "setting": "learning_rate", "values": {"target": [2e-4], "baseline": [1e-4]}
    }  # fmt: skip
    assert (
        "Not a fair comparison: the groups differ in learning_rate on rte, cola (target 0.0002, baseline 0.0001). "
        "Fine-tune all of them with the same --learning-rate of tickets transfer."
        in views.analysis_table(result).text()
    )


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
    with pytest.raises(ContentError, match="not a result of tickets transfer but a result of tickets search"):
        gain([one], [tmp_path / "search.json"])
    (tmp_path / "cut.json").write_text('{"verb": "transfer-seed", "primary_metric": "f1"}')
    with pytest.raises(ContentError, match="cut.json was edited: seed: Field required"):
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


def test_the_weights_that_were_started_from_are_a_setting(tmp_path):
    target = run(tmp_path / "a", "rte", {0: 0.6}, start_from="reinit")
    baseline = run(tmp_path / "b", "rte", {0: 0.5})
    (one,) = gain([target], [baseline])["different_settings"]
    assert (one["setting"], one["values"]) == ("start_from", {"target": ["reinit"], "baseline": ["pretrained"]})


def test_gains_over_other_data_are_refused(tmp_path):
    target = run(tmp_path / "a", "local", {0: 0.6}, data_hash="one")
    baseline = run(tmp_path / "b", "local", {0: 0.5}, data_hash="two")
    with pytest.raises(ContentError, match=r"local has other data in .*a/.* than in .*b/.* tickets transfer --task"):
        gain([target], [baseline])
