"""ARCHITECTURES: for each family of encoders its prunable matrices and its MLM head; slices of fused parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from winning_tickets.runs.errors import ContentError, UsageError

Role = Literal["Q", "K", "V", "AO", "FI", "FO"]
"""Role of a matrix in a layer (TAMT, section 3.1): query, key, value, attention output, FFN input, FFN output."""

HOW_TO_ADD = (
    "To add it, write one entry of ARCHITECTURES in winning_tickets/models/architectures.py "
    "(docs/how_to/add_an_architecture.md)."
)


@dataclass(frozen=True)
class HeadWithoutDecoder:
    """An MLM head that uses the word embeddings instead of a decoder; it is loaded as the head of the table."""

    # Both compute the same. Only a decoder can keep the dense matrix while the embeddings are masked.

    switch: str  # field of the configuration that is false in checkpoints with this head
    renamed: Mapping[str, str]  # prefix of a tensor's name in this head -> in the head of the table


@dataclass(frozen=True)
class Architecture:
    """Names of one family's prunable matrices and MLM head; see docs/how_to/add_an_architecture.md."""

    layers: str  # path of the Transformer layers, `*` for the indices of a list, such as `encoder.layer.*`
    matrices: Mapping[Role, tuple[str, ...]]  # relative to a layer; `weight[0/3]` is a slice of a fused parameter
    word_embeddings: str
    pooler: str | None
    mlm_head: tuple[str, ...]  # modules of the ForMaskedLM class, applied in order to hidden states `(n, hidden)`
    mlm_decoder: str  # output projection of that head, tied to the word embeddings
    other_mlm_head: HeadWithoutDecoder | None = None  # a second kind of head in some checkpoints of the family
    per_layer: tuple[str, ...] = ()  # lists in the configuration with one entry per layer
    shared_layers: bool = False  # whether several layers apply the same stored weights
    always_masked: bool = False  # whether the model, without an attention mask, reads the ids to look for padding

    def layer_paths(self, encoder: nn.Module) -> list[str]:
        """Return the paths of the layers whose weights an encoder stores, in order; shared layers once."""
        paths = [""]
        for step in self.layers.split("."):
            if step == "*":
                children = [(path, name) for path in paths for name, _ in encoder.get_submodule(path).named_children()]
            else:
                children = [(path, step) for path in paths]
            paths = [f"{path}.{name}".lstrip(".") for path, name in children]
        return paths

    def layer_matrices(self, encoder: nn.Module) -> list[dict[Role, tuple[str, ...]]]:
        """Return the full names of the matrices by role, for each layer of `layer_paths`."""
        return [
            {role: tuple(f"{path}.{name}" for name in names) for role, names in self.matrices.items()}
            for path in self.layer_paths(encoder)
        ]


def keep_first_layers(config: Any, architecture: Architecture, layers: int, name: str) -> None:
    """Cut the configuration of a checkpoint to its first layers, in place."""
    total = config.num_hidden_layers
    if not 1 <= layers <= total:
        raise UsageError(f"--layers {layers} is impossible: {name} has {total} layers.")
    # ALBERT assigns groups of shared weights to layers by position: the first layers must keep theirs.
    groups = getattr(config, "num_hidden_groups", 1)
    if groups > 1:
        possible = [count for count in range(1, total + 1) if _groups_of_first(count, total, groups)]
        if layers not in possible:
            raise UsageError(
                f"--layers {layers} is impossible: {name} shares {groups} groups of weights evenly between {total} "
                f"layers, and its first {layers} cannot be written so; possible are {', '.join(map(str, possible))}."
            )
        config.num_hidden_groups = _groups_of_first(layers, total, groups)
    config.num_hidden_layers = layers
    for field in architecture.per_layer:
        setattr(config, field, getattr(config, field)[:layers])


def _groups_of_first(layers: int, total: int, groups: int) -> int | None:
    """Number of groups that the first layers apply; None if a model of so few layers would apply other groups."""

    def group(layer: int, layers: int, groups: int) -> int:  # ALBERT's own arithmetic
        return int(layer / (layers / groups))

    used = group(layers - 1, total, groups) + 1
    same = all(group(i, layers, used) == group(i, total, groups) for i in range(layers))
    return used if same else None


_BERT = Architecture(
    layers="encoder.layer.*",
    matrices={
        "Q": ("attention.self.query.weight",),
        "K": ("attention.self.key.weight",),
        "V": ("attention.self.value.weight",),
        "AO": ("attention.output.dense.weight",),
        "FI": ("intermediate.dense.weight",),
        "FO": ("output.dense.weight",),
    },
    word_embeddings="embeddings.word_embeddings.weight",
    pooler="pooler.dense.weight",
    mlm_head=("cls",),
    mlm_decoder="cls.predictions.decoder",
)

ARCHITECTURES: dict[str, Architecture] = {
    "bert": _BERT,
    **dict.fromkeys(
        ("roberta", "xlm-roberta", "camembert"), replace(_BERT, mlm_head=("lm_head",), mlm_decoder="lm_head.decoder")
    ),
    "electra": replace(
        _BERT,
        pooler=None,
        mlm_head=("generator_predictions", "generator_lm_head"),
        mlm_decoder="generator_lm_head",
    ),
    "distilbert": Architecture(
        layers="transformer.layer.*",
        matrices={
            "Q": ("attention.q_lin.weight",),
            "K": ("attention.k_lin.weight",),
            "V": ("attention.v_lin.weight",),
            "AO": ("attention.out_lin.weight",),
            "FI": ("ffn.lin1.weight",),
            "FO": ("ffn.lin2.weight",),
        },
        word_embeddings="embeddings.word_embeddings.weight",
        pooler=None,
        mlm_head=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
        mlm_decoder="vocab_projector",
    ),
    "mpnet": Architecture(
        layers="encoder.layer.*",
        matrices={
            "Q": ("attention.attn.q.weight",),
            "K": ("attention.attn.k.weight",),
            "V": ("attention.attn.v.weight",),
            "AO": ("attention.attn.o.weight",),
            "FI": ("intermediate.dense.weight",),
            "FO": ("output.dense.weight",),
        },
        word_embeddings="embeddings.word_embeddings.weight",
        pooler="pooler.dense.weight",
        mlm_head=("lm_head",),
        mlm_decoder="lm_head.decoder",
    ),
    "albert": Architecture(
        layers="encoder.albert_layer_groups.*.albert_layers.*",
        matrices={
            "Q": ("attention.query.weight",),
            "K": ("attention.key.weight",),
            "V": ("attention.value.weight",),
            "AO": ("attention.dense.weight",),
            "FI": ("ffn.weight",),
            "FO": ("ffn_output.weight",),
        },
        word_embeddings="embeddings.word_embeddings.weight",
        pooler="pooler.weight",
        mlm_head=("predictions",),
        mlm_decoder="predictions.decoder",
        shared_layers=True,
    ),
    # DeBERTa v2 and v3. Its pooler belongs to the classification head.
    "deberta-v2": replace(
        _BERT,
        matrices={
            **_BERT.matrices,
            "Q": ("attention.self.query_proj.weight",),
            "K": ("attention.self.key_proj.weight",),
            "V": ("attention.self.value_proj.weight",),
        },
        pooler=None,
        always_masked=True,
        other_mlm_head=HeadWithoutDecoder(
            switch="legacy",
            renamed={
                "lm_predictions.lm_head.dense.": "cls.predictions.transform.dense.",
                "lm_predictions.lm_head.LayerNorm.": "cls.predictions.transform.LayerNorm.",
                "lm_predictions.lm_head.bias": "cls.predictions.bias",
            },
        ),
    ),
    "modernbert": Architecture(
        layers="layers.*",
        matrices={
            "Q": ("attn.Wqkv.weight[0/3]",),
            "K": ("attn.Wqkv.weight[1/3]",),
            "V": ("attn.Wqkv.weight[2/3]",),
            "AO": ("attn.Wo.weight",),
            "FI": ("mlp.Wi.weight[0/2]", "mlp.Wi.weight[1/2]"),  # the activated input, then its gate
            "FO": ("mlp.Wo.weight",),
        },
        word_embeddings="embeddings.tok_embeddings.weight",
        pooler=None,
        mlm_head=("head", "decoder"),
        mlm_decoder="decoder",
        per_layer=("layer_types",),
    ),
}


_NAME = re.compile(r"(?P<parameter>[^\[\]]+)\[(?P<index>0|[1-9]\d*)/(?P<count>[2-9]|[1-9]\d+)\]")


@dataclass(frozen=True)
class FusedSlice:
    """A prunable matrix: a whole parameter, or one of several equal slices of a fused one, along dimension 0."""

    parameter: str  # the encoder's own name
    index: int = 0
    count: int = 1  # number of slices

    def of(self, tensor: Tensor) -> Tensor:
        """Return this slice of a tensor of the parameter's shape, as a view."""
        if self.count == 1:
            return tensor
        rows, rest = divmod(tensor.shape[0], self.count)
        if rest:
            raise ContentError(
                f"{self.parameter} has {tensor.shape[0]} rows, not {self.count} equal parts; "
                "is it another architecture?"
            )
        return tensor.narrow(0, self.index * rows, rows)


def split_name(name: str) -> FusedSlice:
    """Parse the name of a matrix, such as `attn.Wqkv.weight[0/3]`."""
    if not name.endswith("]"):
        return FusedSlice(name)
    match = _NAME.fullmatch(name)
    if match is None or int(match["index"]) >= int(match["count"]):
        raise ContentError(f"{name} is not the name of a matrix; parts are written NAME[0/3], NAME[1/3], NAME[2/3].")
    return FusedSlice(match["parameter"], int(match["index"]), int(match["count"]))


def present_in(encoder: nn.Module, names: Iterable[str]) -> list[str]:
    """Return the names whose parameter an encoder has, in their order."""
    present = dict(encoder.named_parameters())
    return [name for name in names if split_name(name).parameter in present]


def prunable_views(encoder: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return an encoder's matrices by name, without gradient, as views of its memory."""
    return matrices_of(dict(encoder.named_parameters()), names)


def matrices_of(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Return matrices by name, without gradient, as views of tensors that are given by parameter."""
    views = {}
    for name in names:
        part = split_name(name)
        if part.parameter not in tensors:
            raise ContentError(f"The model has no parameter {part.parameter}; is it another architecture?")
        views[name] = part.of(tensors[part.parameter].detach())
    return views


def join_parts(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join bool masks of matrices to masks of parameters; a slice without a mask is kept."""
    # Parameters come in the order of their first slice; masks of whole parameters share the given memory.
    found: dict[str, dict[FusedSlice, Tensor]] = {}
    for name, mask in masks.items():
        part = split_name(name)
        found.setdefault(part.parameter, {})[part] = mask
    joined = {}
    for parameter, parts in found.items():
        counts, shapes = {part.count for part in parts}, {mask.shape for mask in parts.values()}
        if len(counts) > 1 or len(shapes) > 1:
            raise ContentError(
                f"The masks of {parameter} do not fit together: found parts of {sorted(counts)} with shapes "
                f"{sorted(map(tuple, shapes))}, expected parts of one number and shape."
            )
        (count,), (shape,) = counts, shapes
        slices = [parts.get(FusedSlice(parameter, i, count)) for i in range(count)]
        kept = [torch.ones(shape, dtype=torch.bool) if mask is None else mask for mask in slices]
        joined[parameter] = torch.cat(kept) if count > 1 else kept[0]
    return joined
