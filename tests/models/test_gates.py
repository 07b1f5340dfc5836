"""Gates in the forward pass, and the gradients of gates that are not there, against gates that are."""

import gc
import weakref

import pytest
import torch

from samples.structures import IDS, PADDED, SEPARATE, masked, naive, output, some_gates, tiny_plm
from winning_tickets.models.structure import UNITS, GateGradients, gated, structure_of


@pytest.mark.parametrize("kind", SEPARATE)
def test_gated_is_what_the_weights_compute_and_leaves_no_trace(kind):
    plm = tiny_plm(kind)
    structure = structure_of(plm)
    gates = some_gates(structure)
    dense = output(plm.model)
    with gated(plm.encoder, structure, gates):
        found = output(plm.model)
    torch.testing.assert_close(found, output(naive(plm, gates)), atol=1e-12, rtol=0)
    torch.testing.assert_close(found, output(masked(plm, gates, structure)), atol=1e-12, rtol=0)
    assert torch.equal(output(plm.model), dense)
    with pytest.raises(ZeroDivisionError), gated(plm.encoder, structure, gates):
        _ = 1 / 0
    assert torch.equal(output(plm.model), dense)


def test_gates_of_each_sample_act_on_that_sample():
    plm = tiny_plm("bert")
    structure = structure_of(plm)
    heads = torch.tensor([[[1, 0, 1, 1]], [[0, 1, 1, 0]]], dtype=torch.bool)
    with gated(plm.encoder, structure, {"layers.1.heads": heads}):
        found = output(plm.model)
    for sample in range(2):
        with gated(plm.encoder, structure, {"layers.1.heads": heads[sample, 0]}):
            torch.testing.assert_close(found[sample], output(plm.model)[sample], atol=1e-12, rtol=0)


def by_autograd(plm, structure, project, units):
    """The oracle: a gate for every token, at one, that autograd knows."""
    shape = IDS.shape
    gates = {
        f"layers.{layer}.{UNITS[unit]}": torch.ones(
            *shape, structure.per_layer(unit), dtype=torch.float64, requires_grad=True
        )
        for layer in range(3)
        for unit in units
    }
    with gated(plm.encoder, structure, gates):
        project(plm.model(IDS, attention_mask=PADDED).last_hidden_state).backward()
    return {name: gate.grad for name, gate in gates.items()}


@pytest.mark.parametrize("kind", SEPARATE)
@pytest.mark.parametrize("units", [("heads", "ffns", "neurons", "layers"), ("ffns",), ("layers",)])
def test_gradients_are_those_of_real_gates(kind, units):
    plm = tiny_plm(kind)
    structure = structure_of(plm)
    weights = torch.randn((*IDS.shape, 32), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = by_autograd(plm, structure, lambda states: (states * weights).sum(), units)
    plm.model.requires_grad_(False)
    found = {}

    def receive(unit, layer, gradients):
        name = f"layers.{layer}.{UNITS[unit]}"
        assert name not in found
        found[name] = gradients

    with GateGradients(plm.encoder, structure, units, receive):
        states = plm.model(IDS, attention_mask=PADDED).last_hidden_state
        (states * weights).sum().backward()
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-3, name
        torch.testing.assert_close(found[name], gradient, atol=1e-10, rtol=1e-9)


def test_the_backward_pass_ends_at_the_lowest_gate():
    plm = tiny_plm("bert")
    structure = structure_of(plm)
    plm.model.requires_grad_(False)
    reached = []
    query = plm.encoder.encoder.layer[0].attention.self.query
    second = plm.encoder.encoder.layer[1].attention.self.query
    for place, module in (("below", query), ("above", second)):
        module.register_forward_hook(
            lambda m, args, out, p=place: (
                out.register_hook(lambda g: reached.append(p)) and None if out.requires_grad else None
            )
        )
    with GateGradients(plm.encoder, structure, ("heads",), lambda *_: None):
        plm.model(IDS, attention_mask=PADDED).last_hidden_state.sum().backward()
    assert reached == ["above"]
    assert all(parameter.grad is None for parameter in plm.model.parameters())


def test_no_graph_is_kept_alive():
    plm = tiny_plm("bert")
    structure = structure_of(plm)
    plm.model.requires_grad_(False)
    watched = []
    gc.collect()
    gc.disable()  # a cycle between a tensor and its own hook would have to be collected
    try:
        with GateGradients(plm.encoder, structure, ("heads", "ffns", "neurons"), lambda *_: None):
            for layer in range(3):  # these hooks come after ours and see the tensors that ours watch
                for name in (structure.context_module(layer), structure.ffn_module(layer)):
                    plm.encoder.get_submodule(name).register_forward_pre_hook(
                        lambda module, inputs: watched.append(weakref.ref(inputs[0]))
                    )
            plm.model(IDS, attention_mask=PADDED).last_hidden_state.sum().backward()
        assert len(watched) == 6
        assert [reference() for reference in watched] == [None] * 6
    finally:
        gc.enable()
