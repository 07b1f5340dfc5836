"""Analyses take what verbs returned, and single ones without a list, as they take folders and files."""

import json

import pytest
from transformers import AutoModel

import winning_tickets as wt
from samples.analyse_samples import transfer_run as run
from samples.tiny_models import TEXT, make_model
from winning_tickets.runs.errors import ContentError, UsageError


def result_of(folder):
    return wt.Result(json.loads((folder / "result.json").read_text()) | {"run_id": folder.name}, "transfer")


def numbers(found, *named):
    """A result without the names of its files."""
    return {key: value for key, value in found.items() if key not in ("groups", *named)}


@pytest.fixture
def runs(tmp_path):
    """Folders of two tickets of different sparsities and of the dense model."""
    return [
        run(tmp_path / "a", "rte", {0: 0.60, 1: 0.50}, ticket="a", batch_size=8),
        run(tmp_path / "b", "rte", {0: 0.50, 1: 0.55}, ticket="b", sparsity=0.7),
        run(tmp_path / "d", "rte", {0: 0.6, 1: 0.65}, ticket=None, sparsity=0.0, batch_size=8),
    ]


def test_gains_and_winning_tickets_of_results(runs):
    first, second, dense = map(result_of, runs)
    found = wt.analysis.gain([first], [second], [dense])
    assert numbers(found) == numbers(wt.analysis.gain([runs[0]], [runs[1]], [runs[2]]))
    assert numbers(found) == numbers(wt.analysis.gain(first, second, dense))
    assert numbers(found) == numbers(wt.analysis.gain(runs[0], str(runs[1]), runs[2]))
    assert found.groups["target"]["runs"] == ["a (in memory)"]
    winning = wt.analysis.winning([first, runs[1]], dense)
    assert winning == wt.analysis.winning(runs[:2], [runs[2]])


def test_what_is_no_transfer_is_refused(runs):
    dense = result_of(runs[2])
    with pytest.raises(ContentError, match="is a run of the dense model; give it after --dense"):
        wt.analysis.winning(dense, dense)
    said = r"x \(in memory\) is not a result of tickets transfer but a result of tickets search; give a folder"
    with pytest.raises(ContentError, match=said):
        wt.analysis.gain({"verb": "search", "run_id": "x"}, runs[0])
    with pytest.raises(UsageError, match="No target run was given"):
        wt.analysis.gain([], runs[0])


def test_predictors_of_results(tmp_path):
    bert = str(make_model(tmp_path / "bert"))
    ticket = wt.search(bert, method="magnitude", sparsity=0.5)
    kept = wt.evaluate(ticket, corpus=TEXT, segments="lines", quiet=True)
    scores = result_of(run(tmp_path / "run", "rte", {0: 0.6, 1: 0.5}, ticket=ticket.id))
    found = wt.analysis.predictors([kept, scores])
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    other = wt.analysis.predictors([tmp_path / "kept.json", tmp_path / "run"])
    assert found.rows == other.rows
    (row,) = found.rows
    assert row["scores"] == {"rte": 0.55}


def test_tickets_and_models_in_memory(tmp_path):
    bert = str(make_model(tmp_path / "bert"))
    model = AutoModel.from_pretrained(bert)
    model.name_or_path = model.config._name_or_path = ""
    ticket = wt.search(model, method="random", sparsity=0.5)
    ticket.save_pretrained(tmp_path / "ticket")
    found = wt.analysis.distance(ticket, base=model)
    other = wt.analysis.distance(tmp_path / "ticket", base=bert)
    assert found.searches[0]["checkpoints"][0] | {"folder": ""} == other.searches[0]["checkpoints"][0] | {"folder": ""}
    tickets = [
        wt.search(bert, method="importance", selection="random", seed=seed, level="50%", objective="kd")
        for seed in range(2)
    ]
    for seed, one in enumerate(tickets):
        one.save_pretrained(tmp_path / f"task-{seed}")
    found = wt.analysis.sharing(tickets, names=["rte", "cola"], base=model)
    other = wt.analysis.sharing([tmp_path / "task-0", tmp_path / "task-1"], names=["rte", "cola"])
    assert found.structures == other.structures
    assert found.union == other.union
