"""Structured tickets of tiny models."""

import torch
from transformers import AutoModel

from samples.tiny_models import CONFIGS
from winning_tickets import Ticket
from winning_tickets.models.loading import load_plm
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo


def tiny(kind, loader=AutoModel, **fields):
    """A model of three layers and four heads with biases that are not zero."""
    config = CONFIGS[kind](60)
    config.initializer_range = 0.3
    for name, value in ({"num_hidden_layers": 3, "num_attention_heads": 4} | fields).items():
        setattr(config, name, value)
    if kind == "modernbert":
        config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    torch.manual_seed(0)
    model = loader.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def gates_of(model):
    """Every kind of layer: some heads and neurons; neither heads nor FFN; all heads, of the FFN only its bias."""
    width = model.config.intermediate_size if hasattr(model.config, "intermediate_size") else model.config.hidden_dim
    some = torch.arange(width) % 3 > 0
    return {
        "layers.0.heads": torch.tensor([False, True, False, True]),
        "layers.0.neurons": some,
        "layers.1.layer": torch.tensor([False]),
        "layers.2.neurons": torch.zeros(width, dtype=torch.bool),
    }


def structured_ticket(model, out, even=False):
    """A ticket that prunes whole heads, neurons and FFNs: columns of the matrices that read them.

    With `even` it prunes every second neuron of every layer alone.
    """
    plm = load_plm(str(model))
    encoder, architecture = plm.encoder, plm.architecture
    masks = {}
    for index, layer in enumerate(architecture.layer_matrices(encoder)):
        for role, name in (("AO", layer["AO"][0]), ("FO", layer["FO"][0])):
            mask = torch.ones(encoder.get_parameter(name).shape, dtype=torch.bool)
            if even:
                mask[:, ::2] = role == "AO"
            elif role == "AO":
                mask[:, : 16 * (2 - index)] = False  # both heads, then one of them
            else:
                mask[:, :: index + 1] = False  # all neurons, then every second one
            masks[name] = mask
    base = BaseModelInfo.of(encoder, str(model), plm.model.config.model_type, None, layers=None)
    ticket = Ticket(masks, TicketInfo(method="test", scope="encoder", config={}, applies_to=base))
    ticket.save_pretrained(out)
    return ticket
