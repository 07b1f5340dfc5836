"""Evaluations joined with transfers: the table, the correlations (against SciPy), what cannot be joined."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from samples.analyse_samples import command_line, transfer_run
from winning_tickets import EvaluateConfig, Runtime, SearchConfig, TransferConfig, evaluate, search, transfer
from winning_tickets.report.correlations import correlate, correlate_within, pearson, spearman
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.studies.analysis.kinds import ANALYSES
from winning_tickets.studies.analysis.report import views
from winning_tickets.studies.analysis.transfer_predictors import method_of

predictors = ANALYSES["predictors"]


def evaluation(path, ticket, *, kd=None, mlm=None, similarity=None, corpus="/data/wikitext-2", **more):
    """What `tickets evaluate --json` prints, as far as it matters here."""
    content = {
        "kd_loss": kd,
        "mlm_loss": mlm,
        "mlm_accuracy": None,
        "similarity_pearson": similarity,
        "similarity_spearman": None,
        "target": f"/tickets/{ticket}",
        "model": "m",
        "sparsity": 0.0 if ticket is None else 0.6,
        "ticket_id": ticket,
        "segments": "packed:128",
        "split": "validation",
        "corpus_hash": "c0",
        "pairs_from": "stsb validation",
        "corpus": corpus,
    }
    path.write_text(json.dumps(content | more))
    return path


@pytest.fixture
def world(tmp_path):
    """Five tickets of two sparsities with losses and scores on two tasks (one lacks the second), and a dense model."""
    losses = {"a": 0.1, "b": 0.2, "c": 0.15, "d": 0.4, "e": 0.5}
    sst2 = {"a": 0.90, "b": 0.85, "c": 0.88, "d": 0.80, "e": 0.70}
    rte = {"a": 0.6, "b": 0.62, "c": 0.58, "d": 0.5}
    paths = [evaluation(tmp_path / "dense.json", None, kd=0.0, target="m")]
    paths.append(transfer_run(tmp_path / "dense-sst2", "sst2", {0: 0.95}, ticket=None, sparsity=0.0))
    for name, loss in losses.items():
        sparsity = 0.6000001 if name in "abc" else 0.7999998
        more = {"sparsity": sparsity, "method": "mask-training" if name in "ac" else "magnitude"}
        more |= {"search_objective": "kd"}
        paths.append(evaluation(tmp_path / f"{name}.json", name, kd=loss, **more))
        paths.append(
            evaluation(
                tmp_path / f"{name}.stsb.json", name, kd=loss / 2, corpus="task:stsb", similarity=1 - loss, **more
            )
        )
        scores = {0: sst2[name] - 0.01, 1: sst2[name] + 0.01}
        paths.append(transfer_run(tmp_path / f"sst2-{name}", "sst2", scores, ticket=name, sparsity=sparsity))
        if name in rte:
            paths.append(transfer_run(tmp_path / f"rte-{name}", "rte", {0: rte[name]}, ticket=name, sparsity=sparsity))
    return paths  # fmt: skip


def found(result, predictor, task):
    return next(one for one in result["correlations"] if (one["predictor"], one["task"]) == (predictor, task))


@pytest.mark.parametrize("target", ["x" * 5000, "a\0b", "/nowhere"])
def test_a_target_that_no_ticket_can_be_leaves_the_method_open(target):
    assert method_of({"ticket_id": "a", "target": target}) is None


def test_measures_of_decoders_are_columns_too(world, tmp_path):
    more = {"clm_loss": 4.5, "perplexity": 90.0, "logits_loss": 0.2, "sparsity": 0.6000001, "method": "magnitude"}
    path = evaluation(tmp_path / "decoder.json", "b", kd=0.2, search_objective="kd", **more)
    result = predictors([*world, path])
    assert {"clm[wikitext-2]", "perplexity[wikitext-2]", "logits[wikitext-2]"} <= set(result["predictors"])


def test_the_table_is_joined_by_ticket(world):
    result = predictors(world)
    assert result["predictors"] == ["kd[wikitext-2]", "kd[task:stsb]", "similarity_pearson[stsb]"]
    assert result["tasks"] == ["sst2", "rte"]
    assert [row["ticket_id"] for row in result["rows"]] == [None, "b", "a", "c", "d", "e"]
    dense, b, a = result["rows"][:3]
    assert (dense["method"], dense["scores"], dense["mean"]) == ("dense", {"sst2": 0.95}, None)
    assert a["method"] == "mask-training kd"
    assert b["method"] == "magnitude"
    assert a["predictors"] == {"kd[wikitext-2]": 0.1, "kd[task:stsb]": 0.05, "similarity_pearson[stsb]": 0.9}
    assert a["scores"] == {"sst2": pytest.approx(0.9), "rte": 0.6}
    assert a["seeds"] == {"sst2": 2, "rte": 1}
    assert a["mean"] == pytest.approx(0.75)
    assert result["rows"][5]["mean"] is None
    assert result["not_transferred"] == result["not_evaluated"] == []


def test_correlations_agree_with_scipy(world):
    result = predictors(world)
    loss, score = [0.1, 0.2, 0.15, 0.4, 0.5], [0.9, 0.85, 0.88, 0.8, 0.7]
    one = found(result, "kd[wikitext-2]", "sst2")
    assert one["n"] == 5  # the dense model is no ticket
    assert one["pearson"] == pytest.approx(stats.pearsonr(loss, score).statistic)
    assert one["spearman"] == pytest.approx(-1.0)
    assert (one["methods"], one["pearson_interval"]) == (2, None)
    assert one["no_interval"] == "2 methods, and an interval needs 5"
    x = [0.1 - 0.15, 0.2 - 0.15, 0.0, -0.05, 0.05]
    y = np.array(score) - np.array([np.mean(score[:3])] * 3 + [np.mean(score[3:])] * 2)
    inside = one["within_sparsity"]
    assert (inside["n"], inside["groups"]) == (5, 2)
    assert inside["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
    mean = found(result, "kd[wikitext-2]", "mean over tasks")
    assert mean["n"] == 4  # the ticket without the second task has no mean
    means = [0.75, (0.85 + 0.62) / 2, (0.88 + 0.58) / 2, 0.65]
    assert mean["pearson"] == pytest.approx(stats.pearsonr(loss[:4], means).statistic)
    assert mean["within_sparsity"]["n"] == 3  # the fourth is alone with its sparsity
    assert found(result, "similarity_pearson[stsb]", "sst2")["pearson"] == pytest.approx(-one["pearson"])
    assert predictors(world) == result


def test_correlations_of_rows_and_of_too_little():
    generator = np.random.default_rng(0)
    x, y = generator.integers(4, size=(2, 50, 12)).astype(float)
    assert pearson(x, y) == pytest.approx([stats.pearsonr(a, b).statistic for a, b in zip(x, y, strict=True)])
    assert spearman(x, y) == pytest.approx([stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)])
    empty = {"pearson": None, "spearman": None}
    assert correlate([1, 2], [3, 4]) == {"n": 2} | empty
    assert correlate([0.1, 0.1, 0.1], [1, 2, 3]) == {"n": 3} | empty
    assert correlate_within([1, 2, 3], [3, 4, 5], [0.5, 0.6, 0.7])["pearson"] is None
    assert correlate_within([1, 1, 2, 2], [1, 2, 3, 4], [0.5, 0.5, 0.6, 0.6])["pearson"] is None


def test_residuals_that_are_equal_share_a_rank():
    x, y = [0.1, 0.2, 0.3, 0.6, 0.7, 0.8], [1, 2, 3, 1, 2, 3]
    assert correlate_within(x, y, [0, 0, 0, 1, 1, 1])["spearman"] == pytest.approx(1.0)
    assert correlate_within([1e9 / 3] * 3 + [0.1] * 3, y, [0, 0, 0, 1, 1, 1])["pearson"] is None  # no noise either


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 2)), min_size=3, max_size=12))
def test_correlations_within_groups_are_those_of_exact_residuals(rows):
    """Scores k / 7 and losses k / 10 as floats, against residuals in fractions, whose ranks have exact ties."""
    exact = [(Fraction(a, 7), Fraction(b, 10), group) for a, b, group in rows]
    sides = [[], []]
    for group in {row[2] for row in rows}:
        own = [row for row in exact if row[2] == group]
        for side in (0, 1) if len(own) > 1 else ():
            sides[side] += [row[side] - sum(other[side] for other in own) / len(own) for row in own]
    found = correlate_within([a / 7 for a, _, _ in rows], [b / 10 for _, b, _ in rows], [row[2] for row in rows])
    assert found["n"] == len(sides[0])
    if len(sides[0]) < 3 or any(len(set(side)) == 1 for side in sides):
        assert found["pearson"] is found["spearman"] is None
    else:
        ranks = [[sum(a < b for a in side) + sum(a == b for a in side) / 2 for b in side] for side in sides]
        assert found["spearman"] == pytest.approx(stats.pearsonr(*ranks).statistic)
        floats = [[float(value) for value in side] for side in sides]
        assert found["pearson"] == pytest.approx(stats.pearsonr(*floats).statistic)


def test_the_sample_of_a_correlation_are_methods_and_inside_them_it_may_turn(tmp_path):
    """Five methods, the better ones with lower losses; inside each, a lower loss goes with a lower score."""
    paths, points = [], []
    for number, method in enumerate(("a", "b", "c", "d", "e")):
        for seed in range(3):
            ticket, loss = f"{method}{seed}", 0.1 * number + 0.01 * seed
            score = 0.9 - 0.1 * number + 0.01 * seed + (0.02 if number == 2 else 0.0)
            points.append((loss, score, method))
            paths.append(evaluation(tmp_path / f"{ticket}.json", ticket, kd=loss, method=method))
            paths.append(transfer_run(tmp_path / ticket, "rte", {0: score}, ticket=ticket, method=method))
    result = predictors(paths)
    one = found(result, "kd[wikitext-2]", "rte")
    xs, ys, _ = zip(*points, strict=True)
    whole = stats.pearsonr(xs, ys).statistic
    parts = [
        stats.pearsonr(*zip(*[(x, y) for x, y, method in points if method != out], strict=True)).statistic
        for out in "abcde"
    ]
    error = np.sqrt(4 / 5 * np.sum((np.arctanh(parts) - np.mean(np.arctanh(parts))) ** 2))
    half = stats.t.ppf(0.975, 4) * error
    assert (one["n"], one["methods"], one["no_interval"]) == (15, 5, None)
    assert one["pearson_interval"] == pytest.approx(tuple(np.tanh(np.arctanh(whole) + np.array([-half, half]))))
    assert one["pearson"] == pytest.approx(whole)
    assert whole < -0.9
    assert one["within_method"]["pearson"] == pytest.approx(1.0)
    assert one["within_method"]["groups"] == 5
    assert "within methods too" in views.analysis_table(result).text()


def test_texts_of_one_name_that_were_cut_differently_are_columns_of_their_own(tmp_path):
    paths = [
        transfer_run(tmp_path / "t", "rte", {0: 0.6}, ticket="a"),
        evaluation(tmp_path / "1.json", "a", kd=0.1, mlm=2.0),
        evaluation(tmp_path / "2.json", "a", kd=0.2, segments="lines"),
        evaluation(tmp_path / "3.json", "a", kd=0.3, kd_distance="mse"),
        evaluation(tmp_path / "4.json", "a", kd=0.1, kd_distance="cosine"),  # what a file without it means
    ]
    (row,) = predictors(paths)["rows"]
    assert row["predictors"] == {
        "kd[wikitext-2 packed:128 cosine]": 0.1,
        "mlm[wikitext-2]": 2.0,
        "kd[wikitext-2 lines cosine]": 0.2,
        "kd[wikitext-2 packed:128 mse]": 0.3,
    }
    paths[2:] = [evaluation(tmp_path / "5.json", "a", kd=0.2, corpus_hash="c1", corpus="/other/wikitext-2")]
    assert set(predictors(paths)["rows"][0]["predictors"]) == {
        "kd[wikitext-2 c0]",
        "kd[wikitext-2 c1]",
        "mlm[wikitext-2]",
    }


def test_dense_models_are_joined_by_weights_where_both_say_them(tmp_path):
    run = transfer_run(tmp_path / "t", "rte", {0: 0.6}, ticket=None, sparsity=0.0, model="moved", base_hash="h1")
    by_hash = evaluation(tmp_path / "1.json", None, kd=0.0, base_hash="h1")
    assert predictors([run, by_hash])["rows"][0]["scores"] == {"rte": 0.6}
    other = evaluation(tmp_path / "2.json", None, kd=0.0, base_hash="h2")
    with pytest.raises(UsageError, match="No ticket has both an evaluation and a transfer run"):
        predictors([run, other])


def test_the_distance_from_omp_is_a_predictor_too(tmp_path):
    point = {"ticket_id": "a", "to_reference": 0.25, "folder": "x/step-000100"}
    search = {"method": "mask-training", "objective": "mlm", "sparsity": 0.6, "checkpoints": [point]}
    (tmp_path / "d.json").write_text(json.dumps({"kind": "distance", "reference": None, "searches": [search]}))
    run = transfer_run(tmp_path / "t", "rte", {0: 0.6}, ticket="a")
    (row,) = predictors([tmp_path / "d.json", run])["rows"]
    assert row["predictors"] == {"distance[OMP]": 0.25}
    assert (row["method"], row["label"]) == ("mask-training mlm", "step-000100")


def test_what_is_not_joined_is_named_and_the_same_run_twice_is_one(world, tmp_path):
    lonely = evaluation(tmp_path / "lonely.json", "z", kd=0.3)
    unseen = transfer_run(tmp_path / "unseen", "sst2", {0: 0.5}, ticket="y", steps=20)
    result = predictors([*world, lonely, unseen, world[4]])
    assert result["not_transferred"] == ["/tickets/z"]
    assert result["not_evaluated"] == [str(unseen / "seed-0" / "result.json")]
    values = {"dense": [10], "tickets": [10, 20]}
    assert result["different_settings"] == [{"task": "sst2", "setting": "steps", "values": values}]
    again = transfer_run(tmp_path / "again", "sst2", {0: 0.5}, ticket="a")
    with pytest.raises(ContentError, match=r"two different scores of one ticket for sst2 with seed 0: "):
        predictors([*world, again])


def test_runs_of_one_ticket_from_other_weights_are_not_averaged_without_a_word(world, tmp_path):
    other = transfer_run(tmp_path / "other", "rte", {7: 0.5}, ticket="a", start_from="reinit")
    (one,) = predictors([*world, other])["different_settings"]
    values = {"tickets": ["pretrained", "reinit"]}
    assert (one["setting"], one["task"], one["values"]) == ("start_from", "rte", values)


def test_refusals(world, tmp_path):
    with pytest.raises(UsageError, match=r"Found no transfer runs .* among the paths"):
        predictors([world[0]])
    with pytest.raises(UsageError, match=r"Found no evaluations .* among the paths"):
        predictors([world[1]])
    with pytest.raises(UsageError, match="There is no transfer run .*nowhere"):
        predictors([*world, tmp_path / "nowhere"])
    (tmp_path / "strange.json").write_text('{"verb": "search"}')
    with pytest.raises(ContentError, match="neither an evaluation .* nor a transfer result"):
        predictors([*world, tmp_path / "strange.json"])
    other = evaluation(tmp_path / "other.json", "a", kd=0.7)
    with pytest.raises(ContentError, match=r"kd\[wikitext-2\] of /tickets/a is 0.1 in .*a.json and 0.7 in .*other"):
        predictors([*world, other])


def test_results_that_the_verbs_really_write_are_joined(tmp_path, capsys, monkeypatch):
    from samples.tiny_models import TEXT, make_model

    quiet = Runtime(quiet=True)
    (tmp_path / "c.txt").write_text("\n".join(TEXT))
    rows = [f"{line},{'animal' if i % 3 else 'other'}" for i, line in enumerate(TEXT)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *rows]))
    search(SearchConfig(model=str(make_model(tmp_path / "m")), method="magnitude"), tmp_path / "ticket", quiet)
    paths = []
    for name in ("m", "ticket"):
        target, file = str(tmp_path / name), str(tmp_path / "t.csv")
        measured = evaluate(EvaluateConfig(target=target, objectives=("kd",), corpus=str(tmp_path / "c.txt")), quiet)
        (tmp_path / f"{name}.json").write_text(json.dumps(measured))
        config = TransferConfig(target=target, train_file=file, validation_file=file, seeds=(0,), steps=1)
        transfer(config, tmp_path / f"run-{name}", quiet)
        paths += [tmp_path / f"{name}.json", tmp_path / f"run-{name}"]
    (tmp_path / "run-m" / "result.json").unlink()  # as while other seeds are still running
    code, out, err = command_line(capsys, monkeypatch)("analyse", "predictors", *paths, "--json")
    assert (code, err) == (0, "")
    dense, ticket = json.loads(out)["rows"]
    assert (dense["method"], ticket["method"], ticket["label"]) == ("dense", "magnitude", "ticket")
    assert dense["predictors"]["kd[c.txt]"] == pytest.approx(0.0, abs=1e-6)
    assert ticket["predictors"]["kd[c.txt]"] > 0.01
