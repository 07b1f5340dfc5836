"""Encoders whose layers differ in size: without the heads, FFN neurons and FFNs that a ticket removed.

A compact model is saved with a copy of this file next to its weights, so that
`AutoModel.from_pretrained(DIR, trust_remote_code=True)` needs only torch and transformers. The field
`winning_tickets_compact` of the model's configuration lists the remaining parts of each layer.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

COMPACT = "winning_tickets_compact"
"""Field of a compact model's configuration: `paths` of the modules of a layer, and the size of each of the `layers`."""
PREFIX = "Compact"


@functools.cache
def compact_class(base: type[Any]) -> type[Any]:
    """Make a model class with uneven layers from an ordinary one, such as `BertForMaskedLM`."""

    class Compact(base):  # type: ignore[misc]
        """The ordinary model, made smaller before its weights are loaded."""

        # With this transformers saves the file of this class next to the weights: "AutoModelForMaskedLM" and the like.
        _auto_class = "AutoModel" + "".join(base.__name__.partition("For")[1:])

        def __init__(self, config: Any, *inputs: Any, **options: Any) -> None:
            super().__init__(config, *inputs, **options)
            shrink_(self.base_model, getattr(config, COMPACT))

    Compact.__name__ = Compact.__qualname__ = PREFIX + base.__name__
    return Compact


def __getattr__(name: str) -> Any:
    """Make `CompactBertModel` and the like, which `auto_map` of a configuration names."""
    import transformers

    base = getattr(transformers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if base is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return compact_class(base)


def shrink_(encoder: nn.Module, compact: dict[str, Any], neurons: Sequence[Tensor] | None = None) -> None:
    """Remove parts of the layers of a full-size encoder, in place.

    Args:
        encoder: of the ordinary class.
        compact: `paths` and `layers`, each with the indices of its `heads`, the number of its `neurons` and whether it
            has an `ffn`; without one the bias of the FFN's output is removed too.
        neurons: indices of the kept neurons of each layer; None keeps the first, for weights loaded later.
    """
    paths = compact["paths"]
    for index, (path, size) in enumerate(zip(paths["layers"], compact["layers"], strict=True)):
        layer = encoder.get_submodule(path)
        _shrink_attention_(layer, paths, size["heads"])
        _shrink_ffn_(layer, paths, torch.arange(size["neurons"]) if neurons is None else neurons[index], size["ffn"])


def _shrink_attention_(layer: nn.Module, paths: dict[str, Any], heads: list[int]) -> None:
    output = _linear(layer, paths["output"])
    width, size = output.in_features, paths["head_size"]
    if len(heads) * size == width:
        return
    kept = torch.cat([torch.arange(head * size, (head + 1) * size) for head in heads] or [torch.arange(0)])
    for name in paths["projections"]:
        _keep_(_linear(layer, name), rows=_in_parts(_linear(layer, name), kept, width))
    _keep_(output, columns=kept)
    attention: Any = layer.get_submodule(paths["attention"])
    for name, value in (("num_attention_heads", len(heads)), ("n_heads", len(heads)), ("all_head_size", len(kept))):
        if hasattr(attention, name):
            setattr(attention, name, value)
    if not heads:
        inside = paths["output"].removeprefix(paths["attention"] + ".")
        attention.output_inside = None if inside == paths["output"] else inside
        attention.__class__ = _mixed(NoHeads, attention.__class__)
    elif "position_bias" in inspect.signature(attention.forward).parameters:
        attention.kept_heads = heads
        attention.__class__ = _mixed(SomeHeads, attention.__class__)


def _shrink_ffn_(layer: nn.Module, paths: dict[str, Any], kept: Tensor, ffn: bool) -> None:
    first, second = (_linear(layer, paths[name]) for name in ("first", "second"))
    if len(kept) < second.in_features:
        _keep_(first, rows=_in_parts(first, kept, second.in_features))
        _keep_(second, columns=kept)
    if not ffn:
        second.bias = None


def _linear(layer: nn.Module, path: str) -> Any:
    return layer.get_submodule(path)


def _in_parts(linear: Any, kept: Tensor, width: int) -> Tensor:
    """Indices of kept rows in a matrix that stacks several matrices of the same width."""
    return torch.cat([part * width + kept for part in range(linear.out_features // width)])


def _keep_(linear: Any, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    """Keep some rows or columns of a linear layer, in place."""
    for name, tensor in list(linear.named_parameters()):
        chosen, gradient = tensor.detach(), tensor.requires_grad
        if rows is not None:
            chosen = chosen.index_select(0, rows.to(chosen.device))
        if columns is not None and name == "weight":
            chosen = chosen.index_select(1, columns.to(chosen.device))
        setattr(linear, name, nn.Parameter(chosen, requires_grad=gradient))
    linear.out_features, linear.in_features = linear.weight.shape


@functools.cache
def _mixed(first: type[Any], second: type[Any]) -> type[Any]:
    """A subclass of both: transformers recognizes the modules whose attention maps it collects by their class."""
    return type(first.__name__ + second.__name__, (first, second), {})


class NoHeads:
    """Attention without heads: an empty context, so that the output projection returns its bias."""

    output_inside: str | None

    def forward(self, hidden_states: Tensor, *inputs: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Return the empty context, projected where the output projection is a part of this module; no maps."""
        batch, tokens = hidden_states.shape[:2]
        context = hidden_states[..., :0]
        if self.output_inside is not None:
            context = self.get_submodule(self.output_inside)(context)  # type: ignore[attr-defined]
        return context, hidden_states.new_zeros(batch, 0, tokens, tokens)


class SomeHeads:
    """Attention whose caller passes a bias for each head of the full layer (MPNet)."""

    kept_heads: list[int]

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, position_bias: Any = None, **options: Any
    ) -> Any:
        """Attention with the biases of the kept heads."""
        if position_bias is not None:
            position_bias = position_bias[:, self.kept_heads]
        return super().forward(hidden_states, attention_mask, position_bias, **options)  # type: ignore[misc]
