"""How many floating point operations the matrix products of an encoder take; two for each multiply and add."""

from __future__ import annotations

from typing import Any

from torch import nn

from winning_tickets.parts import split_name
from winning_tickets.plm import PLM


def forward_flops(plm: PLM, batch: int, length: int) -> int:
    """Operations of one forward pass of the encoder without its head.

    Counts matrix products only: linear layers, convolutions, and in attention scores and contexts of all pairs of
    tokens. Zeros inside a matrix count like other numbers, as dense kernels multiply by them; matrices that were made
    smaller count with the size that they have. A pooler sees one token of each text.

    Args:
        plm: a loaded model.
        batch: number of texts.
        length: tokens of each.
    """
    encoder, tokens = plm.encoder, batch * length
    applied = _applications(plm)
    total = 0
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Linear):
            path = next((path for path in applied if name.startswith(f"{path}.")), "")
            rows = batch if name.startswith("pooler") else tokens * applied.get(path, 1)
            if name.endswith(_OF_POSITIONS):
                rows = _relative_positions(plm.model.config)
            total += 2 * rows * module.in_features * module.out_features
        elif isinstance(module, nn.Conv1d):
            total += 2 * tokens * module.weight.numel()
    matrices = plm.architecture.layer_matrices(encoder)
    for layer, times in zip(matrices, applied.values(), strict=True):
        query, value = (_rows(encoder, layer[role][0]) for role in ("Q", "V"))
        total += times * 2 * tokens * length * (query + value)
        total += _disentangled(plm.model.config, encoder.get_submodule(_parent(layer["Q"][0])), tokens)
    return total


_OF_POSITIONS = (".pos_key_proj", ".pos_query_proj")
"""Matrices of DeBERTa that project embeddings of relative positions, which all texts share."""


def _applications(plm: PLM) -> dict[str, int]:
    """How often a forward pass applies each stored layer; more than once where layers share weights."""
    paths = plm.architecture.layer_paths(plm.encoder)
    if not plm.architecture.shared_layers:
        return dict.fromkeys(paths, 1)
    config = plm.model.config
    groups = [int(i / (config.num_hidden_layers / config.num_hidden_groups)) for i in range(config.num_hidden_layers)]
    inside = config.inner_group_num
    return {path: groups.count(index // inside) for index, path in enumerate(paths)}


def _rows(encoder: nn.Module, name: str) -> int:
    part = split_name(name)
    return int(part.of(encoder.get_parameter(part.parameter)).shape[0])


def _parent(name: str) -> str:
    """Path of the attention module that holds a query matrix."""
    return split_name(name).parameter.rsplit(".", 2)[0]


def _relative_positions(config: Any) -> int:
    """Number of relative positions that DeBERTa embeds."""
    buckets: int = getattr(config, "position_buckets", -1)
    largest: int = getattr(config, "max_relative_positions", -1)
    return 2 * (buckets if buckets > 0 else largest if largest > 0 else config.max_position_embeddings)


def _disentangled(config: Any, attention: nn.Module, tokens: int) -> int:
    """What DeBERTa's attention between content and relative positions takes beside that of ordinary attention."""
    if not getattr(config, "relative_attention", False):
        return 0
    positions, query = _relative_positions(config), attention.get_submodule("query_proj")
    assert isinstance(query, nn.Linear)
    kinds = sum(kind in config.pos_att_type for kind in ("c2p", "p2c"))
    total = kinds * 2 * tokens * positions * query.out_features
    if config.share_att_key:  # positions go through the matrices of the content, queries and keys alike
        total += 2 * 2 * positions * query.in_features * query.out_features
    return total
