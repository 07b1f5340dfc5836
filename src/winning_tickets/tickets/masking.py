"""Apply masks to parameter data; the model stays a plain Hugging Face model.

`MaskedWeights` stores the dense weights of a model, so that masks can be written and the dense model (the teacher)
swapped in and out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.models.architectures import prunable_views, split_name
from winning_tickets.tickets.selection import write_masked_


def rows_here(tensor: Any) -> Tensor:
    """Return the rows of a DTensor on this rank, or any other tensor unchanged."""
    here: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return here


class MaskedWeights:
    """The dense weights W of some matrices (parameters, or parts of fused ones) and the parameters that hold W * M.

    Data is always written in place: rebinding `p.data` is silently ignored by sharded models.
    """

    def __init__(self, encoder: nn.Module, names: Sequence[str]) -> None:
        parameters = dict(encoder.named_parameters())
        views = {name: rows_here(view) for name, view in prunable_views(encoder, names).items()}
        self._parts = {name: split_name(name) for name in names}
        # Several matrices may share a parameter.
        self.parameters: dict[str, nn.Parameter] = {n: parameters[part.parameter] for n, part in self._parts.items()}
        self.dense_weights: dict[str, Tensor] = {name: view.clone() for name, view in views.items()}
        self.masks: dict[str, Tensor] = {
            name: torch.ones(view.shape, dtype=torch.bool, device=view.device) for name, view in views.items()
        }

    def trained(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Return the parameters that hold some of the matrices, each once."""
        return list(dict.fromkeys(self.parameters[name] for name in names))

    def gradient(self, name: str) -> Tensor | None:
        """Return the gradient of a matrix: that of its parameter, or a view of its part of it."""
        gradient = self.parameters[name].grad
        return None if gradient is None else self._parts[name].of(rows_here(gradient))

    @torch.no_grad()
    def write(self, masks: Mapping[str, Tensor] | None = None) -> None:
        """Write W * M into the parameters, with new masks where some are given."""
        for name, mask in (masks or {}).items():
            self.masks[name].copy_(mask)
        for name, parameter in self.parameters.items():
            write_masked_(self._parts[name].of(rows_here(parameter)), self.dense_weights[name], self.masks[name])

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Put the dense weights into the model inside the block, and W * M again after it.

        Never enter between a forward pass and its backward pass: the gradients would be wrong without an error.
        """
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self._parts[name].of(rows_here(parameter)).copy_(self.dense_weights[name])
        # Autocast keeps bfloat16 copies of parameters and would hand out those of the other weights on either side.
        torch.clear_autocast_cache()
        try:
            yield
        finally:
            self.write()
            torch.clear_autocast_cache()


@contextmanager
def modes(model: nn.Module, training: bool) -> Iterator[None]:
    """Set all modules to training or evaluation mode inside the block, and restore each module's flag after it."""
    flags = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
