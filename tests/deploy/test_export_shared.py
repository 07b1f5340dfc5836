"""Exports of one task of a shared model, and of its encoder: others load what the task computes with its ticket."""

import sys

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from samples.tiny_models import TEXT, make_model
from samples.tiny_shared import make_shared
from winning_tickets import (
    Runtime,
    SearchConfig,
    TransferConfig,
    cli,
    export,
    load_compact,
    measure,
    predict,
    search,
    transfer,
)
from winning_tickets.data.tasks import TASKS
from winning_tickets.finetuning.adaptation import Adaptation
from winning_tickets.finetuning.sharing_trainer import TaskTickets
from winning_tickets.models.loading import PLM
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import write_json
from winning_tickets.training.shared_model import SharedModel

QUIET = Runtime(quiet=True)
IDS = torch.arange(5, 25).view(2, 10)
NAMES = ("mnli", "rte", "stsb")


@pytest.fixture(scope="module")
def tickets(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    base = str(make_model(path / "bert", head="mlm+pooler"))
    fields = {"method": "importance", "selection": "random", "objective": "kd", "prune_heads": (1,), "prune_ffns": (1,)}
    structured = search(SearchConfig(model=base, **fields), path / "structured", QUIET)
    single = search(SearchConfig(model=base, method="magnitude", sparsity=0.6), path / "single", QUIET)
    return base, {"mnli": structured, "rte": single}


@pytest.fixture(scope="module")
def run(tickets, tmp_path_factory):
    """A share with one seed: gates, masks of single weights, no ticket."""
    seed = tmp_path_factory.mktemp("shared") / "out" / "seed-0"
    make_shared(seed / "model", tickets[0], NAMES, tickets[1])
    write_json(seed / "result.json", {"model": tickets[0]})
    return seed.parent


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


def expected(run, tickets, task):
    """What tickets sharing computes for a task, with gates where it has them."""
    plm: PLM = SharedModel.open(run / "seed-0" / "model").load_task(task)
    with TaskTickets(plm.encoder, tickets[1], allow_other_weights=True).acting(task):
        return logits(plm.model)


@pytest.mark.parametrize("task", NAMES)
def test_a_masked_export_is_the_task_with_its_ticket(tmp_path, run, tickets, task):
    result = export(run, "masked", tmp_path / "e", task=task)
    ticket = tickets[1].get(task)
    assert (result["task"], result["ticket_id"]) == (task, None if ticket is None else ticket.id)
    assert ("none of its weights were pruned" in result["note"]) == (ticket is None)
    assert (result["model_class"], result["sparsity"]) == (
        "BertForSequenceClassification",
        0.0 if ticket is None else ticket.sparsity,
    )
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "e")
    # Zeros in weights against gates on states: equal up to the rounding of a CPU.
    torch.testing.assert_close(logits(model), expected(run, tickets, task), atol=1e-5, rtol=0)
    for name, mask in ({} if ticket is None else ticket.masks).items():
        assert not model.bert.get_parameter(name)[~mask].any()
    for place in (run / "seed-0", run / "seed-0" / "model"):
        assert export(place, "masked", tmp_path / "e", task=task)["id"] == result["id"]  # the same export: kept
    pair = (TEXT[0], TEXT[1])
    (told,) = predict(tmp_path / "e", [pair])["predictions"]
    assert set(told["scores"]) == set(TASKS[task].labels) if task != "stsb" else "score" in told
    shapes = measure(str(tmp_path / "e"), (1,), (8,), repeats=1, runtime=QUIET)
    assert shapes["kind"] == "model"


def test_the_exports_of_two_tasks_are_two_exports(tmp_path, run):
    export(run, "masked", tmp_path / "e", task="mnli")
    with pytest.raises(UsageError, match="holds another export .*, this one is export-masked"):
        export(run, "masked", tmp_path / "e", task="rte")


def test_a_compact_export_computes_the_same_with_smaller_matrices(tmp_path, run, tickets):
    result = export(run, "compact", tmp_path / "e", task="mnli")
    assert result["parameters"]["compact"] < result["parameters"]["dense"]
    model = load_compact(tmp_path / "e", head="classification")
    torch.testing.assert_close(logits(model), expected(run, tickets, "mnli"), atol=1e-5, rtol=0)
    assert predict(tmp_path / "e", [(TEXT[0], TEXT[1])])["ticket_id"] == tickets[1]["mnli"].id
    found = measure(str(tmp_path / "e"), (1,), (8,), repeats=1, runtime=QUIET)
    assert found["parameters"]["encoder"] == result["parameters"]["compact"]


@pytest.mark.slow
def test_an_onnx_export_computes_the_same(tmp_path, run, tickets):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(run, "onnx", tmp_path / "e", task="mnli")
    session = onnxruntime.InferenceSession(str(tmp_path / "e" / "model.onnx"))
    inputs = {"input_ids": IDS.numpy(), "attention_mask": np.ones_like(IDS), "token_type_ids": np.zeros_like(IDS)}
    (found,) = session.run(None, inputs)
    np.testing.assert_allclose(found, expected(run, tickets, "mnli").numpy(), atol=1e-4)


def test_the_shared_encoder_alone_holds_all_weights_and_no_ticket(tmp_path, run):
    result = export(run, "encoder", tmp_path / "e")
    assert (result["tasks"], result["ticket_id"], result["model_class"]) == (list(NAMES), None, "BertModel")
    loaded = dict(AutoModel.from_pretrained(tmp_path / "e").named_parameters())
    shared = dict(SharedModel.open(run / "seed-0" / "model").load_encoder().encoder.named_parameters())
    assert loaded.keys() == shared.keys()
    assert all(torch.equal(value, shared[name]) for name, value in loaded.items())
    assert export(run, "encoder", tmp_path / "e")["id"] == result["id"]
    assert measure(str(tmp_path / "e"), (1,), (8,), repeats=1, runtime=QUIET)["dense"] is None


def test_only_the_files_with_a_checksum_leave_a_shared_model(tmp_path, tickets):
    made = SharedModel.open(make_shared(tmp_path / "m", tickets[0], ("rte", "mnli"), {}))
    encoder = tmp_path / "m" / "encoder"
    (encoder / "notes.txt").write_text("mine alone")
    (tmp_path / "key").write_text("mine alone")
    (encoder / "key").symlink_to(tmp_path / "key")
    export(tmp_path / "m", "encoder", tmp_path / "e")
    assert {path.name for path in (tmp_path / "e").iterdir()} == {*made.encoder_files, "export.json", "README.md"}
    (encoder / "config.json").rename(tmp_path / "config.json")
    (encoder / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(ContentError, match="config.json is a link out of"):
        export(tmp_path / "m", "encoder", tmp_path / "f")
    assert not (tmp_path / "f").exists()


@pytest.fixture(scope="module")
def adapted(run, tmp_path_factory):
    """The task rte of the shared model, fine-tuned on a file."""
    path = tmp_path_factory.mktemp("adapted")
    rows = [f"{TEXT[i % 6]},{TEXT[i % 5]},{('entailment', 'not_entailment')[i % 2]}" for i in range(16)]
    (path / "data.csv").write_text("\n".join(["a,b,label", *rows]))
    file = str(path / "data.csv")
    fields = {"train_file": file, "validation_file": file, "text_columns": ("a", "b"), "steps": 2, "save_model": True}
    config = TransferConfig(target=str(run), from_task="rte", **fields)
    return transfer(config, path / "out", QUIET), path / "out", config


def test_a_task_taken_out_is_fine_tuned_like_the_shared_model(tmp_path, run, adapted):
    """The masked export carries its ticket along."""
    result, _, config = adapted
    assert result["head"] == "kept"
    export(run, "masked", tmp_path / "e", task="rte")
    other = transfer(config.model_copy(update={"target": str(tmp_path / "e")}), tmp_path / "out", QUIET)
    assert other["metrics"] == result["metrics"]
    assert (other["ticket_id"], other["start_hash"]) == (result["ticket_id"], result["start_hash"])


@pytest.mark.parametrize("format_", ["masked", "encoder"])
def test_exports_of_an_adapted_run(tmp_path, adapted, tickets, format_):
    result, out, _ = adapted
    written = export(out, format_, tmp_path / "e")
    assert (written["task"], written["ticket_id"]) == ("local", tickets[1]["rte"].id)
    own = AutoModel.from_pretrained(out / "seed-0" / "model").named_parameters()
    loaded = dict(AutoModel.from_pretrained(tmp_path / "e").named_parameters())
    assert all(torch.equal(value, loaded[name]) for name, value in own)
    if format_ == "masked":
        assert result["head"] == "kept"
        assert Adaptation.find(TransferConfig(target=str(tmp_path / "e")), TASKS["rte"]).head.note == "kept"


@pytest.mark.parametrize(
    ("format_", "fields", "message"),
    [
        ("masked", {}, "is shared by mnli, rte, stsb; say which of them with --task"),
        ("compact", {"task": "mrpc"}, "mrpc"),
        ("encoder", {"task": "rte"}, "--task cannot be used with --format encoder; leave it out"),
        ("masked", {"task": "rte", "base": "x"}, "--base needs a ticket, and .*out is not one"),
        ("masked", {"task": "rte", "seed": 3}, "has no model of seed 3; there are those of 0"),
    ],
)
def test_refusals(tmp_path, run, format_, fields, message):
    with pytest.raises(UsageError, match=message):
        export(run, format_, tmp_path / "e", **fields)
    assert not (tmp_path / "e").exists()


def test_tasks_of_what_has_only_one(tmp_path, tickets, adapted):
    with pytest.raises(UsageError, match="--task rte chooses a task of a shared model, and .*single is not one"):
        export(str(tickets[0]).replace("bert", "single"), "masked", tmp_path / "e", task="rte")
    with pytest.raises(UsageError, match="knows the task local only, and rte was asked for"):
        export(adapted[1], "masked", tmp_path / "e", task="rte")
    with pytest.raises(UsageError, match="--format encoder takes the encoder out of a transfer or share .* is not one"):
        export(str(tickets[0]).replace("bert", "single"), "encoder", tmp_path / "e")


def test_where_nothing_can_be_removed_compact_says_so(tmp_path, run):
    with pytest.raises(UsageError, match="Nothing can be removed: no head, neuron or FFN is pruned as a whole"):
        export(run, "compact", tmp_path / "e", task="stsb")


def test_a_shared_model_is_no_single_model(run):
    with pytest.raises(UsageError, match="model that several tasks share; take one of them out first: tickets export"):
        predict(run, [("a", "b")])


def test_a_damaged_shared_model_is_named(tmp_path, tickets):
    make_shared(tmp_path / "m", tickets[0], ("rte",), {"rte": tickets[1]["rte"]})
    file = tmp_path / "m" / "tasks" / "rte" / "head.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ContentError, match="head.safetensors does not match its checksum"):
        export(tmp_path / "m", "masked", tmp_path / "e")


def test_the_command_line(tmp_path, run, monkeypatch, capsys):
    words = ["tickets", "export", run, "--task", "rte", "--format", "masked", "--out", tmp_path / "e"]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"masked export written to {tmp_path / 'e'}\n")
