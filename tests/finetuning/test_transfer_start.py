"""Fine-tuning from other weights than the pre-trained ones: what starts where, its identity, refusals."""

import importlib
import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from samples.tiny_models import make_model
from samples.tiny_tasks import tasks_fixture
from winning_tickets import Runtime, Ticket, TransferConfig, cli, transfer
from winning_tickets.finetuning.setup import prepare_transfer
from winning_tickets.models.loading import base_hash, load_plm, weight_hashes
from winning_tickets.models.weights import (
    StateInfo,
    add_noise,
    copy_encoder_weights,
    reinitialize,
    save_state,
    shuffle_within,
)
from winning_tickets.runs.errors import ContentError, UsageError

transfer_module = importlib.import_module("winning_tickets.finetuning.transfer")
QUIET = Runtime(quiet=True)


_tiny_tasks = tasks_fixture()


def config_of(target, **fields):
    defaults = {"task": "sst2", "steps": 4, "batch_size": 8, "learning_rate": 1e-3, "save_model": True}
    return TransferConfig(target=str(target), **(defaults | fields))


def save(plm, path, base=None):
    info = StateInfo(base_hash=base or base_hash(weight_hashes(plm.encoder)), what="a test")
    save_state(path, plm.encoder, info=info)
    return str(path)


def trained(run):
    return load_file(run / "seed-0" / "model" / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("held", [True, False])
def test_the_saved_pretrained_weights_give_the_very_same_run(tmp_path, bert, ticket_path, held):
    """From a state and from a Hugging Face folder; neither loading nor writing may use up random numbers."""
    config = config_of(ticket_path if held else bert)
    plain = transfer(config, tmp_path / "plain", QUIET)
    state = save(load_plm(bert), tmp_path / "state.safetensors")
    folder = str(make_model(tmp_path / "model", head="mlm+pooler"))
    ids = {plain["run_id"]}
    for name, start in (("state", state), ("folder", folder)):
        result = transfer(config.model_copy(update={"start_from": start}), tmp_path / name, QUIET)
        assert same(trained(tmp_path / name), trained(tmp_path / "plain"))
        assert result["metrics"] == plain["metrics"]
        assert (plain["start_from"], plain["start_hash"]) == ("pretrained", None)
        assert result["start_from"] == start
        assert len(result["start_hash"]) == 32
        ids.add(result["run_id"])
    assert len(ids) == 2  # both hold the same weights: one start


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("reinit", reinitialize),
        ("shuffle-within", shuffle_within),
        ("noise:0.5", lambda plm, seed: add_noise(plm, seed, 0.5)),
    ],
)
def test_the_weights_are_exchanged_before_the_ticket_is_held(
    tmp_path, monkeypatch, bert, ticket_path, word, expected, seed
):
    """What training sees first is the transformed encoder, drawn from the run's own seed, with the ticket on it."""
    seen = []

    def look(trainer, run):
        seen.append({name: value.detach().clone() for name, value in trainer.model.base_model.named_parameters()})
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer_module, "run_training", look)
    config = config_of(ticket_path, start_from=word, seeds=(seed,))
    with pytest.raises(KeyboardInterrupt):
        transfer(config, tmp_path / "out", QUIET)
    assert same(seen[0], expected(load_plm(bert), seed))


def test_the_ticket_holds_on_the_other_weights(tmp_path, bert, ticket_path):
    transfer(config_of(ticket_path, start_from="reinit"), tmp_path / "out", QUIET)
    ticket, tensors = Ticket.from_pretrained(ticket_path), trained(tmp_path / "out")
    for name, mask in ticket.masks.items():
        assert torch.equal(tensors[f"bert.{name}"] != 0, mask)


def test_another_start_is_another_run_with_other_numbers(tmp_path, bert, ticket_path):
    runs = {
        word: prepare_transfer(config_of(ticket_path, start_from=word), QUIET)
        for word in ("pretrained", "reinit", "noise")
    }
    assert len({prepared.identity(prepared.config) for prepared in runs.values()}) == 3
    old = config_of(ticket_path).model_dump(exclude={"start_from"})
    prepared = runs["pretrained"]
    assert prepared.identity(TransferConfig(**old)) == prepared.identity(prepared.config)


def test_of_a_file_the_content_counts_and_not_the_place(tmp_path, bert):
    state = save(load_plm(bert), tmp_path / "a.safetensors")
    shutil.copy(state, tmp_path / "b.safetensors")
    plm = load_plm(bert)
    with torch.no_grad():
        plm.encoder.pooler.dense.bias.add_(1.0)  # no part of a base's identity, but of what is trained
    changed = save(plm, tmp_path / "c.safetensors")
    ids = []
    for path in (state, str(tmp_path / "b.safetensors"), changed):
        prepared = prepare_transfer(config_of(bert, start_from=path), QUIET)
        ids.append(prepared.identity(prepared.config))
    assert ids[0] == ids[1] != ids[2]


def test_a_file_that_changes_between_seeds_stops_the_run(tmp_path, bert, monkeypatch):
    path = tmp_path / "state.safetensors"
    save(load_plm(bert), path)
    first = transfer_module.transfer_seed

    def then_change(prepared, seed, parent, runtime):
        result = first(prepared, seed, parent, runtime)
        plm = load_plm(bert)
        with torch.no_grad():
            plm.encoder.pooler.dense.bias.add_(1.0)
        save(plm, path)
        return result

    monkeypatch.setattr(transfer_module, "transfer_seed", then_change)
    with pytest.raises(
        ContentError, match="have changed since this transfer began.*Put them back, or start a transfer"
    ):
        transfer(config_of(bert, start_from=str(path), seeds=(0, 1)), tmp_path / "out", QUIET)
    assert (tmp_path / "out" / "seed-0" / "result.json").is_file()


def test_a_state_of_another_base_is_refused_unless_it_is_meant(tmp_path, bert, ticket_path):
    other = load_plm(str(make_model(tmp_path / "other", head="mlm+pooler", seed=5)))
    config = config_of(ticket_path, start_from=save(other, tmp_path / "s.safetensors"))
    with pytest.raises(ContentError, match=r"\(a test\) descends from other pre-trained weights"):
        transfer(config, tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()
    transfer(config.model_copy(update={"allow_other_weights": True}), tmp_path / "out", QUIET)


def test_trained_weights_of_the_same_base_need_no_leave(tmp_path, bert, ticket_path):
    """The ticket is checked against the pre-trained weights, which are there; the state's own are others."""
    plm = load_plm(bert)
    base = base_hash(weight_hashes(plm.encoder))
    with torch.no_grad():
        for value in plm.encoder.parameters():
            value.mul_(1.01)
    state = save(plm, tmp_path / "s.safetensors", base)
    result = transfer(config_of(ticket_path, start_from=state), tmp_path / "out", QUIET)
    assert result["base_hash"] == base
    assert not same(trained(tmp_path / "out"), copy_encoder_weights(load_plm(bert)))


def test_a_fine_tuned_model_can_be_a_start(tmp_path, bert, ticket_path):
    transfer(config_of(bert), tmp_path / "dense", QUIET)
    start = str(tmp_path / "dense" / "seed-0" / "model")
    prepared = prepare_transfer(config_of(ticket_path, start_from=start), QUIET)
    plm = load_plm(bert, head="classification")
    prepared.start(plm, 0)
    tuned = {n.removeprefix("bert."): v for n, v in trained(tmp_path / "dense").items() if n.startswith("bert.")}
    assert same(dict(plm.encoder.named_parameters()), tuned)


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (
            "shuffel-layers",
            UsageError,
            "--start-from: There are no weights 'shuffel-layers'. Did you mean 'shuffle-layers'",
        ),
        ("noise:0", UsageError, "--start-from: noise:0 is no start: noise:SCALE needs a number above 0"),
        (
            "two-layers",
            ContentError,
            "of the model are missing there; is it another architecture, or another number of",
        ),
    ],
)
def test_impossible_starts_are_refused_before_any_work(tmp_path, monkeypatch, bert, start, error, message):
    monkeypatch.chdir(tmp_path)
    plm = load_plm(bert, layers=1)
    if start == "two-layers":
        start = save(plm, tmp_path / "s.safetensors", base_hash(weight_hashes(load_plm(bert).encoder)))
    with pytest.raises(error, match=message):
        transfer(config_of(bert, start_from=start), tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_the_command_line(tmp_path, bert, monkeypatch, capsys):
    rows = "\n".join(["text,label", *(f"word {i},{'a' if i % 2 else 'b'}" for i in range(8))])
    (tmp_path / "data.csv").write_text(rows)
    words = ["tickets", "transfer", bert, "--train-file", tmp_path / "data.csv", "--validation-file",
             tmp_path / "data.csv", "--steps", "1", "--quiet", "--out", tmp_path / "out"]  # fmt: skip
    for start, code in (("reinit", 0), ("reinnit", 2)):
        monkeypatch.setattr(sys, "argv", [*map(str, words), "--start-from", start])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == code
    out, err = capsys.readouterr()
    assert "started from: reinit" in out
    assert "Did you mean 'reinit'?" in err
    assert json.loads((tmp_path / "out" / "result.json").read_text())["start_from"] == "reinit"
