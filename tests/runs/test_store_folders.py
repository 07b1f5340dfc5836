"""Runs that were made with `--out`, found below a folder."""

import json

import pytest

import winning_tickets as wt
from samples.results import transfer_result
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.locks import hold
from winning_tickets.runs.store.folders import find_records


def make_run(folder, verb="transfer", result=None, marker="config.json", **config):
    folder.mkdir(parents=True)
    (folder / marker).write_text(json.dumps({"verb": verb, "id": f"{verb}-1", "config": config}))
    if result is not None:
        (folder / "result.json").write_text(json.dumps({"verb": verb, **result}))


@pytest.fixture
def folder(tmp_path):
    """A transfer with a seed and a model, a failed one, a head, and a search that has not finished."""
    result = transfer_result({0: 0.74, 1: 0.76}, machine={"cpus": 2})
    make_run(tmp_path / "all" / "rte" / "dense", result=result, task="rte")
    seed = {"seed": 0, "task": "rte", "final": {"accuracy": 0.74}, "best": {"accuracy": 0.74}}
    seed |= {"primary_metric": "accuracy", "ticket_id": None, "sparsity": 0.0}
    make_run(tmp_path / "all" / "rte" / "dense" / "seed-0", "transfer-seed", seed)
    (tmp_path / "all" / "rte" / "dense" / "model").mkdir()
    (tmp_path / "all" / "rte" / "dense" / "model" / "config.json").write_text('{"model_type": "bert"}')
    make_run(tmp_path / "all" / "mrpc", result=transfer_result({}, failed_seeds=[1]), task="mrpc")
    quality = {"mlm_loss": 2.0, "perplexity": 7.4, "mlm_accuracy": 0.5}
    fitted = {"model": "m", "steps": 3, "start": quality, "final": quality}
    make_run(tmp_path / "all" / "head", "fit-head", fitted, marker="fit_head.json")
    (tmp_path / "all" / "head" / "config.json").write_text('{"model_type": "bert"}')
    make_run(tmp_path / "all" / "search", "search", sparsity=0.7)
    (tmp_path / "all" / "notes").mkdir()
    return tmp_path / "all"


def test_every_run_is_listed_once_by_its_path(folder):
    found = {record.id: record for record in find_records(folder)}
    assert list(found) == ["head", "mrpc", "rte/dense", "search"]
    assert [one.status for one in found.values()] == ["done", "unfinished", "done", "unfinished"]
    assert [one.verb for one in found.values()] == ["fit-head", "transfer", "transfer", "search"]
    assert found["rte/dense"].machine == {"cpus": 2}
    assert [one.id for one in find_records(folder / "search")] == ["search"]
    with hold(folder / "search"):
        assert [one.id for one in find_records(folder, status="running")] == ["search"]


def test_conditions_and_data_frames(folder):
    assert [one.id for one in find_records(folder, ["task=rte"])] == ["rte/dense"]
    frame = wt.stored_runs(folder, "metrics.accuracy.final.mean>0.7")
    assert list(frame["id"]) == ["rte/dense"]
    assert list(frame["config.task"]) == ["rte"]
    with pytest.raises(UsageError, match="No run has the key 'tsk' of --where. Did you mean task"):
        find_records(folder, ["tsk=rte"])


def test_a_damaged_result_is_a_failed_run(folder):
    (folder / "search" / "result.json").write_text("{")
    (record,) = find_records(folder, status="failed")
    assert record.id == "search"
    assert "result.json" in record.error["message"]


def test_what_has_no_runs_is_refused(folder):
    with pytest.raises(UsageError, match="There are no runs in .*notes; give a store, or a folder with runs"):
        find_records(folder / "notes")
    with pytest.raises(UsageError, match="There is no folder .*nowhere"):
        find_records(folder / "nowhere")


def test_the_command_line(folder, tickets):
    code, out, err = tickets("runs", folder)
    assert (code, err) == (0, "")
    assert out.splitlines()[2] == "done       transfer  rte/dense  accuracy 75.0 ± 1.4"
    assert out.splitlines()[-1] == f"{folder}: 4 runs (2 done, 2 unfinished)"
    code, out, _ = tickets("runs", folder, "--csv", "--status", "done")
    assert out.splitlines()[0].startswith("id,verb,status")
    assert len(out.splitlines()) == 3
    code, _, err = tickets("runs", "--store", folder.parent / "nowhere")
    assert code == 2
    assert "give one with --store, or a FOLDER with runs" in err
