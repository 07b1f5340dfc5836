"""Where the heads, FFNs and neurons of an encoder are, and what gates on them mean for its weights.

A gate is a bool tensor, True = kept, named after what it opens: `layers.{i}.heads` `(num_heads,)`, `layers.{i}.neurons`
`(intermediate,)`, `layers.{i}.ffn` `(1,)` and `layers.{i}.layer` `(1,)`, which closes all heads and the FFN at once.

A closed head's context is zero before the output projection: the bias of its values is gone, that of the projection
stays. A closed FFN adds exactly nothing: the bias of its output is gone as well. A closed neuron's activation is zero.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from winning_tickets.models.architectures import Role, present_in, split_name
from winning_tickets.models.compact_layers import COMPACT
from winning_tickets.models.loading import PLM
from winning_tickets.runs.errors import ContentError, UsageError

UNITS = {"heads": "heads", "ffns": "ffn", "neurons": "neurons", "layers": "layer"}
"""What can be pruned as a whole, and how the gates of a layer are called."""
MAX_WEIGHTS = 2**31
"""A small file may claim any size; masks of it would fill the memory."""
_GATE = re.compile(r"layers\.(0|[1-9]\d*)\.(heads|ffn|neurons|layer)")


class Structure(BaseModel):
    """Where heads, neurons and FFNs are; all layers are alike.

    Attributes:
        layers: paths of the layers in the encoder, the first layer first.
        matrices: of each role, relative to a layer; `weight[0/3]` is a part of a fused parameter (`parts`).
        biases: the same for biases, of those matrices that have one.
        hidden_size: width of the residual stream.
        num_heads: in each layer.
        head_size: width of a head's context.
        intermediate_size: neurons of an FFN.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: tuple[str, ...]
    matrices: dict[Role, tuple[str, ...]]
    biases: dict[Role, tuple[str, ...]]
    hidden_size: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    head_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)

    @model_validator(mode="after")
    def _of_this_world(self) -> Structure:
        width = self.num_heads * self.head_size + self.intermediate_size
        if len(self.layers) * self.hidden_size * width > MAX_WEIGHTS:
            raise ValueError(f"more than {MAX_WEIGHTS:,} weights, which no model that is read here has")
        return self

    def context_module(self, layer: int) -> str:
        """Path of the module whose input is the context of all heads, `(batch, seq, heads * head_size)`."""
        return self._module(layer, "AO")

    def ffn_module(self, layer: int) -> str:
        """Path of the module whose input is the neurons' activations, and whose output is what the FFN adds."""
        return self._module(layer, "FO")

    def _module(self, layer: int, role: Role) -> str:
        return f"{self.layers[layer]}.{self.matrices[role][0]}".removesuffix(".weight")

    def names(self, layer: int, role: Role) -> list[str]:
        """The encoder's names of the matrices of a role, parts of fused parameters included."""
        return [f"{self.layers[layer]}.{name}" for name in self.matrices[role]]

    def bias_names(self, layer: int, role: Role) -> list[str]:
        """The same for biases; empty where there are none."""
        return [f"{self.layers[layer]}.{name}" for name in self.biases.get(role, ())]

    def size(self, unit: str) -> int:
        """How many heads, FFNs, neurons or layers there are in all (a key of `UNITS`)."""
        return len(self.layers) * self.per_layer(unit)

    def per_layer(self, unit: str) -> int:
        """How many of them a layer has."""
        return {"heads": self.num_heads, "neurons": self.intermediate_size}.get(unit, 1)

    def check(self, gates: Mapping[str, Tensor]) -> None:
        """Make sure that gates fit.

        Raises:
            ContentError: an unknown name, another type or length, or a layer that is not there.
        """
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
class Open:
    """What the gates of a layer leave open, the gate of the whole layer taken into account.

    Attributes:
        heads: bool `(num_heads,)`.
        neurons: bool `(intermediate,)`; all False where the FFN is closed.
        ffn: whether the FFN adds anything; with all neurons closed and the FFN open that is the bias of its output.
    """

    heads: Tensor
    neurons: Tensor
    ffn: bool


def structure_of(plm: PLM) -> Structure:
    """Where heads, neurons and FFNs of a loaded model are.

    Raises:
        UsageError: its layers share their weights, so that no gate of one layer can be written in weights, or they
            differ in size (a compact export).
    """
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
    biases = {role: tuple(map(_bias, names)) for role, names in architecture.matrices.items()}
    output: Any = _linear(encoder, paths[0], architecture.matrices["AO"][0])
    second: Any = _linear(encoder, paths[0], architecture.matrices["FO"][0])
    heads = int(config.num_attention_heads)
    return Structure(
        layers=tuple(paths),
        matrices=dict(architecture.matrices),
        biases={
            role: names
            for role, names in biases.items()
            if present_in(encoder, [f"{paths[0]}.{name}" for name in names])
        },
        hidden_size=output.out_features,
        num_heads=heads,
        head_size=output.in_features // heads,
        intermediate_size=second.in_features,
    )


def _bias(name: str) -> str:
    """`Wqkv.weight[0/3]` -> `Wqkv.bias[0/3]`."""
    parameter = split_name(name).parameter
    return parameter.removesuffix("weight") + "bias" + name.removeprefix(parameter)


def _linear(encoder: nn.Module, path: str, name: str) -> nn.Module:
    return encoder.get_submodule(f"{path}.{name}".removesuffix(".weight"))


def open_units(gates: Mapping[str, Tensor], structure: Structure, layer: int) -> Open:
    """What the gates leave of a layer; a gate that is not there is open."""

    def gate(unit: str) -> Tensor:
        closed = torch.ones(structure.per_layer(unit), dtype=torch.bool)
        return gates.get(f"layers.{layer}.{UNITS[unit]}", closed).cpu()

    whole = bool(gate("layers"))
    ffn = whole and bool(gate("ffns"))
    return Open(gate("heads") & whole, gate("neurons") & ffn, ffn)


def expand(gates: Mapping[str, Tensor], structure: Structure) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gates as masks of weights that compute the same (docs/explanation/structured.md).

    Args:
        gates: as `Structure.check` wants them.
        structure: of the encoder.

    Returns:
        The masks of all matrices of all layers, by the encoder's names and in the order of its layers, and those of
        the biases that lose something, parts of fused ones included; bool, True = kept.
    """
    matrices: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for layer in range(len(structure.layers)):
        left = open_units(gates, structure, layer)
        rows: dict[Role, Tensor] = dict.fromkeys(("Q", "K", "V"), left.heads.repeat_interleave(structure.head_size))
        rows["FI"] = left.neurons
        columns: dict[Role, Tensor] = {"AO": rows["V"], "FO": left.neurons}
        for role in structure.matrices:
            mask = rows[role][:, None] if role in rows else columns[role][None]
            shape = (-1, structure.hidden_size) if role in rows else (structure.hidden_size, -1)
            for name in structure.names(layer, role):
                matrices[name] = mask.expand(shape).contiguous()
        lost = rows | ({} if left.ffn else {"FO": torch.zeros(structure.hidden_size, dtype=torch.bool)})
        for role, kept in lost.items():
            if not bool(kept.all()):
                biases |= dict.fromkeys(structure.bias_names(layer, role), kept)
    return matrices, biases


def count_units(gates: Mapping[str, Tensor], structure: Structure) -> dict[str, dict[str, int]]:
    """How many heads, FFNs, neurons and layers have a closed gate of their own, for each kind that has gates.

    Returns:
        `{"heads": {"pruned": 43, "total": 144}, ...}`.
    """
    found: dict[str, dict[str, int]] = {}
    for unit, gate in UNITS.items():
        closed = [int((~kept).sum()) for name, kept in gates.items() if name.endswith(f".{gate}")]
        if closed:
            found[unit] = {"pruned": sum(closed), "total": structure.size(unit)}
    return found


@contextmanager
def gated(encoder: nn.Module, structure: Structure, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Gates act on every forward pass of an encoder inside the block.

    Args:
        encoder: the encoder inside a model.
        structure: of it.
        gates: by name, such as `layers.0.heads`; bool, or floats that may require gradients. `(n,)`, or one for each
            sample `(batch, 1, n)` or token `(batch, seq, n)`, where n is 1 for `ffn` and `layer`.
    """
    handles: list[RemovableHandle] = []
    for layer in range(len(structure.layers)):
        found = {unit: gates.get(f"layers.{layer}.{gate}") for unit, gate in UNITS.items()}
        context = encoder.get_submodule(structure.context_module(layer))
        ffn = encoder.get_submodule(structure.ffn_module(layer))
        for unit, module in (("heads", context), ("layers", context), ("neurons", ffn)):
            if (gate := found[unit]) is not None:
                handles.append(module.register_forward_pre_hook(_multiply_input(gate)))
        for unit in ("ffns", "layers"):
            if (gate := found[unit]) is not None:
                handles.append(ffn.register_forward_hook(_multiply_output(gate)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiply_input(gate: Tensor) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_multiply(inputs[0], gate), *inputs[1:])

    return hook


def _multiply_output(gate: Tensor) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return _multiply(output, gate)

    return hook


def _multiply(states: Tensor, gate: Tensor) -> Tensor:
    """Each gate opens an equal piece of the last dimension."""
    gate = gate.to(states.device, states.dtype)
    pieces = states.reshape(*states.shape[:-1], gate.shape[-1], -1)
    return (pieces * gate[..., None]).flatten(-2)


class GateGradients:
    """Gradients of a loss with respect to gates at one, for every token.

    A gate g multiplies what it opens, c; at g = 1 its gradient is the sum of dL/dc * c over what belongs to it, so that
    no gate needs to be there. Freeze the weights (`requires_grad_(False)`): the backward pass then computes nothing but
    what leads to the gates, and ends at the lowest one.

    Args:
        encoder: the encoder inside a model, in evaluation mode, with frozen weights.
        structure: of it.
        units: keys of `structure.UNITS`.
        receive: is given, during the backward pass, the unit, the layer and the gradients `(batch, seq, n)`, in
            float32 or better.
    """

    def __init__(
        self,
        encoder: nn.Module,
        structure: Structure,
        units: Collection[str],
        receive: Callable[[str, int, Tensor], None],
    ) -> None:
        self._encoder, self._structure = encoder, structure
        self._units, self._receive = frozenset(units), receive
        self._handles: list[RemovableHandle] = []
        self._layer_sums: dict[int, Tensor] = {}

    def __enter__(self) -> Self:
        for layer in range(len(self._structure.layers)):
            ffn = self._encoder.get_submodule(self._structure.ffn_module(layer))
            if self._units & {"heads", "layers"}:
                context = self._encoder.get_submodule(self._structure.context_module(layer))
                self._handles.append(context.register_forward_pre_hook(self._watch_input("heads", layer)))
            if "neurons" in self._units:
                self._handles.append(ffn.register_forward_pre_hook(self._watch_input("neurons", layer)))
            if self._units & {"ffns", "layers"}:
                self._handles.append(ffn.register_forward_hook(self._watch_output(layer)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._layer_sums.clear()

    def _watch_input(self, unit: str, layer: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (self._watch(inputs[0], unit, layer), *inputs[1:])

        return hook

    def _watch_output(self, layer: int) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return self._watch(output, "ffns", layer)

        return hook

    def _watch(self, states: Tensor, unit: str, layer: int) -> Tensor:
        if not states.requires_grad:  # nothing below is watched: the backward pass ends here
            states = states.detach().requires_grad_()
        values = states.detach()  # the hook must not keep the graph alive that keeps the hook
        pieces = self._structure.per_layer(unit)

        def hook(gradient: Tensor) -> None:
            products = _single(gradient) * _single(values)
            if pieces < products.shape[-1]:
                products = products.reshape(*products.shape[:-1], pieces, -1).sum(-1)
            self._pass_on(unit, layer, products)

        states.register_hook(hook)  # type: ignore[no-untyped-call]
        return states

    def _pass_on(self, unit: str, layer: int, gradients: Tensor) -> None:
        if unit in self._units:
            self._receive(unit, layer, gradients)
        if "layers" in self._units and unit != "neurons":
            whole = gradients.sum(-1, keepdim=True)
            if layer in self._layer_sums:  # the FFN's came first
                self._receive("layers", layer, self._layer_sums.pop(layer) + whole)
            else:
                self._layer_sums[layer] = whole


def _single(tensor: Tensor) -> Tensor:
    """In single precision, or better where it is."""
    return tensor.float() if tensor.element_size() < 4 else tensor
