"""ARCHITECTURES, the prunable matrices and language-model head of each model family; matrices inside parameters."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from winning_tickets.runs.errors import ContentError, UsageError

Role = Literal["Q", "K", "V", "AO", "FI", "FO"]
"""Role of a matrix in a layer (TAMT, section 3.1): query, key, value, attention output, FFN input, FFN output."""

HOW_TO_ADD = "To add it, write one entry of ARCHITECTURES in winning_tickets/models/architectures.py."


@dataclass(frozen=True)
class HeadWithoutDecoder:
    """An MLM head that uses the word embeddings instead of a decoder; loading converts it to the head of the table."""

    # Both heads compute the same. Only a decoder can keep the dense matrix while the embeddings are masked.

    switch: str  # field of the configuration that is false in checkpoints with this head
    renamed: Mapping[str, str]  # prefix of a tensor's name in this head -> in the head of the table


@dataclass(frozen=True)
class Architecture:
    """Names of one family's prunable matrices and language-model head; see docs/how_to/add_an_architecture.md."""

    layers: str  # path of the Transformer layers, `*` for the indices of a list, such as `encoder.layer.*`
    # Relative to a layer, see `MatrixView`. `{heads}` and the like are filled in from the configuration.
    matrices: Mapping[Role, tuple[str, ...]]
    word_embeddings: str
    pooler: str | None
    lm_head: tuple[str, ...]  # modules of the class with that head, applied in order to hidden states `(n, hidden)`
    lm_decoder: str  # output projection of that head, perhaps tied to the word embeddings
    causal: bool = False  # a decoder: each token sees those before it, and the head predicts the next one
    ffn_size: str = "intermediate_size"  # field of the configuration with the number of neurons of an FFN
    own_head_size: bool = False  # whether `head_dim` of the configuration is the size of a head
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

    def matrices_of(self, config: Any) -> dict[Role, tuple[str, ...]]:
        """Return the names of the matrices of a model of this configuration by role, relative to a layer."""
        heads = config.num_attention_heads
        groups = getattr(config, "num_key_value_heads", None) or heads
        unit = math.gcd(heads, groups)  # heads in a unit, in which rows are counted
        queries, keys = heads // unit, groups // unit
        sizes = {"heads": heads, "queries": queries, "queries_and_keys": queries + keys, "all": queries + 2 * keys}
        return {
            role: tuple(str(split_name(name.format(**sizes))) for name in names)
            for role, names in self.matrices.items()
        }

    def layer_matrices(self, encoder: nn.Module) -> list[dict[Role, tuple[str, ...]]]:
        """Return the full names of the matrices by role, for each layer of `layer_paths`."""
        matrices = self.matrices_of(encoder.config)
        return [
            {role: tuple(f"{path}.{name}" for name in names) for role, names in matrices.items()}
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
    """Return the number of groups that the first layers apply; None if a model of so few layers would apply others."""

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
    lm_head=("cls",),
    lm_decoder="cls.predictions.decoder",
)

_LLAMA = Architecture(
    layers="layers.*",
    matrices={
        "Q": ("self_attn.q_proj.weight",),
        "K": ("self_attn.k_proj.weight",),
        "V": ("self_attn.v_proj.weight",),
        "AO": ("self_attn.o_proj.weight",),
        "FI": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "FO": ("mlp.down_proj.weight",),
    },
    word_embeddings="embed_tokens.weight",
    pooler=None,
    lm_head=("lm_head",),
    lm_decoder="lm_head",
    causal=True,
    own_head_size=True,
)

ARCHITECTURES: dict[str, Architecture] = {
    "bert": _BERT,
    **dict.fromkeys(
        ("roberta", "xlm-roberta", "camembert"), replace(_BERT, lm_head=("lm_head",), lm_decoder="lm_head.decoder")
    ),
    "electra": replace(
        _BERT,
        pooler=None,
        lm_head=("generator_predictions", "generator_lm_head"),
        lm_decoder="generator_lm_head",
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
        ffn_size="hidden_dim",
        lm_head=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
        lm_decoder="vocab_projector",
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
        lm_head=("lm_head",),
        lm_decoder="lm_head.decoder",
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
        lm_head=("predictions",),
        lm_decoder="predictions.decoder",
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
        lm_head=("head", "decoder"),
        lm_decoder="decoder",
        per_layer=("layer_types",),
    ),
    # Decoders. Llama's names are those of most families.
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": replace(_LLAMA, per_layer=("layer_types",)),
    "qwen3": replace(_LLAMA, per_layer=("layer_types",)),
    "gemma2": replace(_LLAMA, per_layer=("layer_types",)),
    "gemma3_text": replace(_LLAMA, per_layer=("layer_types",)),
    "phi3": replace(
        _LLAMA,
        matrices={
            "Q": ("self_attn.qkv_proj.weight[0:{queries}/{all}]",),
            "K": ("self_attn.qkv_proj.weight[{queries}:{queries_and_keys}/{all}]",),
            "V": ("self_attn.qkv_proj.weight[{queries_and_keys}:{all}/{all}]",),
            "AO": ("self_attn.o_proj.weight",),
            "FI": ("mlp.gate_up_proj.weight[0/2]", "mlp.gate_up_proj.weight[1/2]"),  # the gate, then what it multiplies
            "FO": ("mlp.down_proj.weight",),
        },
    ),
    "opt": replace(
        _LLAMA,
        layers="decoder.layers.*",
        matrices={
            "Q": ("self_attn.q_proj.weight",),
            "K": ("self_attn.k_proj.weight",),
            "V": ("self_attn.v_proj.weight",),
            "AO": ("self_attn.out_proj.weight",),
            "FI": ("fc1.weight",),
            "FO": ("fc2.weight",),
        },
        word_embeddings="decoder.embed_tokens.weight",
        ffn_size="ffn_dim",
        own_head_size=False,
    ),
    "gpt_neox": replace(  # Pythia; the query, key and value of a head are neighbors
        _LLAMA,
        matrices={
            "Q": ("attention.query_key_value.weight[0/3x{heads}]",),
            "K": ("attention.query_key_value.weight[1/3x{heads}]",),
            "V": ("attention.query_key_value.weight[2/3x{heads}]",),
            "AO": ("attention.dense.weight",),
            "FI": ("mlp.dense_h_to_4h.weight",),
            "FO": ("mlp.dense_4h_to_h.weight",),
        },
        word_embeddings="embed_in.weight",
        own_head_size=False,
    ),
    "gpt2": replace(  # and DistilGPT2; Conv1D stores matrices as `(in, out)`
        _LLAMA,
        layers="h.*",
        matrices={
            "Q": ("attn.c_attn.weight.T[0/3]",),
            "K": ("attn.c_attn.weight.T[1/3]",),
            "V": ("attn.c_attn.weight.T[2/3]",),
            "AO": ("attn.c_proj.weight.T",),
            "FI": ("mlp.c_fc.weight.T",),
            "FO": ("mlp.c_proj.weight.T",),
        },
        word_embeddings="wte.weight",
        ffn_size="n_inner",
        own_head_size=False,
    ),
}


_NAME = re.compile(
    r"(?P<parameter>[^\[\]]+?)(?P<transposed>\.T)?"
    r"(\[(?P<start>0|[1-9]\d*)(:(?P<stop>[1-9]\d*))?/(?P<count>[2-9]|[1-9]\d+)(x(?P<blocks>[2-9]|[1-9]\d+))?\])?"
)


@dataclass(frozen=True)
class MatrixView:
    """A prunable matrix `(out, in)`: a parameter, or a part of one that joins several matrices along `out`.

    Its name is `PARAMETER[0/3]` for the first of three equal parts, `[2:3/4]` for parts of other sizes, in units of a
    fourth, and `[0/3x8]` where each of eight equal blocks has its own three parts: the matrix then is
    `(8, out / 8, in)`. `.T` after the parameter says that it is stored as `(in, out)`.
    """

    parameter: str  # the encoder's own name
    start: int = 0
    stop: int = 1
    count: int = 1  # number of units along `out`, or along each block of it
    blocks: int = 1
    transposed: bool = False

    def __str__(self) -> str:
        place = f"{self.start}" if self.stop == self.start + 1 else f"{self.start}:{self.stop}"
        blocks = f"x{self.blocks}" if self.blocks > 1 else ""
        part = f"[{place}/{self.count}{blocks}]" if self.count > 1 else ""
        return f"{self.parameter}{'.T' if self.transposed else ''}{part}"

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a parameter with `out` as its first dimension, as a view; a bias has no other dimension."""
        return tensor.t() if self.transposed and tensor.dim() == 2 else tensor

    def of(self, tensor: Tensor) -> Tensor:
        """Return this matrix, or its entries of a bias, as a view of a tensor with the parameter's shape."""
        whole = self.whole(tensor)
        if self.count == 1:
            return whole
        rows, rest = divmod(whole.shape[0], self.count * self.blocks)
        if rest:
            raise ContentError(
                f"{self.parameter} has {whole.shape[0]} rows, not {self.count * self.blocks} equal parts; "
                "is it another architecture?"
            )
        if self.blocks > 1:
            whole = whole.view(self.blocks, -1, *whole.shape[1:])
        dimension = int(self.blocks > 1)
        return whole.narrow(dimension, self.start * rows, (self.stop - self.start) * rows)


def split_name(name: str) -> MatrixView:
    """Parse the name of a matrix, such as `attn.Wqkv.weight[0/3]`."""
    match = _NAME.fullmatch(name)
    if match is not None and match["count"] is None:
        return MatrixView(match["parameter"], transposed=match["transposed"] is not None)
    if match is not None:
        start, count = int(match["start"]), int(match["count"])
        stop = int(match["stop"] or start + 1)
        if start < stop <= count:
            blocks = int(match["blocks"] or 1)
            return MatrixView(match["parameter"], start, stop, count, blocks, match["transposed"] is not None)
    raise ContentError(f"{name} is not the name of a matrix; parts are written NAME[0/3], NAME[1/3], NAME[2/3].")


def module_of(name: str) -> str:
    """Return the path of the module that holds a matrix: `mlp.Wi.weight[0/2]` -> `mlp.Wi`."""
    return split_name(name).parameter.removesuffix(".weight")


def present_in(encoder: nn.Module, names: Iterable[str]) -> list[str]:
    """Return the names whose parameter an encoder has, in their order."""
    present = dict(encoder.named_parameters())
    return [name for name in names if split_name(name).parameter in present]


def prunable_views(encoder: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Return an encoder's matrices by name, without gradient, as views of its memory."""
    return matrices_of(dict(encoder.named_parameters()), names)


def matrices_of(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Return matrices by name, without gradient, as views of tensors that are given by parameter name."""
    views = {}
    for name in names:
        part = split_name(name)
        if part.parameter not in tensors:
            raise ContentError(f"The model has no parameter {part.parameter}; is it another architecture?")
        views[name] = part.of(tensors[part.parameter].detach())
    return views


def join_parts(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join bool masks of matrices into masks of parameters; a part without a mask is kept whole."""
    # Parameters come in the order of their first matrix; masks of whole parameters share the given memory.
    found: dict[str, dict[MatrixView, Tensor]] = {}
    for name, mask in masks.items():
        part = split_name(name)
        found.setdefault(part.parameter, {})[part] = mask
    joined = {}
    for parameter, parts in found.items():
        first, *others = parts
        if not others and first.count == 1:
            joined[parameter] = first.whole(parts[first]).contiguous()
            continue
        units = sorted((part.start, part.stop) for part in parts)
        sizes = {mask.shape[part.blocks > 1] / (part.stop - part.start) for part, mask in parts.items()}
        kinds = {
            (part.count, part.blocks, part.transposed, parts[part].shape[(part.blocks > 1) + 1 :]) for part in parts
        }
        overlap = any(after < stop for (_, stop), (after, _) in itertools.pairwise(units))
        if len(kinds) > 1 or len(sizes) > 1 or overlap:
            raise ContentError(
                f"The masks of {parameter} do not fit together: found parts of {sorted({p.count for p in parts})} with "
                f"shapes {sorted({tuple(mask.shape) for mask in parts.values()})}, expected parts of one number and "
                "shape."
            )
        rows = first.count * first.blocks * int(sizes.pop())
        mask = torch.ones((rows, *parts[first].shape[(first.blocks > 1) + 1 :]), dtype=torch.bool)
        mask = first.whole(mask).contiguous()
        for part, kept in parts.items():
            part.of(mask).copy_(kept)
        joined[parameter] = mask
    return joined
