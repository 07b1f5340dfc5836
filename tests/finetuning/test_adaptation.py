"""Fine-tuning that goes on from a fine-tuned model: its weights, its ticket, what is kept of its head, refusals."""

import importlib
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from samples.tiny_models import CONFIGS, TEXT, make_model
from samples.tiny_shared import make_shared
from samples.tiny_tasks import split, task_data
from winning_tickets import Runtime, SearchConfig, TransferConfig, cli, export, predict, search, transfer
from winning_tickets.data.records import Task, TaskData
from winning_tickets.data.tasks import TASKS
from winning_tickets.finetuning.adaptation import KeptHead, kept_head
from winning_tickets.finetuning.setup import prepare_transfer
from winning_tickets.models.loading import base_hash, load_plm, weight_hashes
from winning_tickets.runs.errors import ContentError, Interrupted, UsageError
from winning_tickets.training.predict import encode_split, predict_split
from winning_tickets.training.saved_model import TaskInfo
from winning_tickets.training.shared_model import SharedModel
from winning_tickets.training.source import (
    FineTunedSource,
    ModelSource,
    OnnxSource,
    SharedSource,
    TicketSource,
    find_source,
    open_fine_tuned,
)

transfer_module = importlib.import_module("winning_tickets.finetuning.transfer")
preparing = importlib.import_module("winning_tickets.finetuning.setup")
loading = importlib.import_module("winning_tickets.training.task_data")
QUIET = Runtime(quiet=True)
OTHER_ORDER = Task("other", ("premise", "hypothesis"), ("contradiction", "entailment", "neutral"), ("accuracy",))
TWO_OF_THREE = Task("two", ("premise", "hypothesis"), ("contradiction", "entailment"), ("accuracy",))


def data_of(name, data_dir=None):
    """Data of registered tasks, and of two that have SNLI's texts and other labels."""
    if name in TASKS:
        return task_data(name)
    task = {"other": OTHER_ORDER, "two": TWO_OF_THREE}[name]
    return TaskData.of(task, split("scitail", 36), {"validation": split("scitail", 18)}, "files")


@pytest.fixture(autouse=True, scope="module")
def _tiny_tasks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_task", data_of)
        patch.setattr(preparing, "TASKS", {**TASKS, "other": OTHER_ORDER, "two": TWO_OF_THREE})
        yield


@pytest.fixture(scope="module")
def ticket(bert, tmp_path_factory):
    path = tmp_path_factory.mktemp("tickets") / "ticket"
    return search(SearchConfig(model=bert, method="magnitude", sparsity=0.6), path, QUIET)


@pytest.fixture(scope="module")
def structured(bert, tmp_path_factory):
    fields = {"method": "importance", "selection": "random", "objective": "kd"}
    config = SearchConfig(model=bert, prune_heads=(1,), prune_ffns=(1,), **fields)
    return search(config, tmp_path_factory.mktemp("tickets") / "structured", QUIET)


def config_of(target, **fields):
    defaults = {"task": "mnli", "steps": 4, "batch_size": 8, "learning_rate": 1e-3, "save_model": True}
    return TransferConfig(target=str(target), **(defaults | fields))


@pytest.fixture(scope="module")
def run(bert, ticket, tmp_path_factory):
    """A ticket fine-tuned on MNLI."""
    path = tmp_path_factory.mktemp("runs") / "mnli"
    ticket.save_pretrained(path.parent / "ticket")
    transfer(config_of(path.parent / "ticket", seeds=(1, 2)), path, QUIET)
    return path


@pytest.fixture(scope="module")
def shared(bert, structured, ticket, tmp_path_factory):
    """Three tasks on one encoder: gates, masks of single weights, no ticket."""
    folder = tmp_path_factory.mktemp("shared") / "seed-0" / "model"
    return make_shared(folder, bert, ("mnli", "rte", "stsb"), {"mnli": structured, "rte": ticket})


def logits(plm, name="snli"):
    encoded = encode_split(plm, split(name, 12), 64, TASKS[name].kind)
    return np.stack(predict_split(plm, encoded))


def started(config, seed=0):
    """The model of a seed before its first step."""
    return prepare_transfer(config, QUIET).load(seed)


def trained(folder):
    return load_file(folder / "seed-0" / "model" / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(("task", "rows"), [("snli", [0, 1, 2]), ("other", [2, 0, 1]), ("two", [2, 0])])
def test_before_any_step_the_logits_are_those_of_the_run(run, task, rows):
    expected = logits(load_plm(str(run / "seed-1" / "model"), head="classification", num_labels=3))
    plm = started(config_of(run, task=task), seed=7)
    # Fewer labels, or labels in another order, are a product of another shape, which each CPU sums in its own order.
    np.testing.assert_allclose(logits(plm), expected[:, rows], rtol=1e-5, atol=1e-5)
    task = preparing.TASKS[task]
    assert tuple(plm.model.config.id2label.values()) == task.labels


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_architecture_keeps_its_whole_head(tmp_path, kind):
    """Some heads have a layer before the output, some a pooler outside the encoder."""
    transfer(config_of(make_model(tmp_path / "m", kind), steps=1), tmp_path / "run", QUIET)
    expected = logits(load_plm(str(tmp_path / "run" / "seed-0" / "model"), head="classification", num_labels=3))
    found = logits(started(config_of(tmp_path / "run", task="other")))
    # The rows of the head in another order: the sums may be rounded differently.
    np.testing.assert_allclose(found, expected[:, [2, 0, 1]], rtol=1e-5, atol=1e-5)
    fresh = started(config_of(tmp_path / "run", task="qnli"))
    assert fresh.model.config.num_labels == 2
    assert started(config_of(tmp_path / "run", task="squad")).model.config.num_labels == 2


@pytest.mark.parametrize("task", ["mnli", "rte", "stsb"])
def test_a_task_of_a_shared_model_goes_on_from_what_it_computed(shared, structured, ticket, task):
    """Gates on states and zeros in weights give the same sums up to rounding; everything else is exact."""
    from winning_tickets.finetuning.sharing_trainer import TaskTickets

    plm = SharedModel.open(shared).load_task(task)
    tickets = TaskTickets(plm.encoder, {"mnli": structured, "rte": ticket}, allow_other_weights=True)
    with tickets.acting(task):
        expected = logits(plm, task)
    found = started(config_of(shared.parent, task=task))
    np.testing.assert_allclose(logits(found, task), expected, rtol=1e-5, atol=1e-5)
    prepared = prepare_transfer(config_of(shared, task=task), QUIET)
    held = {"mnli": structured.id, "rte": ticket.id, "stsb": None}[task]
    assert (prepared.target.ticket.id if prepared.target.ticket else None) == held


def info_of(task):
    return TaskInfo.of(TASKS[task], 64, None, None, sparsity=0.0)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("mnli", TASKS["snli"], KeptHead((0, 1, 2), "kept")),
        ("mnli", OTHER_ORDER, KeptHead((2, 0, 1), "kept")),
        ("mnli", TWO_OF_THREE, KeptHead((2, 0), "kept: 2 of 3 labels")),
        ("rte", TASKS["wnli"], KeptHead((1, 0), "kept")),
        ("stsb", TASKS["stsb"], KeptHead((0,), "kept")),
        ("squad", TASKS["squad"], KeptHead((0, 1), "kept")),
        (
            "rte",
            TASKS["scitail"],
            KeptHead(None, "fresh (labels differ: entails, neutral; the model has entailment, not_entailment)"),
        ),
        (
            "rte",
            TASKS["snli"],
            KeptHead(
                None,
                "fresh (labels differ: entailment, neutral, contradiction; the model has entailment, not_entailment)",
            ),
        ),
        (
            "cola",
            TASKS["pydocs"],
            KeptHead(
                None,
                "fresh (labels differ: asyncio, decimal, difflib, doctest and 16 more; the model has unacceptable, "
                "acceptable)",
            ),
        ),
        ("mnli", TASKS["stsb"], KeptHead(None, "fresh (kinds differ: regression; the model has classification)")),
    ],
)
def test_what_is_kept_of_a_head(old, new, expected):
    assert kept_head(info_of(old), new) == expected
    assert kept_head(info_of(old), new, fresh=True) == KeptHead(None, "fresh (--fresh-head)")


def test_a_fresh_head_is_drawn_by_each_seed_on_the_old_encoder(run):
    old = load_plm(str(run / "seed-1" / "model"), head="classification", num_labels=3)
    for fields in ({"task": "qnli"}, {"task": "snli", "fresh_head": True}):
        prepared = prepare_transfer(config_of(run, **fields), QUIET)
        heads = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            plm = prepared.load(seed)
            assert same(dict(plm.encoder.named_parameters()), dict(old.encoder.named_parameters()))
            heads.append(plm.model.classifier.weight)
        assert not torch.equal(*heads)
        if "fresh_head" in fields:
            assert not torch.equal(heads[0], old.model.classifier.weight)


def test_the_ticket_is_held_and_the_result_says_what_was_kept(tmp_path, run, ticket, bert):
    result = transfer(config_of(run, task="snli", train_size="50%"), tmp_path / "out", QUIET)
    assert (result["head"], result["from_task"], result["start_from"]) == ("kept", "mnli", str(run))
    assert (result["ticket_id"], result["sparsity"], result["model"]) == (ticket.id, ticket.sparsity, bert)
    assert result["base_hash"] == base_hash(weight_hashes(load_plm(bert).encoder))
    assert (result["train_examples"], len(result["start_hash"])) == (18, 32)
    seed = json.loads((tmp_path / "out" / "seed-0" / "result.json").read_text())
    assert (seed["head"], seed["from_task"], seed["start_hash"]) == ("kept", "mnli", result["start_hash"])
    tensors = trained(tmp_path / "out")
    for name, mask in ticket.masks.items():
        assert torch.equal(tensors[f"bert.{name}"] != 0, mask)
    before = load_file(run / "seed-1" / "model" / "model.safetensors")
    assert not torch.equal(tensors["classifier.weight"], before["classifier.weight"])
    again = transfer(config_of(tmp_path / "out", task="rte", steps=1), tmp_path / "third", QUIET)
    assert again["ticket_id"] == ticket.id
    assert again["head"] == (
        "fresh (labels differ: entailment, not_entailment; the model has entailment, neutral, contradiction)"
    )
    assert predict(tmp_path / "out", [(TEXT[0], TEXT[1])])["predictions"][0]["label"] in TASKS["snli"].labels


def test_structured_and_dense_parts_of_a_shared_model_are_fine_tuned(tmp_path, shared, structured):
    result = transfer(config_of(shared, task="mnli", steps=2), tmp_path / "out", QUIET)
    assert (result["ticket_id"], result["head"]) == (structured.id, "kept")
    tensors = trained(tmp_path / "out")
    for name, mask in structured.masks.items():
        assert not tensors[f"bert.{name}"][~mask].any()
    dense = transfer(config_of(shared, task="stsb", steps=1), tmp_path / "dense", QUIET)
    assert (dense["ticket_id"], dense["sparsity"], dense["head"]) == (None, 0.0, "kept")
    other = transfer(config_of(shared, task="scitail", from_task="rte", steps=1), tmp_path / "rte", QUIET)
    assert (other["from_task"], other["sparsity"]) == ("rte", pytest.approx(0.6, abs=0.01))


def test_a_stopped_adaptation_goes_on_to_the_same_bits_and_a_finished_one_is_kept(tmp_path, run, monkeypatch):
    config = config_of(run, task="snli", eval_steps=1)
    whole = transfer(config, tmp_path / "whole", QUIET)
    first = transfer_module.run_training

    def then_stop(trainer, directory):
        step = trainer.training_step

        def counted(*inputs):
            if trainer.step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return step(*inputs)

        trainer.training_step = counted
        return first(trainer, directory)

    monkeypatch.setattr(transfer_module, "run_training", then_stop)
    with pytest.raises(Interrupted):
        transfer(config, tmp_path / "out", QUIET)
    monkeypatch.undo()
    monkeypatch.setattr(loading, "load_task", data_of)
    resumed = transfer(config, tmp_path / "out", QUIET)
    assert resumed["metrics"] == whole["metrics"]
    assert same(trained(tmp_path / "out"), trained(tmp_path / "whole"))
    stamp = (tmp_path / "out" / "result.json").stat().st_mtime_ns
    assert transfer(config, tmp_path / "out", QUIET) == resumed
    assert (tmp_path / "out" / "result.json").stat().st_mtime_ns == stamp


def identity(config):
    prepared = prepare_transfer(config, QUIET)
    return prepared.identity(config)


def test_what_is_in_the_model_is_the_identity_and_not_its_place(tmp_path, run, shared, bert, ticket):
    shutil.copytree(run, tmp_path / "moved")
    names = (run, run / "seed-1", run / "seed-1" / "model", tmp_path / "moved")
    ids = {identity(config_of(name, task="snli")) for name in names}
    assert len(ids) == 1
    ids |= {identity(config_of(run / "seed-2", task="snli"))}
    ids |= {identity(config_of(run, task="snli", fresh_head=True))}
    ids |= {
        identity(config_of(shared, task=task, from_task=other)) for task, other in (("snli", "mnli"), ("rte", None))
    }
    assert len(ids) == 5
    assert identity(config_of(shared, task="rte", from_task="rte")) in ids


def test_another_model_between_two_seeds_stops_the_run(tmp_path, run, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    first = transfer_module.transfer_seed

    def then_exchange(prepared, seed, parent, runtime):
        result = first(prepared, seed, parent, runtime)
        shutil.copytree(run / "seed-2" / "model", tmp_path / "run" / "seed-1" / "model", dirs_exist_ok=True)
        return result

    monkeypatch.setattr(transfer_module, "transfer_seed", then_exchange)
    config = config_of(tmp_path / "run", task="snli", seeds=(0, 1), steps=1)
    with pytest.raises(ContentError, match="seed-1/model has changed since this transfer began, so its seeds"):
        transfer(config, tmp_path / "out", QUIET)


def test_each_name_has_one_kind(tmp_path, run, shared, bert):
    (tmp_path / "onnx").mkdir()
    for file in ("model.onnx", "task.json"):  # a fine-tuned model that was exported
        (tmp_path / "onnx" / file).touch()
    kinds = {
        FineTunedSource: (run, run / "seed-1", run / "seed-1" / "model"),
        SharedSource: (shared, shared.parent),
        TicketSource: (run.parent / "ticket",),
        OnnxSource: (tmp_path / "onnx",),
        ModelSource: (bert, "builtin:minilm", "me/model", tmp_path / "nowhere", "memory:model-3f2a"),
    }
    for kind, paths in kinds.items():
        for path in paths:
            source = find_source(path)
            assert type(source) is kind
            assert (source.name, source.where) == (str(path), str(path))
    assert open_fine_tuned(run).folder == find_source(run).open().folder == run / "seed-1" / "model"
    assert open_fine_tuned(run, seed=2).folder == run / "seed-2" / "model"
    for path in (bert, run.parent / "ticket", tmp_path / "onnx"):
        with pytest.raises(UsageError):
            open_fine_tuned(path)


def test_a_compact_export_goes_on_without_a_ticket(tmp_path, bert, structured):
    structured.save_pretrained(tmp_path / "t")
    transfer(config_of(tmp_path / "t"), tmp_path / "run", QUIET)
    export(tmp_path / "run", "compact", tmp_path / "e")
    expected = logits(load_plm(str(tmp_path / "run" / "seed-0" / "model"), head="classification", num_labels=3))
    config = config_of(tmp_path / "e", task="other", steps=1)
    np.testing.assert_allclose(logits(started(config)), expected[:, [2, 0, 1]], atol=1e-5)
    result = transfer(config, tmp_path / "out", QUIET)
    assert (result["ticket_id"], result["head"]) == (None, "kept")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"start_from": "reinit"},
            "--start-from reinit contradicts .*mnli, a fine-tuned model: training starts from its own weights",
        ),
        ({"layers": 1}, "--layers needs a pre-trained model or a ticket, and .*mnli is fine-tuned"),
        ({"base": "x"}, "--base needs a pre-trained model or a ticket"),
        ({"from_task": "rte"}, "seed-1/model knows the task mnli only, and rte was asked for"),
    ],
)
def test_contradictions_are_refused_before_any_work(tmp_path, run, fields, message):
    with pytest.raises(UsageError, match=message):
        transfer(config_of(run, task="snli", **fields), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_the_task_of_a_shared_model_must_be_known(shared):
    with pytest.raises(UsageError, match="shared by mnli, rte, stsb, and snli is none of them; say with --from-task"):
        prepare_transfer(config_of(shared, task="snli"), QUIET)
    with pytest.raises(UsageError, match="rt.*Did you mean.*rte"):
        prepare_transfer(config_of(shared, task="snli", from_task="rt"), QUIET)


def test_options_of_runs_need_one(bert):
    message = "--from-task needs a model saved by tickets transfer or .*\n--fresh-head needs a model saved"
    with pytest.raises(UsageError, match=message):
        prepare_transfer(config_of(bert, from_task="rte", fresh_head=True), QUIET)


def test_a_run_without_its_model_or_its_ticket_is_refused(tmp_path, bert, run, structured):
    transfer(config_of(bert, save_model=False, steps=1), tmp_path / "bare", QUIET)
    with pytest.raises(UsageError, match="bare has no saved model; run tickets transfer with --save-model"):
        prepare_transfer(config_of(tmp_path / "bare", task="snli"), QUIET)
    model = shutil.copytree(run / "seed-1" / "model", tmp_path / "model")
    shutil.rmtree(model / "held")
    with pytest.raises(ContentError, match="was fine-tuned with the ticket .* and lacks it: there is no .*held/ticket"):
        prepare_transfer(config_of(model, task="snli"), QUIET)
    structured.save_pretrained(model / "held" / "ticket")
    with pytest.raises(ContentError, match=f"and the one next to it is {structured.id}: it was replaced"):
        prepare_transfer(config_of(model, task="snli"), QUIET)


def test_a_ticket_of_another_encoder_is_refused(tmp_path, run):
    model = shutil.copytree(run / "seed-1" / "model", tmp_path / "model")
    other = load_plm(str(make_model(tmp_path / "m", "electra")), head="classification", num_labels=3)
    other.model.save_pretrained(model)
    with pytest.raises(
        ContentError, match=r"mask of embeddings.word_embeddings.weight has shape \(101, 32\), the model.s weight has"
    ):
        prepare_transfer(config_of(model, task="snli"), QUIET)


def test_a_percentage_that_leaves_nothing_is_refused(run):
    with pytest.raises(UsageError, match=r"--train-size 0\.1% of 36 training examples leaves none"):
        prepare_transfer(config_of(run, task="snli", train_size="0.1%"), QUIET)


def test_a_label_that_training_does_not_have_is_refused(tmp_path, run):
    """Also where the head of the model knows it: nothing would train it."""
    (tmp_path / "a.csv").write_text("text,label\na cat,entailment\na dog,neutral\n")
    (tmp_path / "b.csv").write_text("text,label\na cat,contradiction\n")
    files = {"train_file": str(tmp_path / "a.csv"), "validation_file": str(tmp_path / "b.csv")}
    message = r"b\.csv, line 2: label 'contradiction' is not in the training file; allowed: entailment, neutral"
    with pytest.raises(ContentError, match=message):
        prepare_transfer(config_of(run, task=None, **files), QUIET)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    rows = "\n".join(["text,label", *(f"word {i},{'ab'[i % 2]}" for i in range(8))])
    (tmp_path / "data.csv").write_text(rows)
    files = ["--train-file", tmp_path / "data.csv", "--validation-file", tmp_path / "data.csv", "--quiet"]
    first = [make_model(tmp_path / "m"), *files, "--steps", "1", "--save-model", "--out", tmp_path / "run"]
    second = [tmp_path / "run", *files, "--steps", "1", "--train-size", "50%", "--out", tmp_path / "out"]
    fresh = [*second[:-1], tmp_path / "fresh", "--fresh-head"]
    wrong = [*second[:-1], tmp_path / "wrong", "--from-task", "rte"]
    for words, code in ((first, 0), (second, 0), (fresh, 0), (wrong, 2)):
        monkeypatch.setattr(sys, "argv", ["tickets", "transfer", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == code
    out, err = capsys.readouterr()
    assert "  fine-tuned before on local; head: kept\n" in out
    assert "  fine-tuned before on local; head: fresh (--fresh-head)\n" in out
    assert "knows the task local only, and rte was asked for" in err
