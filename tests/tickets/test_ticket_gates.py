"""Structured tickets: on disk, in weights, held in training, evaluated, transferred, exported."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining

from samples.structures import IDS, PADDED, SEPARATE, naive, some_gates, tiny_plm
from samples.tiny_models import TEXT, make_model
from samples.tiny_tasks import transfers_read
from winning_tickets import (
    EvaluateConfig,
    Runtime,
    SearchConfig,
    Ticket,
    TransferConfig,
    compare,
    evaluate,
    export,
    hold,
    measure,
    predict,
    search,
    transfer,
)
from winning_tickets.models.loading import load_plm
from winning_tickets.models.removal import remove_closed_
from winning_tickets.models.structure import structure_of
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.ticket import describe
from winning_tickets.training.trainer import StepLog

QUIET = Runtime(quiet=True)
WORDS = "encoder.layer.0.attention.self.query.weight"
HEADS = {"layers.0.heads": torch.tensor([True, False]), "layers.1.ffn": torch.tensor([False])}


def ticket_of(plm, gates, masks=None, **fields):
    base = BaseModelInfo.of(plm.encoder, plm.name, plm.model.config.model_type, None, layers=None)
    info = TicketInfo(method="test", scope="encoder", config={}, applies_to=base)
    return Ticket(masks or {}, info, gates=gates, structure=structure_of(plm), **fields)


@pytest.fixture
def plm(tmp_path):
    """A tiny BERT of two layers with two heads each, with biases that are not zero."""
    folder = make_model(tmp_path / "bert", head="mlm+pooler")
    model = AutoModelForPreTraining.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.1)
    model.save_pretrained(folder)
    return load_plm(str(folder))


def test_gates_survive_the_round_trip_in_a_small_file(tmp_path):
    plm = tiny_plm("bert", torch.float32)
    ticket = ticket_of(plm, some_gates(structure_of(plm)))
    ticket.save_pretrained(tmp_path)
    again = Ticket.from_pretrained(tmp_path)
    assert again.gates.keys() == ticket.gates.keys()
    assert all(torch.equal(gate, ticket.gates[name]) for name, gate in again.gates.items())
    assert (again.id, again.sparsity, again.structure) == (ticket.id, ticket.sparsity, ticket.structure)
    assert all(torch.equal(mask, ticket.masks[name]) for name, mask in again.masks.items())
    assert (tmp_path / "ticket.safetensors").stat().st_size < 1000  # bytes of gates, not bits of weights


def test_gates_count_in_the_id_and_the_checksum(plm, tmp_path):
    ticket = ticket_of(plm, HEADS)
    other = ticket_of(plm, HEADS | {"layers.0.heads": torch.tensor([False, True])})
    assert ticket.id != other.id
    assert ticket.id != ticket_of(plm, {"layers.0.heads": HEADS["layers.0.heads"]}).id
    assert ticket.id != ticket_of(plm, HEADS, {WORDS: torch.ones(32, 32, dtype=torch.bool)}).id
    ticket.save_pretrained(tmp_path)
    path = tmp_path / "ticket.json"
    body = json.loads(path.read_text())
    body["structure"]["num_heads"] = 4
    path.write_text(json.dumps(body))
    with pytest.raises(ContentError, match="does not match its own checksum"):
        Ticket.from_pretrained(tmp_path)


def test_the_sparsity_is_that_of_the_matrices_of_all_layers(plm):
    """Two layers of width 32, two heads of 16, 64 neurons: 4 * 16 * 32 weights a head, 2 * 64 * 32 an FFN."""
    ticket = ticket_of(plm, HEADS)
    assert ticket.total == 2 * (4 * 32 * 32 + 2 * 64 * 32)
    assert ticket.pruned == 4 * 16 * 32 + 2 * 64 * 32
    assert list(ticket.masks) == list(search_names(plm))
    assert ticket.sparsity_by_matrix()["encoder.layer.0.attention.output.dense.weight"] == 0.5


def search_names(plm):
    roles = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    return [
        f"encoder.layer.{layer}.{name}.weight"
        for layer in range(2)
        for name in (*roles, "intermediate.dense", "output.dense")
    ]


def test_masks_and_gates_go_together(plm, tmp_path):
    own = torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    ticket = ticket_of(plm, HEADS, {WORDS: own})
    ticket.save_pretrained(tmp_path / "t")
    again = Ticket.from_pretrained(tmp_path / "t")
    rows = torch.arange(32)[:, None] < 16
    assert torch.equal(again.masks[WORDS], own & rows)
    assert again.id == ticket.id
    with pytest.raises(ContentError, match=r"has shape \(4, 4\), by its gates \(32, 32\)"):
        ticket_of(plm, HEADS, {WORDS: torch.ones(4, 4, dtype=torch.bool)})


@pytest.mark.parametrize("kind", SEPARATE)
def test_a_ticket_in_weights_computes_what_gates_compute(kind):
    plm = tiny_plm(kind)
    gates = some_gates(structure_of(plm))
    ticket = ticket_of(plm, gates)
    with torch.no_grad():
        expected = naive(plm, gates)(IDS, attention_mask=PADDED).last_hidden_state
        found = ticket.apply_(plm.model)(IDS, attention_mask=PADDED).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_what_is_wrong_is_named(plm):
    base = BaseModelInfo.of(plm.encoder, plm.name, "bert", None, layers=None)
    info = TicketInfo(method="test", scope="encoder", config={}, applies_to=base)
    with pytest.raises(ContentError, match="needs the structure of its encoder"):
        Ticket({}, info, gates=HEADS)
    with pytest.raises(ContentError, match="needs at least one mask, found none"):
        Ticket({}, info, gates={}, structure=structure_of(plm))
    with pytest.raises(ContentError, match="There is no gate 'layers.7.ffn'"):
        ticket_of(plm, {"layers.7.ffn": torch.tensor([False])})


def test_as_many_heads_are_needed_as_the_ticket_counts(plm, tmp_path):
    ticket = ticket_of(plm, HEADS)
    settings = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(settings | {"num_attention_heads": 4}))
    with pytest.raises(ContentError, match="made for 2 heads per layer, and this model has 4"):
        ticket.apply_(load_plm(str(tmp_path / "bert")).model, allow_other_weights=True)


@pytest.mark.parametrize("kind", SEPARATE)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_holding_trains_as_gates_in_the_forward_pass_would(kind, decay):
    """Weights that a gate takes away never matter; the others move exactly as if hooks had closed the gates.

    So they do in a model that has lost the closed units, and whose weights are written back into the full one.
    """
    plm = tiny_plm(kind)
    structure = structure_of(plm)
    gates = some_gates(structure)
    ticket = ticket_of(plm, gates)
    target = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def train(model, optimizer):
        for _ in range(4):
            optimizer.zero_grad()
            states = model(IDS, attention_mask=PADDED).last_hidden_state
            ((states - target) ** 2).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()

    hooked = naive(plm, gates)  # a copy
    train(hooked, torch.optim.AdamW(hooked.parameters(), lr=1e-2, weight_decay=decay))
    small, full = copy.deepcopy(plm.model), copy.deepcopy(plm.model)
    removed = remove_closed_(small, structure, gates)
    assert sum(one.numel() for one in small.parameters()) < sum(one.numel() for one in full.parameters())
    train(small, torch.optim.AdamW(small.parameters(), lr=1e-2, weight_decay=decay))
    removed.write_back_(full, small)
    optimizer = torch.optim.AdamW(plm.model.parameters(), lr=1e-2, weight_decay=decay)
    held = hold(plm.model, ticket, optimizer)
    train(plm.model, optimizer)
    masks = ticket.masks_on(plm.encoder)
    others = dict(hooked.named_parameters())
    for model in (plm.model, full):
        for name, parameter in model.named_parameters():
            kept = masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
            torch.testing.assert_close(parameter[kept], others[name][kept], atol=1e-9, rtol=1e-7)
            assert not parameter[~kept].any()
    assert any("bias" in name for name in masks) == (kind != "modernbert")
    held.remove()


@pytest.fixture
def structured(tmp_path, plm):
    ticket = ticket_of(plm, HEADS)
    ticket.save_pretrained(tmp_path / "structured")
    return tmp_path / "structured"


def test_evaluating_compares_with_the_dense_model(plm, structured, tmp_path):
    """The KD loss of one line by hand: with biases of the FFN left in place it would be another."""
    (tmp_path / "corpus.txt").write_text(TEXT[0] + "\n")
    config = EvaluateConfig(target=str(structured), corpus=str(tmp_path / "corpus.txt"), segments="lines")
    found = evaluate(config, QUIET)
    text = plm.tokenizer(TEXT[0], return_tensors="pt")

    def states(model):
        with torch.no_grad():
            return torch.stack(model.eval()(**text, output_hidden_states=True).hidden_states[1:])

    cosines = torch.cosine_similarity(states(plm.model), states(naive(plm, HEADS)), dim=-1)
    assert found["kd_loss"] == pytest.approx(float((1 - cosines).mean()), rel=1e-4)
    assert found["kd_loss"] > 0.001


def test_transfer_predict_export_and_measure(plm, structured, tmp_path, monkeypatch):
    transfers_read(monkeypatch)
    config = TransferConfig(
        target=str(structured), task="rte", steps=4, batch_size=8, save_model=True, weight_decay=0.1
    )
    result = transfer(config, tmp_path / "run", QUIET)
    assert result["sparsity"] == Ticket.from_pretrained(structured).sparsity
    tuned = AutoModel.from_pretrained(tmp_path / "run" / "seed-0" / "model")
    layers = tuned.encoder.layer
    assert not layers[1].output.dense.bias.any()
    assert not layers[0].attention.self.value.bias[16:].any()
    assert layers[0].attention.self.value.bias[:16].all()
    assert layers[0].attention.output.dense.bias.all()
    assert not layers[0].attention.output.dense.weight[:, 16:].any()
    labelled = predict(tmp_path / "run", [("the cat sat", "a dog ran")], runtime=QUIET)["predictions"]
    masked = export(structured, "masked", tmp_path / "masked")
    assert masked["ticket_id"] == result["ticket_id"]
    compact = export(tmp_path / "run", "compact", tmp_path / "compact")
    assert [(layer["heads"], layer["ffn"]) for layer in compact["layers"]] == [(1, True), (2, False)]
    again = predict(tmp_path / "compact", [("the cat sat", "a dog ran")], runtime=QUIET)["predictions"]
    assert again[0]["scores"] == pytest.approx(labelled[0]["scores"], abs=1e-5)
    sizes = measure(str(structured), (1,), (8,), repeats=1, runtime=QUIET)["parameters"]
    assert sizes["encoder"] - sizes["non_zero"] >= Ticket.from_pretrained(structured).pruned


def test_fine_tuning_without_the_closed_units_is_that_with_zeros(plm, structured, tmp_path, monkeypatch):
    transfers_read(monkeypatch)
    config = TransferConfig(
        target=str(structured), task="rte", steps=6, batch_size=8, eval_steps=3, save_model=True, weight_decay=0.1
    )
    runtime = Runtime(quiet=True, checkpoint_steps=2)
    transfer(config, tmp_path / "small", runtime)
    step = StepLog.on_step_end

    def stop(log, trainer):
        step(log, trainer)
        if trainer.step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(StepLog, "on_step_end", stop)
    with pytest.raises(KeyboardInterrupt):
        transfer(config, tmp_path / "stopped", runtime)
    monkeypatch.setattr(StepLog, "on_step_end", step)
    with monkeypatch.context() as patch:
        patch.setattr(Ticket, "prunes_only_units", False)
        transfer(config, tmp_path / "zeros", runtime)
    transfer(config, tmp_path / "stopped", runtime)
    small, again, zeros = (
        load_file(tmp_path / name / "seed-0" / "model" / "model.safetensors") for name in ("small", "stopped", "zeros")
    )
    assert small.keys() == again.keys() == zeros.keys()
    for name, weights in small.items():
        assert torch.equal(weights, again[name]), name
        if "key.bias" not in name:  # attention does not depend on it: its gradients are rounding errors
            torch.testing.assert_close(weights, zeros[name], atol=1e-5, rtol=1e-4, msg=name)
    # Dropped units are +0.0 in the saved model too.
    masks = Ticket.from_pretrained(structured).masks_on(plm.encoder)
    for name, mask in masks.items():
        assert not small[f"bert.{name}"].view(torch.int32)[~mask].any(), name


def test_compact_export_of_a_ticket_has_what_its_gates_leave(structured, tmp_path):
    found = export(structured, "compact", tmp_path / "compact")
    assert [(layer["heads"], layer["neurons"], layer["ffn"]) for layer in found["layers"]] == [
        (1, 64, True),
        (2, 0, False),
    ]


def test_structured_tickets_are_described_and_compared(plm, structured, tmp_path):
    ticket = Ticket.from_pretrained(structured)
    found = describe(ticket)
    assert found["units"] == {"heads": {"pruned": 1, "total": 4}, "ffns": {"pruned": 1, "total": 2}}
    assert found["pruned_units"] == {"layers.0.heads": [1], "layers.1.ffn": [0]}
    assert str(ticket) == f"Ticket(test, sparsity=0.3750, 1 of 4 heads and 1 of 2 ffns pruned of {plm.name})"
    search(SearchConfig(model=plm.name, method="magnitude", scope="encoder", sparsity=0.5), tmp_path / "m", QUIET)
    plain = Ticket.from_pretrained(tmp_path / "m")
    assert (describe(plain)["units"], describe(plain)["pruned_units"]) == (None, None)
    result = compare([str(structured), str(tmp_path / "m")])
    both = sum(int((mask & plain.masks[name]).sum()) for name, mask in ticket.masks.items())
    either = sum(int((mask | plain.masks[name]).sum()) for name, mask in ticket.masks.items())
    assert result["kept_jaccard"][0][1] == pytest.approx(both / either)


def test_shared_layers_are_refused_by_the_search(tmp_path):
    albert = make_model(tmp_path / "albert", "albert", head="none")
    config = SearchConfig(model=str(albert), method="importance", selection="random", level=(50,))
    with pytest.raises(UsageError, match="Structured tickets need a model whose layers have weights of their own"):
        search(config, tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()
