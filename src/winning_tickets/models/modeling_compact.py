"""Encoders whose layers differ in size: without the heads, FFN neurons and FFNs that a ticket removed.

A compact model is saved with a copy of this file next to its weights, so that
`AutoModel.from_pretrained(DIR, trust_remote_code=True)` needs only torch and transformers. The field
`winning_tickets_compact` of the model's configuration lists the remaining parts of each layer. In `config.json` a
sentence is in the place of the activation's name, so that the ordinary class of the model cannot be built.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

COMPACT = "winning_tickets_compact"
"""Field of a compact model's configuration: `paths` of the modules of a layer, and the size of each of the `layers`."""
PREFIX = "Compact"
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation", "activation_function")
"""Fields with the name of the FFN's activation; every model has one or two of them."""
WAYS_OUT = (
    "The layers of this compact model differ in size, so plain from_pretrained cannot load it. Three ways out: "
    "trust_remote_code=True, which runs the code in its folder (winning_tickets.load_compact needs none of it); an "
    "ONNX file, by tickets export --format onnx or tickets shrink --formats onnx; or layers of one size, by tickets "
    "shrink --uniform."
)
"""What to do with a model that needs remote code; this package and the model's own `config.json` say it."""


@functools.cache
def compact_class(base: type[Any]) -> type[Any]:
    """Make a model class with uneven layers from an ordinary one, such as `BertForMaskedLM`."""

    class Compact(base):  # type: ignore[misc]
        """The ordinary model, made smaller before its weights are loaded."""

        # With this transformers saves the file of this class next to the weights: "AutoModelForMaskedLM" and the like.
        _auto_class = "AutoModel" + "".join(base.__name__.partition("For")[1:])

        def __init__(self, config: Any, *inputs: Any, **options: Any) -> None:
            compact = getattr(config, COMPACT)
            for field, name in compact.get("activations", {}).items():  # earlier exports have none
                setattr(config, field, name)
            super().__init__(config, *inputs, **options)
            shrink_(self.base_model, compact)

        def save_pretrained(self, save_directory: Any, *inputs: Any, **options: Any) -> None:
            super().save_pretrained(save_directory, *inputs, **options)
            refuse_plain_classes(save_directory)

    Compact.__name__ = Compact.__qualname__ = PREFIX + base.__name__
    return Compact


def __getattr__(name: str) -> Any:
    """Make `CompactBertModel` and the like, which `auto_map` of a configuration names."""
    import transformers

    base = getattr(transformers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if base is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return compact_class(base)


def refuse_plain_classes(folder: str | Path) -> None:
    """Put a sentence in place of the activation in `config.json`; the ordinary class of the model fails with it.

    The ordinary class would fail at the sizes of the weights, and advise to ignore them, which gives random weights.
    Configurations, tokenizers and the class of `compact_class` load as before.
    """
    file = Path(folder) / "config.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if COMPACT not in content:
        return
    found = {field: content[field] for field in ACTIVATIONS if isinstance(content.get(field), str)}
    content[COMPACT].setdefault("activations", found)
    file.write_text(json.dumps(content | dict.fromkeys(found, WAYS_OUT), indent=2) + "\n", "utf-8")


def shrink_(encoder: nn.Module, compact: dict[str, Any], neurons: Sequence[Tensor] | None = None) -> None:
    """Remove parts of the layers of a full-size encoder, in place.

    Args:
        encoder: of the ordinary class.
        compact: `paths` and `layers`, each with the indices of its `heads` (of groups that share a key and a value),
            the number of its `neurons` and whether it has an `ffn`; without one the bias of the FFN's output is
            removed too.
        neurons: indices of the kept neurons of each layer; None keeps the first, for weights loaded later.
    """
    paths = _of_now(compact["paths"], encoder)
    for index, (path, size) in enumerate(zip(paths["layers"], compact["layers"], strict=True)):
        layer = encoder.get_submodule(path)
        _shrink_attention_(layer, paths, size["heads"])
        _shrink_ffn_(
            layer, paths, torch.arange(size["neurons"]) if neurons is None else neurons[index], ffn=size["ffn"]
        )


def _of_now(paths: dict[str, Any], encoder: nn.Module) -> dict[str, Any]:
    """Return paths in the present form; earlier exports only named the matrices, which had equal parts."""
    if "queries" in paths:
        return paths
    layer = encoder.get_submodule(paths["layers"][0])  # the layers are still of one size

    def parts(name: str, width: int) -> list[list[int]]:
        count = features(_linear(layer, name))[0] // width
        return [[index, index + 1, count, 1] for index in range(count)]

    heads, neurons = (features(_linear(layer, paths[name]))[1] for name in ("output", "second"))
    rows = paths["head_size"]
    projections = {name: [[rows, *part] for part in parts(name, heads)] for name in paths["projections"]}
    first = {paths["first"]: parts(paths["first"], neurons)}
    return paths | {"projections": projections, "first": first, "queries": 1}


def _shrink_attention_(layer: nn.Module, paths: dict[str, Any], heads: list[int]) -> None:
    output, size = _linear(layer, paths["output"]), paths["head_size"]
    if len(heads) * size == features(output)[1]:
        return
    kept = _of_heads(heads, size)
    for name, parts in paths["projections"].items():
        module = _linear(layer, name)
        rows = [rows_of(part, features(module)[0])[_of_heads(heads, rows)] for rows, *part in parts]
        _keep_(module, rows=torch.cat(rows).sort().values)
    _keep_(output, columns=kept)
    attention: Any = layer.get_submodule(paths["attention"])
    queries = len(heads) * paths["queries"]
    numbers = {"num_attention_heads": queries, "n_heads": queries, "num_heads": queries}
    for name, value in (numbers | {"all_head_size": len(kept), "split_size": len(kept)}).items():
        if hasattr(attention, name):
            setattr(attention, name, value)
    if type(attention).__name__ == "Phi3Attention":  # reads the number from its configuration
        attention.config = copy.copy(attention.config)
        attention.config.num_attention_heads, attention.num_key_value_heads = queries, len(heads)
    if not heads:
        inside = paths["output"].removeprefix(paths["attention"] + ".")
        attention.output_inside = None if inside == paths["output"] else inside
        attention.__class__ = _mixed(NoHeads, attention.__class__)
    elif "position_bias" in inspect.signature(attention.forward).parameters:
        attention.kept_heads = heads
        attention.__class__ = _mixed(SomeHeads, attention.__class__)


def _shrink_ffn_(layer: nn.Module, paths: dict[str, Any], kept: Tensor, *, ffn: bool) -> None:
    second = _linear(layer, paths["second"])
    if len(kept) < features(second)[1]:
        for name, parts in paths["first"].items():
            module = _linear(layer, name)
            _keep_(module, rows=torch.cat([rows_of(part, features(module)[0])[kept] for part in parts]).sort().values)
        _keep_(second, columns=kept)
    if not ffn and hasattr(second, "nf"):
        zeros = torch.zeros_like(second.bias)  # Conv1D needs a bias
        del second.bias
        second.register_buffer("bias", zeros)  # a buffer is not trained
    elif not ffn:
        second.bias = None


def _linear(layer: nn.Module, path: str) -> Any:
    return layer.get_submodule(path)


def features(linear: Any) -> tuple[int, int]:
    """Return how many outputs and inputs a linear layer has, or a Conv1D, which stores its matrix as `(in, out)`."""
    first, second = linear.weight.shape
    return (second, first) if hasattr(linear, "nf") else (first, second)


def rows_of(part: Sequence[int], rows: int) -> Tensor:
    """Return the rows' indices of a matrix in a parameter that joins several; `part`: start, stop, units, blocks."""
    start, stop, count, blocks = part
    return torch.arange(rows).view(blocks, count, -1)[:, start:stop].reshape(-1)


def _of_heads(heads: list[int], size: int) -> Tensor:
    return torch.cat([torch.arange(head * size, (head + 1) * size) for head in heads] or [torch.arange(0)])


def _keep_(linear: Any, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    """Keep some rows or columns of a linear layer, in place."""
    transposed = hasattr(linear, "nf")
    for name, tensor in list(linear.named_parameters()):
        chosen, gradient = tensor.detach(), tensor.requires_grad
        if rows is not None:
            chosen = chosen.index_select(int(transposed and name == "weight"), rows.to(chosen.device))
        if columns is not None and name == "weight":
            chosen = chosen.index_select(int(not transposed), columns.to(chosen.device))
        setattr(linear, name, nn.Parameter(chosen, requires_grad=gradient))
    if not transposed:
        linear.out_features, linear.in_features = linear.weight.shape
        return
    linear.nx, linear.nf = linear.weight.shape
    if linear.nx == 0:
        linear.__class__ = _mixed(NoInputs, linear.__class__)


@functools.cache
def _mixed(first: type[Any], second: type[Any]) -> type[Any]:
    """Return a subclass of both, since transformers finds the modules whose attention maps it collects by class."""
    return type(first.__name__ + second.__name__, (first, second), {})


class NoInputs:
    """A Conv1D without inputs, which its own class cannot reshape: its output is its bias."""

    def forward(self, states: Tensor) -> Tensor:
        """Return the bias, `(batch, seq, out)`."""
        return self.bias.expand(*states.shape[:-1], -1)  # type: ignore[attr-defined,no-any-return]


class NoHeads:
    """Attention without heads: an empty context, so that the output projection returns its bias."""

    output_inside: str | None

    def forward(self, hidden_states: Tensor, *inputs: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Return the empty context, projected if the output projection is a part of this module, and empty maps."""
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
        """Run attention with the position biases of the kept heads."""
        if position_bias is not None:
            position_bias = position_bias[:, self.kept_heads]
        return super().forward(hidden_states, attention_mask, position_bias, **options)  # type: ignore[misc]
