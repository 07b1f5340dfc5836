"""LoRA adapters of PEFT on held matrices: they are masked too, so that merging them keeps the zeros."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from winning_tickets.models.layers import LORA, check_adapters, class_of
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.ticket import Ticket


class MaskedAdapters:
    """The adapters of one LoRA layer with the mask of its base matrix, `(out, in)` as PEFT stores it.

    A layer computes ((W + s B A) * M) x in place of (W * M + s B A) x, at the cost of one dense product for each
    adapter. Merging adds s (B A) * M, so a merged model computes the same.
    """

    def __init__(self, layer: Any, mask: Tensor) -> None:
        self.layer = layer
        self.mask = mask
        self._inputs: dict[str, Tensor] = {}  # by adapter: the last input of its A
        self._adapters = set(layer.lora_A)
        self._handles = []
        for name, a in layer.lora_A.items():
            self._handles.append(a.register_forward_hook(partial(self._read, name)))
            self._handles.append(layer.lora_B[name].register_forward_hook(partial(self._product, name)))
        layer.get_delta_weight = self.delta  # what PEFT adds to the base matrix when it merges

    @property
    def is_complete(self) -> bool:
        """Whether the layer has the adapters that are masked, and no others."""
        return set(self.layer.lora_A) == self._adapters and vars(self.layer).get("get_delta_weight") == self.delta

    def delta(self, adapter: str) -> Tensor:
        """Return what an adapter adds to the base matrix."""
        delta: Tensor = type(self.layer).get_delta_weight(self.layer, adapter)
        return delta * self._mask_on(delta)

    def _read(self, adapter: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self._inputs[adapter] = args[0]

    def _product(self, adapter: str, module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        delta = module.weight @ self.layer.lora_A[adapter].weight
        mask = self._mask_on(delta)
        mask = mask.T if self.layer.fan_in_fan_out else mask
        return functional.linear(self._inputs.pop(adapter), delta * mask, module.bias)

    def _mask_on(self, delta: Tensor) -> Tensor:
        if self.mask.device != delta.device:
            self.mask = self.mask.to(delta.device)
        return self.mask

    def remove(self) -> None:
        """Remove the mask from the adapters of the layer."""
        for handle in self._handles:
            handle.remove()
        vars(self.layer).pop("get_delta_weight", None)


def mask_adapters(model: Any, ticket: Ticket) -> list[MaskedAdapters]:
    """Mask the LoRA adapters on a ticket's matrices; adapters that are masked already get the new masks.

    Raises:
        ContentError: an adapter of another kind.
        UsageError: an adapter on an embedding, which cannot be masked.
    """
    encoder = ticket.encoder_of(model)
    masked: list[MaskedAdapters] = []
    for name, mask in ticket.masks_on(model).items():
        chain = encoder.chain(name)
        check_adapters(name, chain, "; mask_adapters=False leaves it dense")
        for layer in chain[:-1]:
            # One layer may have several parameters with adapters, each in a wrapper of its own.
            if class_of(layer) not in LORA or getattr(layer, "parameter_name", "weight") != encoder.places[name].name:
                continue
            if getattr(layer, "lora_embedding_A", None):
                raise UsageError(
                    f"The LoRA adapter on {name} would fill the pruned rows of that embedding; leave it out of "
                    "target_modules, or pass mask_adapters=False."
                )
            before = vars(layer).get("get_delta_weight")
            if before is not None:
                before.__self__.remove()
            masked.append(MaskedAdapters(layer, mask))
    return masked
