"""`tickets runs`, also with `--verify`: what it prints, and what it finds."""

import csv
import io
import json

import pytest

from samples.results import transfer_result
from samples.tiny_models import TEXT, make_model
from winning_tickets.deploy.verify import verify
from winning_tickets.models.loading import load_plm
from winning_tickets.models.weights import StateInfo, save_state
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.files import write_json
from winning_tickets.runs.store.store import Store


def result_of(mean, std):
    final = {"mean": mean, "std": std, "values": [mean]}
    return transfer_result({0: mean}, metrics={"accuracy": {"final": final, "best": final}})


@pytest.fixture
def store(tmp_path):
    """Three runs: one done, one failed, one unfinished."""
    made = Store(tmp_path / "store")
    with made.claim("dense"):
        made.describe("dense", "transfer", {"task": "rte", "sparsity": 0.0}, {"stage": "transfer"})
        run = RunDirectory.claim(made.folder("dense"), "transfer", "x", {"task": "rte", "sparsity": 0.0, "seeds": [0]})
        run.log({"step": 1})
        run.finish(result_of(0.75, 0.0125))
        made.seal("dense")
    made.describe("imp-70", "transfer", {"task": "mrpc", "sparsity": 0.7})
    made.fail("imp-70", "The loss is NaN.\nLower --learning-rate.")
    made.describe("kd-70", "search", {"sparsity": 0.7, "method": "mask-training"})
    return made


def test_runs_as_text(tickets, store):
    code, out, err = tickets("runs", "--store", store.path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("done       transfer  dense   accuracy 75.0 ± 1.2, ")
    assert lines[1:] == [
        "failed     transfer  imp-70  The loss is NaN.",
        "unfinished search    kd-70",
        f"{store.path}: 3 runs (1 done, 1 failed, 1 unfinished)",
    ]


def test_runs_as_json(tickets, store):
    code, out, _ = tickets("runs", "--store", store.path, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["store"] == str(store.path)
    assert found["counts"] == {"done": 1, "failed": 1, "unfinished": 1}
    assert [run["id"] for run in found["runs"]] == ["dense", "imp-70", "kd-70"]
    assert found["runs"][0]["result"] == result_of(0.75, 0.0125)
    assert found["runs"][1]["error"]["message"] == "The loss is NaN.\nLower --learning-rate."
    assert found["runs"][2] | {"versions": 0} == {
        "id": "kd-70", "verb": "search", "status": "unfinished", "config": {"sparsity": 0.7, "method": "mask-training"},
        "result": None, "error": None, "labels": {}, "seconds": None, "resumed": None, "peak_memory": None,
        "versions": 0, "machine": {}, "finished_at": None, "source": None,
    }  # fmt: skip


def test_runs_as_csv(tickets, store):
    code, out, _ = tickets("runs", "--store", store.path, "--csv")
    assert code == 0
    first, second, third = csv.DictReader(io.StringIO(out))
    assert first["config.sparsity"] == "0.0"
    assert first["config.seeds"] == "[0]"
    assert first["labels.stage"] == "transfer"
    assert first["result.metrics.accuracy.final.mean"] == "0.75"
    assert first["error.message"] == ""
    assert second["error.message"] == r"The loss is NaN.\nLower --learning-rate."  # one line of a terminal
    assert (third["config.method"], third["result.metrics.accuracy.final.mean"]) == ("mask-training", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--where", "task=rte"], ["dense"]),
        (["--where", "config.sparsity>=0.6"], ["imp-70", "kd-70"]),
        (["--where", "config.sparsity>=0.6", "--where", "verb=search"], ["kd-70"]),
        (["--where", "metrics.accuracy.final.mean>0.7"], ["dense"]),
        (["--status", "failed"], ["imp-70"]),
        (["--status", "running"], []),
    ],
)
def test_runs_are_filtered(tickets, store, words, expected):
    code, out, _ = tickets("runs", "--store", store.path, "--json", *words)
    assert code == 0
    assert [run["id"] for run in json.loads(out)["runs"]] == expected


def test_the_store_of_the_environment_and_the_usual_place(tickets, store, monkeypatch, tmp_path):
    monkeypatch.setenv("WINNING_TICKETS_STORE", str(store.path))
    assert json.loads(tickets("runs", "--json")[1])["counts"]["done"] == 1
    monkeypatch.delenv("WINNING_TICKETS_STORE")
    monkeypatch.chdir(tmp_path)
    assert tickets("runs") == (
        2, "", "Error: There is no store at tickets-store; give one with --store, or a FOLDER with runs.\n",
    )  # fmt: skip
    store.path.rename(tmp_path / "tickets-store")
    assert tickets("runs")[1].splitlines()[-1].startswith("tickets-store: 3 runs")


def test_verify_finds_nothing_in_an_intact_store(tickets, store):
    code, out, err = tickets("runs", "--store", store.path, "--verify")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("nothing is wrong; 3 files hashed (0.0 MB), 0 without hashes opened; 3 runs")


def test_verify_finds_what_changed_is_missing_extra_or_left_over(tickets, store):
    folder = store.folder("dense")
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text.replace("0.75", "0.95"))
    (folder / "metrics.jsonl").unlink()
    (folder / "notes.txt").write_text("mine")
    (folder / ".result.json.0a1b2c3d.tmp").write_text("half")
    (store.path / "runs" / "not a run").mkdir()
    code, out, err = tickets("runs", "--store", store.path, "--verify", "--json")
    assert (code, err) == (1, "")
    found = json.loads(out)
    assert not found["ok"]
    by_kind = {one["kind"]: one for one in found["findings"]}
    assert [one["kind"] for one in found["findings"]] == ["extra", "missing", "changed", "extra", "leftover"]
    assert by_kind["changed"]["path"] == str(folder / "result.json")
    assert by_kind["changed"]["detail"].startswith("has the xxh3-128 ")
    assert by_kind["missing"] == {
        "kind": "missing",
        "path": str(folder / "metrics.jsonl"),
        "detail": "12 bytes were there when the run was sealed",
    }
    assert found["findings"][0]["path"] == str(store.path / "runs" / "not a run")
    (folder / "result.json").write_text(text + " ")
    assert f"changed: {folder / 'result.json'}: has {len(text) + 1} bytes, had {len(text)}" in tickets(
        "runs", folder, "--verify"
    )[1].replace("±", "")
    (store.path / "about" / "dense" / "files.json").write_text('{"files": 3}')
    assert verify([folder])["findings"][0]["kind"] == "damaged"


def test_verify_leaves_running_runs_alone_and_names_unsealed_ones(store):
    with store.claim("busy"):
        store.describe("busy", "search", {})
        (store.path / "about" / "busy" / ".run.json.0a1b2c3d.tmp").write_text("half")
        result = verify([store.path])
        assert (result["ok"], result["running"]) == (True, ["busy"])
    result = verify([store.path])
    assert [one["kind"] for one in result["findings"]] == ["leftover"]
    (store.path / "about" / "dense" / "files.json").unlink()
    assert verify([store.folder("dense")])["unsealed"] == ["dense"]
    assert verify([store.folder("dense")])["files_opened"] == 2


def test_seal_removes_leftovers(store):
    with store.claim("a"):
        run = RunDirectory.claim(store.folder("a"), "search", "a", {})
        (run.path / "seed-0").mkdir()
        (run.path / "seed-0" / ".metrics.jsonl.0a1b2c3d.tmp").write_text("half")
        (run.path / ".model.0a1b2c3d.tmp").mkdir()
        (run.path / ".hidden.txt").write_text("kept")
        run.finish({})
        store.seal("a")
    assert sorted(path.name for path in run.path.rglob("*")) == [".hidden.txt", "config.json", "result.json", "seed-0"]
    assert verify([store.path])["ok"]


def test_verify_of_single_folders(tickets, tmp_path):
    make_model(tmp_path / "model", head="mlm+pooler")
    (tmp_path / "corpus.txt").write_text("\n".join(TEXT))
    made = tmp_path / "made"
    ticket, exported = made / "ticket", made / "exported"
    assert tickets("search", tmp_path / "model", "--method", "magnitude", "--out", ticket)[0] == 0
    assert tickets("export", ticket, "--format", "masked", "--out", exported)[0] == 0
    code, out, _ = tickets("runs", made, "--verify", "--json")
    result = json.loads(out)
    assert (code, result["findings"], result["files_hashed"]) == (0, [], 2)
    assert result["files_opened"] >= 4

    path = ticket / "ticket.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    weights = exported / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (exported / "config.json").write_text("{")
    code, out, _ = tickets("runs", made, "--verify")
    assert code == 1
    lines = out.splitlines()
    assert lines[0].startswith(f"damaged: {ticket / 'ticket.json'}: {path} does not match its checksum in ticket.json")
    assert lines[1].startswith(f"damaged: {weights}: cannot be read")
    assert f"damaged: {exported / 'config.json'}" in lines[2]
    assert lines[3].startswith("3 findings; ")


def test_verify_checks_states_and_importances(tmp_path):
    make_model(tmp_path / "model")
    plm = load_plm(str(tmp_path / "model"))
    path = tmp_path / "run" / "states" / "end.safetensors"
    save_state(path, plm.encoder, info=StateInfo(base_hash="x", what="after a round", step=1, seed=0))
    write_json(tmp_path / "run" / "config.json", {})
    assert verify([tmp_path / "run"])["files_hashed"] == 1
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    (finding,) = verify([tmp_path / "run"])["findings"]
    assert "does not match its own checksum" in finding["detail"]
    write_json(tmp_path / "run" / "importance.json", {"format_version": 1})
    assert "does not match its checksums" in verify([tmp_path / "run"])["findings"][0]["detail"]


def test_verify_refuses_what_is_not_ours(tickets, tmp_path):
    (tmp_path / "photos").mkdir()
    code, out, err = tickets("runs", tmp_path / "photos", "--verify")
    assert (code, out) == (2, "")
    assert err.endswith("photos is neither a store nor the folder of a run, ticket or export.\n")
    with pytest.raises(UsageError, match="There is nothing at .*nowhere; give a store, or the folder of a run"):
        verify([tmp_path / "nowhere"])
    assert tickets("runs", "--store", tmp_path / "nowhere", "--verify")[0] == 2
