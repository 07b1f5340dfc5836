"""ARCHITECTURES: which matrices of each family of encoders can be pruned, and where its MLM head is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from winning_tickets.runs.errors import ContentError, UsageError

Role = Literal["Q", "K", "V", "AO", "FI", "FO"]
"""What a matrix of a layer does (TAMT, section 3.1): query, key, value, attention output, into the FFN, out of it."""

HOW_TO_ADD = (
    "To add it, write one entry of ARCHITECTURES in winning_tickets/architectures.py "
    "(docs/how_to/add_an_architecture.md)."
)


@dataclass(frozen=True)
class HeadWithoutDecoder:
    """An MLM head that borrows the word embeddings instead of having a decoder; it is loaded as the one of the table.

    Both compute the same. Only a decoder can keep the dense matrix while the embeddings are masked.

    Attributes:
        switch: field of the configuration that is false where a checkpoint has this head.
        renamed: start of a tensor's name in this head, and in the head of the table.
    """

    switch: str
    renamed: Mapping[str, str]


@dataclass(frozen=True)
class Architecture:
    """Where one family of encoders keeps what can be pruned; all names are the encoder's own.

    Attributes:
        layers: path of the Transformer layers, `*` for the indices of a list, such as `encoder.layer.*`.
        matrices: for each role the matrices of a layer, relative to it; `weight[0/3]` is a part of a fused parameter.
        word_embeddings: name of the word embedding matrix.
        pooler: name of the pooler matrix; None where the encoder has none.
        mlm_head: modules of the ForMaskedLM class, applied in this order to hidden states `(n, hidden)`.
        mlm_decoder: the output projection of that head, tied to the word embeddings.
        other_mlm_head: a second kind of head that checkpoints of this family may have.
        per_layer: lists in the configuration that have an entry a layer.
        shared_layers: several layers apply the same stored weights.
    """

    layers: str
    matrices: Mapping[Role, tuple[str, ...]]
    word_embeddings: str
    pooler: str | None
    mlm_head: tuple[str, ...]
    mlm_decoder: str
    other_mlm_head: HeadWithoutDecoder | None = None
    per_layer: tuple[str, ...] = ()
    shared_layers: bool = False

    def layer_paths(self, encoder: nn.Module) -> list[str]:
        """Paths of the layers whose weights an encoder stores, the first layer first; shared layers once."""
        paths = [""]
        for step in self.layers.split("."):
            paths = [f"{path}.{name}".lstrip(".") for path in paths for name in _children(encoder, path, step)]
        return paths

    def layer_matrices(self, encoder: nn.Module) -> list[dict[Role, tuple[str, ...]]]:
        """Full names of the matrices by role, for each layer of `layer_paths`."""
        return [
            {role: tuple(f"{path}.{name}" for name in names) for role, names in self.matrices.items()}
            for path in self.layer_paths(encoder)
        ]


def _children(encoder: nn.Module, path: str, step: str) -> list[str]:
    return [name for name, _ in encoder.get_submodule(path).named_children()] if step == "*" else [step]


def first_layers(config: Any, architecture: Architecture, layers: int, name: str) -> None:
    """Cut a configuration to the first layers, in place.

    Args:
        config: of the checkpoint.
        architecture: its entry of the table.
        layers: how many to keep.
        name: of the model, for messages.

    Raises:
        UsageError: more layers than there are, or groups of shared weights that cannot be cut there.
    """
    total = config.num_hidden_layers
    if not 1 <= layers <= total:
        raise UsageError(f"--layers {layers} is impossible: {name} has {total} layers.")
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
    """Groups of weights that the first layers apply; None where fewer layers would apply others than these."""

    def group(layer: int, layers: int, groups: int) -> int:  # ALBERT's own arithmetic
        return int(layer / (layers / groups))

    used = group(layers - 1, total, groups) + 1
    same = all(group(i, layers, used) == group(i, total, groups) for i in range(layers))
    return used if same else None


_BERT_MATRICES: dict[Role, tuple[str, ...]] = {
    "Q": ("attention.self.query.weight",),
    "K": ("attention.self.key.weight",),
    "V": ("attention.self.value.weight",),
    "AO": ("attention.output.dense.weight",),
    "FI": ("intermediate.dense.weight",),
    "FO": ("output.dense.weight",),
}

ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(
        layers="encoder.layer.*",
        matrices=_BERT_MATRICES,
        word_embeddings="embeddings.word_embeddings.weight",
        pooler="pooler.dense.weight",
        mlm_head=("cls",),
        mlm_decoder="cls.predictions.decoder",
    ),
    "roberta": Architecture(
        layers="encoder.layer.*",
        matrices=_BERT_MATRICES,
        word_embeddings="embeddings.word_embeddings.weight",
        pooler="pooler.dense.weight",
        mlm_head=("lm_head",),
        mlm_decoder="lm_head.decoder",
    ),
    "electra": Architecture(
        layers="encoder.layer.*",
        matrices=_BERT_MATRICES,
        word_embeddings="embeddings.word_embeddings.weight",
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
    "deberta-v2": Architecture(
        layers="encoder.layer.*",
        matrices={
            **_BERT_MATRICES,
            "Q": ("attention.self.query_proj.weight",),
            "K": ("attention.self.key_proj.weight",),
            "V": ("attention.self.value_proj.weight",),
        },
        word_embeddings="embeddings.word_embeddings.weight",
        pooler=None,
        mlm_head=("cls",),
        mlm_decoder="cls.predictions.decoder",
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
class Part:
    """Where a masked matrix lies.

    Attributes:
        parameter: the encoder's own name of the parameter.
        index: which of its parts, from 0.
        count: number of equal parts along dimension 0; 1 for a whole parameter.
    """

    parameter: str
    index: int = 0
    count: int = 1

    def of(self, tensor: Tensor) -> Tensor:
        """The part of a tensor of the parameter's shape, as a view; the tensor itself where the part is the whole.

        Raises:
            ContentError: its rows cannot be cut into so many equal parts.
        """
        if self.count == 1:
            return tensor
        rows, rest = divmod(tensor.shape[0], self.count)
        if rest:
            raise ContentError(
                f"{self.parameter} has {tensor.shape[0]} rows, which are not {self.count} equal parts; "
                "is it another architecture?"
            )
        return tensor.narrow(0, self.index * rows, rows)


def split_name(name: str) -> Part:
    """What a mask's name stands for.

    Raises:
        ContentError: the name ends like a part and is none.
    """
    if not name.endswith("]"):
        return Part(name)
    match = _NAME.fullmatch(name)
    if match is None or int(match["index"]) >= int(match["count"]):
        raise ContentError(f"{name} is not the name of a matrix; parts are written NAME[0/3], NAME[1/3], NAME[2/3].")
    return Part(match["parameter"], int(match["index"]), int(match["count"]))


def present_in(encoder: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the names whose parameter an encoder has, in their order."""
    present = dict(encoder.named_parameters())
    return [name for name in names if split_name(name).parameter in present]


def prunable_views(encoder: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The matrices behind names, without gradient: views of the encoder's own memory.

    Args:
        encoder: the encoder inside a model.
        names: of whole parameters or parts.

    Raises:
        ContentError: the encoder lacks a parameter, or it cannot be cut into the parts.
    """
    return matrices_of(dict(encoder.named_parameters()), names)


def matrices_of(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The matrices behind names, without gradient: views of tensors by name of the parameter.

    Raises:
        ContentError: a parameter is missing, or it cannot be cut into the parts.
    """
    views = {}
    for name in names:
        part = split_name(name)
        if part.parameter not in tensors:
            raise ContentError(f"The model has no parameter {part.parameter}; is it another architecture?")
        views[name] = part.of(tensors[part.parameter].detach())
    return views


def join_parts(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks of whole parameters: parts are put together, a part without a mask is kept.

    Args:
        masks: bool, by name of the matrix.

    Returns:
        By name of the parameter, in the order of its first part; whole parameters share the given memory.

    Raises:
        ContentError: two masks of a parameter overlap, or its parts differ in shape.
    """
    found: dict[str, dict[Part, Tensor]] = {}
    for name, mask in masks.items():
        part = split_name(name)
        found.setdefault(part.parameter, {})[part] = mask
    return {parameter: _join(parameter, parts) for parameter, parts in found.items()}


def _join(parameter: str, parts: Mapping[Part, Tensor]) -> Tensor:
    counts, shapes = {part.count for part in parts}, {mask.shape for mask in parts.values()}
    if len(counts) > 1 or len(shapes) > 1:
        raise ContentError(
            f"The masks of {parameter} do not fit together: found parts of {sorted(counts)} with shapes "
            f"{sorted(map(tuple, shapes))}, expected parts of one number and shape."
        )
    (count,), (shape,) = counts, shapes
    by_index = {part.index: mask for part, mask in parts.items()}
    if count == 1:
        return by_index[0]
    return torch.cat([by_index.get(i, torch.ones(shape, dtype=torch.bool)) for i in range(count)])
