"""Gates at work in a forward pass, through hooks: nothing of the model is replaced, and its weights are not touched.

`gated` multiplies what a gate opens, for models whose weights must stay as they are (several tasks on one encoder, or
gates that are learned). A ticket that is held or exported is written into the weights instead (`structure.expand`):
both compute the same. `GateGradients` gives the gradients with respect to gates that all stand at one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from winning_tickets.structure import UNITS, Structure


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
