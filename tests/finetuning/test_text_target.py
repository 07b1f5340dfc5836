"""Text as a target: fine-tuning by masked language modeling, its numbers, resuming, refusals."""

import json
import sys

import pytest
import torch
from torch.nn import functional

from samples.learning import Killed, corpus_of, killed_after, without_dropout
from samples.tiny_models import make_model
from samples.tiny_tasks import tasks_fixture
from winning_tickets import (
    EvaluateConfig,
    Runtime,
    SearchConfig,
    SuperConfig,
    Ticket,
    TransferConfig,
    cli,
    evaluate,
    predict,
    search,
    transfer,
)
from winning_tickets.data.batches import MASKED_IDS, MASKED_POSITIONS
from winning_tickets.finetuning.setup import prepare_transfer
from winning_tickets.finetuning.super_ticket import check_super_ticket
from winning_tickets.models.loading import base_hash, load_plm, weight_hashes
from winning_tickets.models.weights import StateInfo, add_noise, save_state, write_state_
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import UsageError

QUIET = Runtime(quiet=True)
WORD = "embeddings.word_embeddings.weight"
LONGER = {"steps": 20, "eval_steps": 8, "learning_rate": 5e-3}
_tiny_tasks = tasks_fixture()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model without dropout, text, and tickets whose scope has the word embeddings or not."""
    folder = tmp_path_factory.mktemp("text")
    bert = without_dropout(make_model(folder / "bert", head="mlm+pooler"))
    for scope, name in (("encoder+embeddings", "all"), ("encoder+pooler", "ticket")):
        search(SearchConfig(model=bert, method="magnitude", sparsity=0.6, scope=scope), folder / name, QUIET)
    (folder / "bare").mkdir()
    corpus_of(folder)
    return folder


def config_of(place, target="ticket", **fields):
    defaults = {"task": "mlm", "corpus": str(place / "corpus.txt"), "max_length": 16, "batch_size": 4, "steps": 6}
    defaults |= {"learning_rate": 1e-3, "eval_steps": 3}
    return TransferConfig(target=str(place / target), **(defaults | fields))


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    config = config_of(place, seeds=(0, 1), train_size="20", weight_decay=0.1, save_model=True, **LONGER)
    return config, out, transfer(config, out, QUIET)


def test_the_scores_are_those_that_evaluate_measures(place, whole):
    config, out, result = whole
    model = str(out / "seed-1" / "model")
    asked = EvaluateConfig(target=model, objectives=("mlm",), corpus=config.corpus, segments="packed:16")
    measured = evaluate(asked, QUIET)
    metrics = result["metrics"]
    assert metrics["accuracy"]["final"]["values"][1] == measured["mlm_accuracy"] > 0
    assert metrics["mlm_loss"]["final"]["values"][1] == measured["mlm_loss"]
    before = evaluate(asked.model_copy(update={"target": str(place / "ticket")}), QUIET)
    assert measured["mlm_loss"] < before["mlm_loss"]
    # What the result says of itself.
    assert (result["task"], result["primary_metric"], result["corpus"]) == ("mlm", "accuracy", config.corpus)
    assert (result["train_examples"], result["epochs"], result["max_length"]) == (20, 4, 16)
    assert result["validation_examples"] == {"validation": measured["tokens"]}  # masked tokens
    assert result["degenerate"] == all(value <= result["majority"] for value in metrics["accuracy"]["final"]["values"])
    assert [one["step"] for one in read_log(out / "seed-0") if "evaluation" in one] == [
        5,
        8,
        10,
        15,
        16,
        20,
    ]  # epochs: 5


def test_pruned_weights_stay_zero(place, whole):
    masks = Ticket.from_pretrained(place / "ticket").masks
    trained = dict(load_plm(str(whole[1] / "seed-0" / "model"), head="mlm").encoder.named_parameters())
    found = {name: mask for name, mask in masks.items() if not name.startswith("pooler.")}  # MLM has no pooler
    assert len(found) == len(masks) - 1
    for name, mask in found.items():
        assert not trained[name][~mask].any()
        assert trained[name][mask].all()


def test_steps_are_those_of_a_plain_loop(place, tmp_path):
    """Cross entropy over all positions of a Hugging Face model, with the labels of the masked ones."""
    config = config_of(place, target="bert", eval_steps=100)
    transfer(config, tmp_path / "run", QUIET)
    prepared = prepare_transfer(config, QUIET)
    plm = prepared.load(0)
    batches = prepared.text.batches(config, plm, 0, 16)
    optimizer = torch.optim.AdamW(plm.model.parameters(), lr=1e-3, weight_decay=0)
    losses = []
    for step in range(6):
        batch = batches[step]
        labels = torch.full_like(batch["input_ids"], -100)
        labels.view(-1)[batch[MASKED_POSITIONS]] = batch[MASKED_IDS]
        logits = plm.model(batch["input_ids"]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plm.model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / 6)
        optimizer.step()
        optimizer.zero_grad()
    logged = [one["mlm"] for one in read_log(tmp_path / "run" / "seed-0") if "mlm" in one]
    assert logged == pytest.approx(losses, rel=1e-4)


def test_a_killed_run_resumes_to_the_same_numbers(whole, tmp_path):
    config, _, result = whole
    with killed_after(4), pytest.raises(Killed):
        transfer(config, tmp_path / "run", Runtime(quiet=True, checkpoint_steps=2))
    assert transfer(config, tmp_path / "run", QUIET)["metrics"] == result["metrics"]
    assert transfer(config, tmp_path / "run", QUIET)["run_id"] == result["run_id"]  # it is only read


def test_a_masked_embedding_leaves_the_decoder_dense(place, tmp_path):
    config = config_of(place, target="all", save_model=True)
    result = transfer(config, tmp_path / "run", QUIET)
    dense = load_plm(str(place / "bert"), head="mlm")
    saved = load_plm(str(tmp_path / "run" / "seed-0" / "model"), head="mlm", require_mlm_head=True)
    decoder = saved.model.cls.predictions.decoder
    assert torch.equal(decoder.weight, dense.encoder.get_parameter(WORD))
    assert not torch.equal(decoder.bias, dense.model.cls.predictions.decoder.bias)
    mask = Ticket.from_pretrained(place / "all").masks[WORD]
    assert not saved.encoder.get_parameter(WORD)[~mask].any()
    # The saved model has these numbers, and is fine-tuned further from there, with its ticket.
    asked = EvaluateConfig(
        target=str(tmp_path / "run" / "seed-0" / "model"),
        objectives=("mlm",),
        corpus=config.corpus,
        segments="packed:16",
    )
    assert evaluate(asked, QUIET)["mlm_loss"] == result["metrics"]["mlm_loss"]["final"]["mean"]
    further = config.model_copy(update={"target": str(tmp_path / "run"), "save_model": False})
    again = transfer(further, tmp_path / "again", QUIET)
    assert again["metrics"]["mlm_loss"]["final"]["mean"] < result["metrics"]["mlm_loss"]["final"]["mean"]
    assert (again["head"], again["from_task"], again["sparsity"]) == ("kept", "mlm", result["sparsity"])
    # A task takes the encoder, with a head of its own.
    task = transfer(
        TransferConfig(target=str(tmp_path / "run"), task="sst2", steps=2, batch_size=8), tmp_path / "sst2", QUIET
    )
    assert task["head"].startswith("fresh (kinds differ")


def test_it_starts_from_other_weights_of_the_encoder(place, tmp_path):
    plm = load_plm(str(place / "bert"))
    info = StateInfo(base_hash=base_hash(weight_hashes(plm.encoder)), what="a test")
    write_state_(plm.encoder, add_noise(plm, 0, 1.0))
    save_state(tmp_path / "state.safetensors", plm.encoder, info=info)
    states = [transfer(config_of(place), tmp_path / "plain", QUIET)]
    states.append(transfer(config_of(place, start_from=str(tmp_path / "state.safetensors")), tmp_path / "noise", QUIET))
    losses = [state["metrics"]["mlm_loss"]["final"]["mean"] for state in states]
    assert losses[1] > losses[0] + 0.01
    assert states[1]["start_hash"] is not None


def test_fewer_segments_depend_on_their_seed(place):
    ids = []
    for fields in ({}, {"train_size": "6"}, {"train_size": "6", "train_size_seed": 3}):
        config = config_of(place, **fields)
        prepared = prepare_transfer(config, QUIET)
        batches = prepared.text.batches(config, prepared.load(0), 0, 16)
        spans = {tuple(span) for index in range(20) for span in batches._cut.spans(index).tolist()}
        ids.append((prepared.identity(config), frozenset(spans)))
        assert len(spans) == prepared.train_examples == batches.segments
        assert (len(spans) == 6) == bool(fields)
    assert len(set(ids)) == len({spans for _, spans in ids}) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corpus": None}, "--task mlm needs --corpus: pydocs, wikitext-103, wikipedia:20231101.en"),
        ({"doc_stride": 4, "select_on": 0.1}, "--doc-stride is for labeled examples, and --task mlm learns from text"),
        ({"train_file": "a.csv"}, "--train-file is for labeled examples"),
        ({"task": "sst2"}, "--corpus needs --task mlm or clm, which learn from text."),
        ({"corpus": "no.txt"}, "There is no file or folder no.txt"),
        ({"train_size": "999"}, "asks for more than the"),
        ({"task": "mml"}, "mlm"),
    ],
)
def test_impossible_settings_are_refused(place, tmp_path, fields, message):
    with pytest.raises(UsageError, match=message):
        transfer(config_of(place, **fields), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


def test_models_without_an_mlm_head_are_refused(place, tmp_path):
    make_model(tmp_path / "bare", head="none")
    with pytest.raises(UsageError, match="has no trained MLM head .*tickets fit-head"):
        transfer(config_of(place, target=tmp_path / "bare"), tmp_path / "run", QUIET)
    classified = TransferConfig(target=str(place / "bert"), task="sst2", steps=2, batch_size=8, save_model=True)
    transfer(classified, tmp_path / "sst2", QUIET)
    with pytest.raises(UsageError, match="was fine-tuned on sst2 and has no MLM head for --task mlm; give the model"):
        transfer(config_of(place, target=tmp_path / "sst2"), tmp_path / "run", QUIET)


def test_other_verbs_refuse_it_in_a_sentence(place, whole):
    with pytest.raises(
        UsageError, match="was fine-tuned with MLM, which labels no texts; measure it with tickets eval"
    ):
        predict(whole[1], [("a cat",)])
    with pytest.raises(UsageError, match="--select-on is for labeled examples, and --task mlm learns from text"):
        check_super_ticket(SuperConfig(fine_tuning=config_of(place, target="bert")))


def test_the_command_line_tells_scores_and_losses(place, tmp_path, capsys, monkeypatch):
    arguments = ["tickets", "transfer", str(place / "ticket"), "--task", "mlm", "--corpus", str(place / "corpus.txt")]
    arguments += ["--max-length", "16", "--batch-size", "4", "--steps", "2", "--quiet", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    text = capsys.readouterr().out
    loss = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]["mlm_loss"]["final"]["mean"]
    assert f"  mlm_loss: final {loss:.3f}, best" in text
    monkeypatch.setattr(sys, "argv", [*arguments, "--json"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert json.loads(capsys.readouterr().out)["metrics"]["mlm_loss"]["final"]["mean"] == loss
