"""Layers, parameters and adapters of kinds that masks do not know are refused by class, early or late."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from samples.held_models import assert_exactly_zero, batch, classifier
from samples.tickets import QUERY, make_ticket
from winning_tickets import TicketCallback, hold
from winning_tickets.models.given import GivenModel
from winning_tickets.runs.errors import ContentError, UsageError

PLACE = QUERY.removesuffix(".weight")
NEVER = "on which no ticket can be put"


class Scaled(nn.Linear):
    """A layer of one's own that computes with other weights than it shows."""

    def forward(self, states):
        return nn.functional.linear(states, 2 * self.weight, self.bias)


class Adapter(nn.Module):
    """Known by PEFT's name of the layer inside, as every kind of adapter is."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer
        self.adapter = nn.Linear(layer.in_features, layer.out_features)

    def forward(self, states):
        return self.base_layer(states) + self.adapter(states)


class Quantized(torch.Tensor):
    """A subclass of tensors, as the libraries of quantization have them."""


class Params4bit(nn.Parameter):
    """A subclass of parameters."""


def put(model, make):
    """Replace a layer."""
    parent, _, name = PLACE.rpartition(".")
    parent = model.base_model.get_submodule(parent)
    setattr(parent, name, make(getattr(parent, name)))


def scaled(layer):
    made = Scaled(layer.in_features, layer.out_features)
    made.load_state_dict(layer.state_dict())
    return made


def weight(make):
    """Replace the weight of a layer."""

    def change(layer):
        layer.weight = make(layer.weight)
        return layer

    return change


def frozen(make):
    return weight(lambda value: nn.Parameter(make(value.detach()), requires_grad=False))


def changed(change):
    def call(layer):
        change(layer, "weight")
        return layer

    return call


def lazy(layer):
    return nn.LazyLinear(layer.out_features)


@torch.inference_mode()
def of_inference(value):
    return value.clone()


def replaced(layer):
    layer.forward = lambda states: nn.functional.linear(states, torch.ones_like(layer.weight))
    return layer


KINDS = {
    "another forward": (replaced, r"is in a torch\.nn\.modules\.linear\.Linear whose forward was replaced"),
    "own class": (
        scaled,
        rf"{QUERY} is in a .*\.Scaled, {NEVER}.*Linear, Embedding and Conv1D; put one of these there",
    ),
    "parametrized": (
        lambda layer: parametrize.register_parametrization(layer, "weight", nn.Identity()),
        r"parametrize made them; call torch\.nn\.utils\.parametrize\.remove_parametrizations\(module, 'weight'\)",
    ),
    "weight norm": (parametrizations.weight_norm, r"parametrize made them; .*remove_parametrizations"),
    "pruned": (
        changed(lambda layer, name: prune.l1_unstructured(layer, name, 0.5)),
        r"prune made them; call torch\.nn\.utils\.prune\.remove\(module, 'weight'\)",
    ),
    "subclass of tensors": (
        frozen(lambda value: value.as_subclass(Quantized)),
        r"is a Quantized, not a plain tensor; put the ticket on the model before it is quantized or wrapped",
    ),
    "subclass of parameters": (
        weight(lambda value: Params4bit(value.detach())),
        r"is a Params4bit, not a plain tensor; put the ticket on the model",
    ),
    "integers": (
        frozen(lambda value: value.to(torch.int8)),
        r"is quantized \(torch\.int8\); put the ticket on the model",
    ),
    "eight bits": (frozen(lambda value: value.to(torch.float8_e4m3fn)), r"is quantized \(torch\.float8_e4m3fn\); put"),
    "complex": (frozen(lambda value: value.to(torch.complex64)), "has complex numbers; masks work on real ones"),
    "sparse": (
        frozen(lambda value: value.to_sparse()),
        r"is stored as torch\.sparse_coo; convert it with to_dense\(\)",
    ),
    "without data": (frozen(lambda value: value.to("meta")), "is on the device meta, without data; load the whole"),
    "lazy": (lazy, r"is in a torch\.nn\.modules\.linear\.LazyLinear, on which no ticket"),
    "quantized": (
        lambda layer: torch.nn.Sequential(layer),  # in place of a layer that keeps its weights packed
        rf"is in a torch\.nn\.modules\.container\.Sequential, {NEVER}",
    ),
    "adapter": (
        Adapter,
        r"has an adapter that cannot be masked \(.*\.Adapter\), so a merged model would be dense\. Merge the adapter "
        "before, or use LoRA, also with DoRA, or IA3",
    ),
}
IN_INFERENCE = (
    frozen(of_inference),
    r"was made in torch\.inference_mode, so it cannot be trained; load the model outside",
)


def step(model, optimizer):
    model(**batch()).loss.backward()
    optimizer.step()


@pytest.mark.parametrize(("make", "message"), [*KINDS.values(), IN_INFERENCE], ids=[*KINDS, "inference"])
def test_a_kind_that_is_not_on_the_list_is_refused_at_once(make, message):
    model = classifier()
    ticket = make_ticket(model)
    put(model, make)
    with pytest.raises(ContentError, match=message):
        hold(model, ticket, allow_other_weights=True)
    with pytest.raises(ContentError, match=message):
        TicketCallback(ticket, allow_other_weights=True).on_init_end(None, None, None, model=model)
    if make is not Adapter:  # which leaves the weights in their place
        with pytest.raises(ContentError, match=message):
            ticket.is_applied_to(model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_not_on_the_list_is_refused_at_the_next_step(kind):
    make, message = KINDS[kind]
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    hold(model, make_ticket(model), optimizer)
    step(model, optimizer)
    put(model, make)
    with pytest.raises(ContentError, match=message):
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_memory_has_layers_and_weights_of_the_list(kind):
    make, message = KINDS[kind]
    model = classifier()
    put(model, make)
    with pytest.raises((ContentError, UsageError), match=message):
        GivenModel.of(model)


def test_a_replaced_layer_of_a_known_kind_is_held():
    model = classifier()
    ticket = make_ticket(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    held = hold(model, ticket, optimizer)
    put(model, lambda layer: nn.Linear(layer.in_features, layer.out_features))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    step(model, optimizer)
    held.zero_()
    assert_exactly_zero(model, ticket)
    new = model.base_model.get_parameter(QUERY)
    model(**batch()).loss.backward()
    assert not new.grad[~ticket.masks[QUERY]].count_nonzero(), "its gradients are masked too"


def test_adapters_are_left_alone_if_asked():
    model = classifier()
    ticket = make_ticket(model)
    put(model, Adapter)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    hold(model, ticket, optimizer, mask_adapters=False)
    step(model, optimizer)
    assert ticket.is_applied_to(model)
