"""Tiny models with their heads and FFNs, and naive gates."""

import copy

import torch
from transformers import AutoModel

from samples.tiny_models import CONFIGS
from winning_tickets.models.architectures import ARCHITECTURES, join_parts
from winning_tickets.models.loading import PLM
from winning_tickets.models.structure import expand_gates

SEPARATE = [kind for kind in CONFIGS if not ARCHITECTURES[kind].shared_layers]
IDS = torch.arange(5, 25).view(2, 10)
PADDED = torch.tensor([[1] * 10, [1] * 7 + [0] * 3])


def tiny_plm(kind, dtype=torch.float64, **fields):
    """Three layers of four heads, with biases that are not zero, in double precision."""
    config = CONFIGS[kind](60)
    config.initializer_range = 0.3
    for name, value in ({"num_hidden_layers": 3, "num_attention_heads": 4} | fields).items():
        setattr(config, name, value)
    if kind == "modernbert":
        config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return PLM(model, None, ARCHITECTURES[kind], kind, None, None, False)


def some_gates(structure):
    """A closed FFN, some heads and neurons, a whole layer."""
    return {
        "layers.0.heads": torch.tensor([False, True, True, False]),
        "layers.0.ffn": torch.tensor([False]),
        "layers.1.neurons": torch.arange(structure.intermediate_size) % 3 > 0,
        "layers.1.heads": torch.tensor([True, True, False, True]),
        "layers.2.layer": torch.tensor([False]),
    }


def naive(plm, gates):
    """The oracle: what the gates open, multiplied by 0 or 1 in the forward pass by names of its own."""
    model = copy.deepcopy(plm.model)
    heads = model.config.num_attention_heads
    layers = plm.architecture.layer_matrices(model)
    for index, roles in enumerate(layers):
        context, ffn = (model.get_submodule(roles[role][0].removesuffix(".weight")) for role in ("AO", "FO"))
        whole = gates.get(f"layers.{index}.layer", torch.tensor([True]))
        open_heads = gates.get(f"layers.{index}.heads", torch.ones(heads, dtype=torch.bool)) & whole
        block = gates.get(f"layers.{index}.ffn", torch.tensor([True])) & whole
        neurons = gates.get(f"layers.{index}.neurons", torch.ones(ffn.in_features, dtype=torch.bool))
        rows = open_heads.repeat_interleave(context.in_features // heads)
        context.register_forward_pre_hook(lambda m, args, g=rows: (args[0] * g,))
        ffn.register_forward_pre_hook(lambda m, args, g=neurons: (args[0] * g,))
        ffn.register_forward_hook(lambda m, args, out, g=block: out * g)
    return model


def output(model):
    with torch.no_grad():
        return model(IDS, attention_mask=PADDED).last_hidden_state


def masked(plm, gates, structure):
    """A copy of the model with the weights and biases that the gates take away set to zero."""
    model = copy.deepcopy(plm.model)
    matrices, biases = expand_gates(gates, structure)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in join_parts(matrices | biases).items():
            parameters[name][~mask] = 0
    return model
