"""Heads, groups, neurons and layers of decoders: gates against masks of weights, and compact exports."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from samples.tiny_decoders import DECODERS, make_decoder
from samples.tiny_models import TEXT
from winning_tickets import Runtime, SearchConfig, Ticket, export, load_compact, search
from winning_tickets.models.loading import load_plm
from winning_tickets.models.removal import remove_closed_
from winning_tickets.models.structure import gated, structure_of
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo

QUIET = Runtime(quiet=True)
IDS = torch.arange(5, 29).view(2, 12)
GROUPED = {kind for kind, settings in DECODERS.items() if "num_key_value_heads" in settings}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    (folder / "text.txt").write_text("\n".join(TEXT))
    return folder


@pytest.fixture(scope="module", params=DECODERS)
def model(request, folder):
    return make_decoder(folder / request.param, request.param)


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS, attention_mask=torch.ones_like(IDS)).logits


def ticket_of(plm, closed, where):
    """A ticket that closes the given units: by layer, unit and indices."""
    structure = structure_of(plm)
    lengths = {"heads": structure.num_heads, "neurons": structure.intermediate_size, "ffn": 1, "layer": 1}
    gates = {}
    for name, places in closed.items():
        gates[name] = torch.ones(lengths[name.rpartition(".")[2]], dtype=torch.bool)
        gates[name][places] = False
    base = BaseModelInfo.of(plm.encoder, plm.name, plm.model.config.model_type, None, layers=None)
    ticket = Ticket(
        {}, TicketInfo(method="test", scope="encoder", config={}, applies_to=base), None, gates, structure=structure
    )
    ticket.save_pretrained(where)
    return Ticket.from_pretrained(where)


UNEVEN = {"layers.0.heads": [1], "layers.0.neurons": [0, 5, 9], "layers.1.neurons": [1], "layers.1.ffn": [0]}
NO_HEADS = {"layers.0.heads": slice(None), "layers.1.neurons": slice(None)}


@pytest.mark.parametrize("closed", [UNEVEN, NO_HEADS], ids=["uneven", "no heads"])
def test_gates_are_masks_of_weights_and_compact_exports_compute_the_same(model, tmp_path, closed):
    plm = load_plm(str(model), head="clm")
    ticket = ticket_of(plm, closed, tmp_path / "t")
    with gated(plm.encoder, ticket.structure, ticket.gates):
        expected = logits(plm.model)
    masked = ticket.apply_(AutoModelForCausalLM.from_pretrained(model))
    assert torch.allclose(logits(masked), expected, atol=1e-4)
    assert not torch.allclose(logits(plm.model), expected, atol=1e-2)
    export(tmp_path / "t", "compact", tmp_path / "e")
    assert "trust_remote_code=True" in (tmp_path / "e" / "README.md").read_text()
    small = load_compact(tmp_path / "e", head="lm")
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in masked.parameters())
    assert torch.allclose(logits(small), expected, atol=1e-4)
    remote = AutoModelForCausalLM.from_pretrained(tmp_path / "e", trust_remote_code=True)
    assert torch.equal(logits(remote), logits(small))
    remote.generate(IDS[:, :4], max_new_tokens=3, do_sample=False, pad_token_id=0)


@pytest.mark.parametrize("closed", [UNEVEN, NO_HEADS], ids=["uneven", "no heads"])
def test_without_its_closed_units_a_model_learns_the_same_and_is_written_back(model, tmp_path, closed):
    masked, small, full = (load_plm(str(model), head="clm") for _ in range(3))
    ticket = ticket_of(masked, closed, tmp_path / "t")
    ticket.apply_(masked.model)
    removed = remove_closed_(small.encoder, ticket.structure, ticket.gates)
    for plm in (masked, small):
        plm.model.requires_grad_(True)  # what was removed cannot be trained
        plm.model(input_ids=IDS, labels=IDS).loss.backward()
        with torch.no_grad():
            for parameter in plm.model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
    ticket.apply_(masked.model, allow_other_weights=True)
    removed.write_back_(full.model, small.model)
    assert torch.allclose(logits(full.model), logits(small.model), atol=1e-4)
    wanted = dict(masked.model.named_parameters())
    for name, parameter in full.model.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_closed_group_closes_its_query_heads_and_its_key_and_value(model, tmp_path):
    plm = load_plm(str(model), head="clm")
    ticket = ticket_of(plm, {"layers.0.heads": [1]}, tmp_path / "t")
    assert ticket.structure.num_heads == (2 if plm.model.config.model_type in GROUPED else 4)
    head = plm.encoder.config.hidden_size // 4
    head = getattr(plm.encoder.config, "head_dim", None) or head
    matrices = plm.architecture.layer_matrices(plm.encoder)[0]
    closed = {role: int((~ticket.masks[names[0]].flatten(0, -2).any(-1)).sum()) for role, names in matrices.items()}
    queries = 2 if plm.model.config.model_type in GROUPED else 1
    assert [closed[role] for role in "QKV"] == [queries * head, head, head]
    assert int((~ticket.masks[matrices["AO"][0]].any(0)).sum()) == queries * head


ALIKE = {"layers.0.neurons": [0, 2], "layers.1.neurons": [7, 9]}


def test_alike_layers_are_an_ordinary_model(model, tmp_path):
    plm = load_plm(str(model), head="clm")
    kind = plm.model.config.model_type
    heads = {"layers.0.heads": [0], "layers.1.heads": [1]} if kind in GROUPED else {}
    ticket = ticket_of(plm, ALIKE | heads, tmp_path / "t")
    expected = logits(ticket.apply_(AutoModelForCausalLM.from_pretrained(model)))
    export(tmp_path / "t", "compact", tmp_path / "e")
    assert not (tmp_path / "e" / "modeling_compact.py").exists()
    assert "trust_remote_code" not in (tmp_path / "e" / "README.md").read_text()
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "e", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.allclose(logits(loaded), expected, atol=1e-4)
    assert torch.equal(logits(load_compact(tmp_path / "e", head="lm")), logits(loaded))
    again = structure_of(load_plm(str(tmp_path / "e")))
    assert again.intermediate_size == structure_of(plm).intermediate_size - 2
    assert again.num_heads == (1 if kind in GROUPED else 4)


def test_a_whole_layer_of_a_decoder_leaves_no_trace(model, tmp_path):
    plm = load_plm(str(model), head="clm")
    ticket = ticket_of(plm, {"layers.0.layer": [0]}, tmp_path / "t")
    expected = logits(ticket.apply_(AutoModelForCausalLM.from_pretrained(model)))
    export(tmp_path / "t", "compact", tmp_path / "e")
    biased = bool(structure_of(plm).bias_names(0, "AO"))  # the bias of the attention's output stays
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "e", trust_remote_code=biased)
    assert loaded.config.num_hidden_layers == (2 if biased else 1)
    assert torch.allclose(logits(loaded), expected, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "importance", "objective": "clm", "prune_heads": (1,), "prune_neurons": (5,)},
        {"method": "importance", "objective": "kd", "level": (50.0,)},
        {"method": "importance", "selection": "random", "prune_layers": (1,)},
        {"method": "mask-training", "objective": "clm+kd", "prune_heads": (1,), "prune_ffns": (1,)},
    ],
    ids=["clm", "kd", "random layers", "gates"],
)
@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
def test_structured_searches(folder, tmp_path, kind, settings):
    make_decoder(folder / kind, kind)
    text = {} if "selection" in settings else {"corpus": str(folder / "text.txt"), "segments": "packed:16"}
    config = SearchConfig(model=str(folder / kind), steps=2, batch_tokens=64, **text, **settings)
    ticket = search(config, tmp_path / "t", QUIET)
    closed = {name: int((~gate).sum()) for name, gate in ticket.gates.items()}
    for unit, field in {"heads": "prune_heads", "neurons": "prune_neurons", "ffn": "prune_ffns"}.items():
        if field in settings:
            assert sum(count for name, count in closed.items() if name.endswith(unit)) == settings[field][0]
    assert sum(closed.values()) > 0


def test_a_ticket_of_groups_refuses_another_number_of_groups(folder, tmp_path):
    plm = load_plm(str(make_decoder(folder / "two", "llama")), head="clm")
    ticket = ticket_of(plm, {"layers.0.heads": [1]}, tmp_path / "t")
    other = AutoModelForCausalLM.from_pretrained(make_decoder(folder / "four", "llama", num_key_value_heads=4))
    with pytest.raises(ContentError, match="made for 2 heads per layer, and this model has 4"):
        ticket.apply_(other, allow_other_weights=True)
    config = SearchConfig(model=str(folder / "two"), method="importance", selection="random", prune_heads=(5,))
    with pytest.raises(UsageError, match="5 heads cannot be pruned: the model has 4"):
        search(config, tmp_path / "s", QUIET)
