"""Structure of an encoder (heads, FFNs, neurons), and gates on these units as masks of weights or in forward passes.

A gate is a bool tensor, True = kept: `layers.{i}.heads` `(num_heads,)`, `layers.{i}.neurons` `(intermediate,)`,
`layers.{i}.ffn` `(1,)` and `layers.{i}.layer` `(1,)`, which closes all heads and the FFN at once. Where several query
heads share a key and a value, they are one unit: `num_heads` counts the groups, and a closed one loses all of it.

A closed head's context is zero before the output projection: the bias of its values is removed, the projection's is
kept. A closed FFN adds exactly zero: the bias of its output is removed too. A closed neuron's activation is zero.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from winning_tickets.models.architectures import Role, module_of, prunable_views, split_name
from winning_tickets.models.loading import PLM
from winning_tickets.models.modeling_compact import COMPACT
from winning_tickets.runs.errors import ContentError, UsageError

UNITS = {"heads": "heads", "ffns": "ffn", "neurons": "neurons", "layers": "layer"}
"""Units that can be pruned as a whole, and the names of their gates in a layer."""
MAX_WEIGHTS = 2**31
"""Largest structure that is read: a small file may claim any size, and its masks would fill the memory."""
_GATE = re.compile(r"layers\.(0|[1-9]\d*)\.(heads|ffn|neurons|layer)")


class Structure(BaseModel):
    """Places and sizes of heads, neurons and FFNs, which are the same in all layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[str, ...]  # paths of the layers in the encoder, in order
    matrices: dict[Role, tuple[str, ...]]  # relative to a layer; `weight[0/3]` is a slice of a fused parameter
    biases: dict[Role, tuple[str, ...]]  # likewise, where a matrix has one
    hidden_size: int = Field(ge=1)
    num_heads: int = Field(ge=1)  # heads that open and close alone: groups with one key and value each
    head_size: int = Field(ge=1)  # width of the context of such a head or group
    key_size: int | None = Field(None, ge=1)  # rows of its key, and of its value, if other than `head_size`
    intermediate_size: int = Field(ge=1)  # neurons of an FFN

    @model_validator(mode="after")
    def _check_size(self) -> Structure:
        width = self.num_heads * self.head_size + self.intermediate_size
        if len(self.layers) * self.hidden_size * width > MAX_WEIGHTS:
            raise ValueError(f"more than {MAX_WEIGHTS:,} weights, which no model that is read here has")
        return self

    def context_module(self, layer: int) -> str:
        """Return the path of the module whose input is the context of all heads, `(batch, seq, heads * head_size)`."""
        return self._module(layer, "AO")

    def ffn_module(self, layer: int) -> str:
        """Return the path of the module whose input is the neurons' activations, and whose output is the FFN's."""
        return self._module(layer, "FO")

    def _module(self, layer: int, role: Role) -> str:
        return f"{self.layers[layer]}.{module_of(self.matrices[role][0])}"

    def names(self, layer: int, role: Role) -> list[str]:
        """Return the names, in the encoder, of the matrices of a role in a layer."""
        return [f"{self.layers[layer]}.{name}" for name in self.matrices[role]]

    def bias_names(self, layer: int, role: Role) -> list[str]:
        """Return the names, in the encoder, of the biases of a role in a layer, if there are any."""
        return [f"{self.layers[layer]}.{name}" for name in self.biases.get(role, ())]

    def size(self, unit: str) -> int:
        """Return the number of units of a kind (a key of `UNITS`) in the encoder."""
        return len(self.layers) * self.per_layer(unit)

    def per_layer(self, unit: str) -> int:
        """Return the number of units of a kind in a layer."""
        return {"heads": self.num_heads, "neurons": self.intermediate_size}.get(unit, 1)

    def check(self, gates: Mapping[str, Tensor]) -> None:
        """Refuse gates with an unknown name, another type or another length."""
        lengths = {gate: self.per_layer(unit) for unit, gate in UNITS.items()}
        for name, gate in gates.items():
            match = _GATE.fullmatch(name)
            if match is None or int(match[1]) >= len(self.layers):
                raise ContentError(
                    f"There is no gate {name!r}: gates are called layers.0.heads, layers.0.ffn, layers.0.neurons or "
                    f"layers.0.layer, and the encoder has {len(self.layers)} layers."
                )
            if gate.dtype != torch.bool or gate.shape != (lengths[match[2]],):
                raise ContentError(
                    f"The gate {name} is {gate.dtype} of shape {tuple(gate.shape)}, expected torch.bool (True = kept) "
                    f"of shape {(lengths[match[2]],)}."
                )


@dataclass(frozen=True)
class OpenUnits:
    """Units of a layer that its gates, including that of the whole layer, leave open."""

    heads: Tensor  # bool `(num_heads,)`
    neurons: Tensor  # bool `(intermediate,)`; all False if the FFN is closed
    ffn: bool  # an open FFN without open neurons still adds the bias of its output


def count_heads(config: Any) -> int:
    """Return the number of heads of a layer that can be closed alone: those that share a key and a value count once."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def structure_of(plm: PLM) -> Structure:
    """Return the structure of a loaded model; refuses layers that share weights, and compact exports."""
    architecture, encoder = plm.architecture, plm.encoder
    config: Any = encoder.config
    if architecture.shared_layers:
        raise UsageError(
            f"All layers of {plm.name} apply the same stored weights, so a head, neuron or FFN cannot be pruned in one "
            "layer alone. Structured tickets need a model whose layers have weights of their own."
        )
    if hasattr(config, COMPACT):
        raise UsageError(f"{plm.name} is a compact export, whose layers differ in size; start from the full model.")
    paths = architecture.layer_paths(encoder)
    matrices = architecture.matrices_of(config)
    biases = {role: tuple(map(_bias, names)) for role, names in matrices.items()}
    names = {role: f"{paths[0]}.{matrices[role][0]}" for role in matrices}
    first = {role: prunable_views(encoder, [name])[name] for role, name in names.items()}
    hidden, width = first["AO"].shape
    heads = count_heads(config)
    head_size, key_size = width // heads, first["K"].numel() // hidden // heads
    return Structure(
        layers=tuple(paths),
        matrices=matrices,
        biases={role: names for role, names in biases.items() if _has_bias(encoder, f"{paths[0]}.{names[0]}")},
        hidden_size=hidden,
        num_heads=heads,
        head_size=head_size,
        key_size=None if key_size == head_size else key_size,
        intermediate_size=first["FO"].shape[1],
    )


def _bias(name: str) -> str:
    """`Wqkv.weight[0/3]` -> `Wqkv.bias[0/3]`."""
    part = split_name(name)
    return str(replace(part, parameter=part.parameter.removesuffix("weight") + "bias", transposed=False))


def _has_bias(encoder: nn.Module, name: str) -> bool:
    return split_name(name).parameter in dict(encoder.named_parameters())


def open_units(gates: Mapping[str, Tensor], structure: Structure, layer: int) -> OpenUnits:
    """Return the units of a layer that the gates leave open; a missing gate is open."""

    def gate(unit: str) -> Tensor:
        open_gate = torch.ones(structure.per_layer(unit), dtype=torch.bool)
        return gates.get(f"layers.{layer}.{UNITS[unit]}", open_gate).cpu()

    whole = bool(gate("layers"))
    ffn = whole and bool(gate("ffns"))
    return OpenUnits(gate("heads") & whole, gate("neurons") & ffn, ffn)


def expand_gates(gates: Mapping[str, Tensor], structure: Structure) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Convert checked gates to masks of weights with the same effect (docs/explanation/structured.md)."""
    # Returns the masks of all matrices of all layers, by the encoder's names and in the order of its layers, and the
    # masks of those biases that lose entries, slices of fused ones included; bool, True = kept.
    matrices: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for layer in range(len(structure.layers)):
        left = open_units(gates, structure, layer)
        # Closed heads lose their rows of Q, K, V and their columns of AO; closed neurons those of FI and FO.
        context, keys = (
            left.heads.repeat_interleave(size)
            for size in (structure.head_size, structure.key_size or structure.head_size)
        )
        rows: dict[Role, Tensor] = {"Q": context, "K": keys, "V": keys, "FI": left.neurons}
        columns: dict[Role, Tensor] = {"AO": context, "FO": left.neurons}
        for role in structure.matrices:
            for name in structure.names(layer, role):
                mask = _in_blocks(name, rows[role])[..., None] if role in rows else columns[role][None]
                shape = (*mask.shape[:-1], structure.hidden_size) if role in rows else (structure.hidden_size, -1)
                matrices[name] = mask.expand(shape).contiguous()
        # Biases are pruned with their rows; the bias of the FFN's output is pruned only with the whole FFN.
        lost = rows | ({} if left.ffn else {"FO": torch.zeros(structure.hidden_size, dtype=torch.bool)})
        for role, kept in lost.items():
            if not bool(kept.all()):
                biases |= {name: _in_blocks(name, kept) for name in structure.bias_names(layer, role)}
    return matrices, biases


def _in_blocks(name: str, rows: Tensor) -> Tensor:
    """Return values of the rows of a matrix in the shape of its rows: `(blocks, rows)` if parts alternate."""
    blocks = split_name(name).blocks
    return rows if blocks == 1 else rows.view(blocks, -1)


def count_units(gates: Mapping[str, Tensor], structure: Structure) -> dict[str, dict[str, int]]:
    """Count closed gates for each kind of unit that has gates: `{"heads": {"pruned": 43, "total": 144}, ...}`."""
    found: dict[str, dict[str, int]] = {}
    for unit, gate in UNITS.items():
        closed = [int((~kept).sum()) for name, kept in gates.items() if name.endswith(f".{gate}")]
        if closed:
            found[unit] = {"pruned": sum(closed), "total": structure.size(unit)}
    return found


@contextmanager
def gated(encoder: nn.Module, structure: Structure, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Apply gates to every forward pass of an encoder inside the block.

    Gates are bool, or floats that may require gradients: `(n,)`, or one for each sample `(batch, 1, n)` or token
    `(batch, seq, n)`, where n is 1 for `ffn` and `layer`.
    """
    handles: list[RemovableHandle] = []
    for layer in range(len(structure.layers)):
        found = {unit: gates.get(f"layers.{layer}.{gate}") for unit, gate in UNITS.items()}
        context = encoder.get_submodule(structure.context_module(layer))
        ffn = encoder.get_submodule(structure.ffn_module(layer))
        for unit, module in (("heads", context), ("layers", context), ("neurons", ffn)):
            if (gate := found[unit]) is not None:
                handles.append(_change_input(module, partial(_multiply, gate=gate)))
        for unit in ("ffns", "layers"):
            if (gate := found[unit]) is not None:
                handles.append(_change_output(ffn, partial(_multiply, gate=gate)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _change_input(module: nn.Module, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
    return module.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:]))


def _change_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> RemovableHandle:
    return module.register_forward_hook(lambda _, inputs, output: change(output))


def _multiply(states: Tensor, gate: Tensor) -> Tensor:
    """Multiply equal pieces of the last dimension by one gate each."""
    gate = gate.to(states.device, states.dtype)
    pieces = states.reshape(*states.shape[:-1], gate.shape[-1], -1)
    return (pieces * gate[..., None]).flatten(-2)


@dataclass(eq=False)
class GateGradients:
    """Computes the gradients of a loss with respect to gates at one, for every token."""

    # A gate g multiplies the output c of its unit; at g = 1 its gradient is the sum of dL/dc * c over the unit, so no
    # gate has to be inserted. With frozen weights the backward pass computes only the path to the gates, and ends at
    # the lowest one.

    encoder: nn.Module  # in evaluation mode, with frozen weights
    structure: Structure
    units: Collection[str]  # keys of `UNITS`
    receive: Callable[[str, int, Tensor], None]
    """Called in the backward pass with the unit, the layer and the gradients `(batch, seq, n)`, float32 or better."""
    _handles: list[RemovableHandle] = field(default_factory=list)
    _layer_sums: dict[int, Tensor] = field(default_factory=dict)
    _shape: torch.Size = field(default_factory=torch.Size)  # `(batch, seq)` of the present pass

    def __enter__(self) -> Self:
        self._handles.append(self.encoder.register_forward_pre_hook(self._note_shape, with_kwargs=True))
        for layer in range(len(self.structure.layers)):
            ffn = self.encoder.get_submodule(self.structure.ffn_module(layer))
            if {"heads", "layers"} & set(self.units):
                context = self.encoder.get_submodule(self.structure.context_module(layer))
                self._handles.append(_change_input(context, partial(self._watch, unit="heads", layer=layer)))
            if "neurons" in self.units:
                self._handles.append(_change_input(ffn, partial(self._watch, unit="neurons", layer=layer)))
            if {"ffns", "layers"} & set(self.units):
                self._handles.append(_change_output(ffn, partial(self._watch, unit="ffns", layer=layer)))
        return self

    def __exit__(self, *details: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._layer_sums.clear()

    def _note_shape(self, module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._shape = (inputs[0] if inputs else options["input_ids"]).shape

    def _watch(self, states: Tensor, unit: str, layer: int) -> Tensor:
        if not states.requires_grad:  # the lowest gate: the backward pass ends here
            states = states.detach().requires_grad_()
        values = states.detach()  # avoids a reference cycle of hook and graph
        pieces = self.structure.per_layer(unit)

        def hook(gradient: Tensor) -> None:
            products = _single(gradient) * _single(values)
            products = products.view(*self._shape, -1)  # OPT flattens batch and tokens
            if pieces < products.shape[-1]:
                products = products.reshape(*products.shape[:-1], pieces, -1).sum(-1)
            self._report(unit, layer, products)

        states.register_hook(hook)  # type: ignore[no-untyped-call]
        return states

    def _report(self, unit: str, layer: int, gradients: Tensor) -> None:
        if unit in self.units:
            self.receive(unit, layer, gradients)
        # The gradient of a layer's gate is the sum of those of its FFN and its heads.
        if "layers" in self.units and unit != "neurons":
            whole = gradients.sum(-1, keepdim=True)
            if layer in self._layer_sums:  # the FFN's is computed first
                self.receive("layers", layer, self._layer_sums.pop(layer) + whole)
            else:
                self._layer_sums[layer] = whole


def _single(tensor: Tensor) -> Tensor:
    """Convert to single precision, unless it is better."""
    return tensor.float() if tensor.element_size() < 4 else tensor
