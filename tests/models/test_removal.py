"""Removal of units and layers: the same function as the gated model, files that load again, plain where possible."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoModel

from samples.tiny_models import CONFIGS, make_model
from winning_tickets.models.loading import load_plm
from winning_tickets.models.modeling_compact import COMPACT
from winning_tickets.models.removal import first_layer_differs, keep_layers_, remove_
from winning_tickets.models.structure import gated, structure_of
from winning_tickets.training.saved_model import save_folder

KINDS = [kind for kind in CONFIGS if kind != "albert"]
IDS = torch.tensor([[2, 9, 11, 14, 3, 0], [2, 8, 7, 6, 5, 3]])
MASK = (IDS != 0).long()


def states(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, attention_mask=MASK).last_hidden_state


def gates(structure, sizes):
    found = {}
    for layer, (heads, neurons) in enumerate(sizes):
        found[f"layers.{layer}.heads"] = torch.arange(structure.num_heads) >= structure.num_heads - heads
        found[f"layers.{layer}.neurons"] = torch.arange(structure.intermediate_size) < neurons
        found[f"layers.{layer}.ffn"] = torch.tensor([neurons > 0])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_model_computes_what_the_gated_one_does_and_loads_again(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / kind, kind, "none")))
    structure = structure_of(plm)
    closed = gates(structure, [(1, 5), (2, 7)])
    with gated(plm.encoder, structure, closed):
        expected = states(plm.encoder)
    assert remove_(plm, closed, structure) == [0, 1]
    torch.testing.assert_close(states(plm.encoder), expected, rtol=1e-4, atol=1e-4)
    save_folder(plm.model, plm.tokenizer, tmp_path / "small")
    torch.testing.assert_close(states(load_plm(str(tmp_path / "small")).encoder), states(plm.encoder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_without_units_is_gone_from_the_files(tmp_path, kind):
    plm = load_plm(str(make_model(tmp_path / kind, kind, "none")))
    structure = structure_of(plm)
    first = first_layer_differs(plm, structure)
    assert first == (kind == "modernbert")  # its first layer has no norm before the attention
    sizes = [(1, 5), (0, 0)] if first else [(0, 0), (1, 5)]
    assert remove_(plm, gates(structure, sizes), structure) == [0 if first else 1]
    assert len(plm.architecture.layer_paths(plm.encoder)) == 1
    save_folder(plm.model, plm.tokenizer, tmp_path / "small")
    again = load_plm(str(tmp_path / "small"))
    torch.testing.assert_close(states(again.encoder), states(plm.encoder))
    assert again.model.config.num_hidden_layers == 1
    assert len(getattr(again.model.config, COMPACT)["layers"]) == 1


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert"])
@pytest.mark.parametrize("sizes", [[(2, 20), (2, 20)], [(2, 64), (0, 0)]], ids=["neurons", "layers"])
def test_layers_that_are_alike_need_no_remote_code(tmp_path, kind, sizes):
    plm = load_plm(str(make_model(tmp_path / kind, kind, "none")))
    structure = structure_of(plm)
    remove_(plm, gates(structure, sizes), structure)
    save_folder(plm.model, plm.tokenizer, tmp_path / "small")
    stored = json.loads((tmp_path / "small" / "config.json").read_text())
    assert COMPACT not in stored
    assert not stored.get("auto_map")
    assert not list((tmp_path / "small").glob("*.py"))
    model = AutoModel.from_pretrained(tmp_path / "small")
    torch.testing.assert_close(states(model), states(plm.encoder))


def test_layers_keep_their_own_settings(tmp_path):
    plm = load_plm(str(make_model(tmp_path / "m", "modernbert", "none")))
    types = list(plm.model.config.layer_types)
    keep_layers_(dataclasses.replace(plm), [0])
    assert plm.model.config.layer_types == types[:1]
