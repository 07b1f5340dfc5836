"""Where heads, neurons and FFNs are, and gates written into weights, against gates in the forward pass."""

import pytest
import torch
from transformers import BertConfig, BertModel

from samples.structures import SEPARATE, masked, naive, output, some_gates, tiny_plm
from samples.tiny_models import make_model
from winning_tickets.models.architectures import ARCHITECTURES
from winning_tickets.models.loading import PLM, load_plm
from winning_tickets.models.structure import Structure, count_units, expand_gates, open_units, structure_of
from winning_tickets.runs.errors import ContentError, UsageError


@pytest.mark.parametrize("kind", SEPARATE)
def test_the_modules_are_where_the_structure_says(kind):
    plm = tiny_plm(kind)
    structure = structure_of(plm)
    seen = {}
    for layer in range(3):
        for name in (structure.context_module(layer), structure.ffn_module(layer)):
            module = plm.encoder.get_submodule(name)
            module.register_forward_hook(lambda m, args, out, n=name: seen.update({n: (args[0].shape, out.shape)}))
    output(plm.model)
    assert (structure.hidden_size, structure.num_heads, structure.head_size) == (32, 4, 8)
    assert structure.intermediate_size == 64
    for layer in range(3):
        assert seen[structure.context_module(layer)] == ((2, 10, 32), (2, 10, 32))
        assert seen[structure.ffn_module(layer)] == ((2, 10, 64), (2, 10, 32))
    assert [structure.size(unit) for unit in ("heads", "ffns", "neurons", "layers")] == [12, 3, 192, 3]


@pytest.mark.parametrize("kind", SEPARATE)
def test_gates_in_weights_compute_what_gates_in_the_forward_pass_compute(kind):
    plm = tiny_plm(kind)
    structure = structure_of(plm)
    gates = some_gates(structure)
    expected = output(naive(plm, gates))
    assert not torch.allclose(expected, output(plm.model), atol=1e-3)
    torch.testing.assert_close(output(masked(plm, gates, structure)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", SEPARATE)
def test_every_kind_of_gate_alone_matters_and_agrees(kind):
    plm = tiny_plm(kind)
    structure = structure_of(plm)
    for name, gate in some_gates(structure).items():
        expected = output(naive(plm, {name: gate}))
        assert not torch.allclose(expected, output(plm.model), atol=1e-6), name
        torch.testing.assert_close(output(masked(plm, {name: gate}, structure)), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", SEPARATE)
def test_a_bias_of_the_attention_output_stays_and_that_of_an_ffn_goes(kind):
    plm = tiny_plm(kind)
    structure = structure_of(plm)
    biases = expand_gates({"layers.1.layer": torch.tensor([False])}, structure)[1]
    assert not set(structure.bias_names(1, "AO")) & set(biases)
    assert set(structure.bias_names(1, "FO")) <= set(biases)
    assert all(not mask.any() for mask in biases.values())
    assert (kind == "modernbert") == (not biases)  # ModernBERT has no biases
    neurons = {"layers.1.neurons": torch.zeros(64, dtype=torch.bool)}  # all of them: the bias of the output stays
    assert not set(structure.bias_names(1, "FO")) & set(expand_gates(neurons, structure)[1])


def test_fused_biases_are_masked_in_parts():
    plm = tiny_plm("modernbert", attention_bias=True, mlp_bias=True)
    structure = structure_of(plm)
    gates = some_gates(structure)
    biases = expand_gates(gates, structure)[1]
    assert torch.equal(biases["layers.0.attn.Wqkv.bias[2/3]"], gates["layers.0.heads"].repeat_interleave(8))
    assert "layers.0.mlp.Wo.bias" in biases
    expected = output(naive(plm, gates))
    torch.testing.assert_close(output(masked(plm, gates, structure)), expected, atol=1e-12, rtol=0)


def test_open_gates_take_nothing_away():
    structure = structure_of(tiny_plm("bert"))
    matrices, biases = expand_gates({"layers.0.heads": torch.ones(4, dtype=torch.bool)}, structure)
    assert not biases
    assert len(matrices) == 18
    assert all(bool(mask.all()) for mask in matrices.values())
    left = open_units({"layers.0.ffn": torch.tensor([False])}, structure, 0)
    assert (int(left.heads.sum()), int(left.neurons.sum()), left.ffn) == (4, 0, False)


def test_units_are_counted_by_their_own_gates():
    structure = structure_of(tiny_plm("bert"))
    assert count_units(some_gates(structure), structure) == {
        "heads": {"pruned": 3, "total": 12},
        "ffns": {"pruned": 1, "total": 3},
        "neurons": {"pruned": 22, "total": 192},
        "layers": {"pruned": 1, "total": 3},
    }


def test_bert_base_has_what_the_paper_counts():
    with torch.device("meta"):
        model = BertModel(BertConfig())
    structure = structure_of(PLM(model, None, ARCHITECTURES["bert"], "bert-base", None, None, False))
    assert [structure.size(unit) for unit in ("heads", "ffns", "neurons", "layers")] == [144, 12, 36864, 12]
    assert Structure.model_validate(structure.model_dump(mode="json")) == structure


def test_layers_that_share_weights_are_refused(tmp_path):
    plm = load_plm(str(make_model(tmp_path, "albert", head="none")))
    with pytest.raises(UsageError, match="apply the same stored weights, so a head, neuron or FFN cannot be pruned in"):
        structure_of(plm)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ({"layers.0.head": torch.tensor([True])}, "no gate 'layers.0.head': gates are called layers.0.heads"),
        ({"layers.3.ffn": torch.tensor([True])}, "no gate 'layers.3.ffn': .* the encoder has 3 layers"),
        (
            {"layers.0.heads": torch.tensor([True])},
            r"expected torch.bool \(True = kept\) of shape \(4,\)",
        ),
        ({"layers.0.ffn": torch.tensor([1.0])}, r"is torch.float32 of shape \(1,\), expected torch.bool"),
    ],
)
def test_gates_that_do_not_fit_are_named(gates, message):
    with pytest.raises(ContentError, match=message):
        structure_of(tiny_plm("bert")).check(gates)
