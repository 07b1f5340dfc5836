"""Apply masks to parameter data; the model stays a plain Hugging Face model.

`hold` keeps a fixed ticket through any training loop. `MaskedWeights` stores the dense weights of a model, so that
masks can be written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback

from winning_tickets.models.architectures import prunable_views, split_name
from winning_tickets.tickets.selection import write_masked_
from winning_tickets.tickets.ticket import Ticket


def rows_here(tensor: Any) -> Tensor:
    """Return the rows of a DTensor on this rank, or any other tensor unchanged."""
    here: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return here


class MaskedWeights:
    """The dense weights W of some matrices (parameters, or parts of fused ones) and the parameters that hold W * M.

    Data is always written in place: rebinding `p.data` is silently ignored by sharded models. Parts of a fused
    parameter have their dense weights in one tensor, as the parameter of a twin needs them (`models.twin`). `dense` is
    a model that has the dense weights already, such as a sharded twin; without it they are copied from the encoder.
    """

    def __init__(self, encoder: nn.Module, names: Sequence[str], dense: nn.Module | None = None) -> None:
        parameters = dict(encoder.named_parameters())
        views = {name: rows_here(view) for name, view in prunable_views(encoder, names).items()}
        self._parts = {name: split_name(name) for name in names}
        # Several matrices may share a parameter.
        self.parameters: dict[str, nn.Parameter] = {n: parameters[part.parameter] for n, part in self._parts.items()}
        if dense is None:
            whole = {part.parameter: rows_here(parameters[part.parameter].detach()) for part in self._parts.values()}
            copies = {name: tensor.clone() for name, tensor in whole.items()}
            self.dense_weights = {name: part.of(copies[part.parameter]) for name, part in self._parts.items()}
        else:
            self.dense_weights = {name: rows_here(view) for name, view in prunable_views(dense, names).items()}
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
def modes(model: nn.Module, training: bool) -> Iterator[None]:
    """Set all modules to training or evaluation mode inside the block, and restore each module's flag after it."""
    flags = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


class Held:
    """A ticket that is held on a model: its pruned weights stay zero. `remove()` ends that; the zeros stay."""

    def __init__(
        self,
        model: Any,
        ticket: Ticket,
        allow_other_weights: bool = False,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        ticket.apply_(model, allow_other_weights)
        parameters = dict(model.base_model.named_parameters())
        self._handles: list[RemovableHandle] = []
        self._masked: list[tuple[nn.Parameter, Tensor]] = []
        for name, mask in ticket.masks_on(model.base_model).items():
            parameter = parameters[name]
            mask = mask.to(parameter.device)
            self._masked.append((parameter, mask))
            if parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(mask_gradient(mask)))
        if optimizer is not None:
            self._handles.append(optimizer.register_step_post_hook(lambda *_: self.zero_()))

    @torch.no_grad()
    def zero_(self) -> None:
        """Set all pruned weights to exactly +0.0."""
        for parameter, mask in self._masked:
            write_masked_(parameter, parameter, mask)

    def remove(self) -> None:
        """Remove the hooks; the weights stay as they are."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def mask_gradient(mask: Tensor) -> Any:
    """Return a hook that masks a parameter's gradient as it is accumulated, before all-reduce and clipping."""

    def hook(parameter: nn.Parameter) -> None:
        if parameter.grad is not None:
            write_masked_(parameter.grad, parameter.grad, mask)

    return hook


def hold(
    model: Any,
    ticket: Ticket,
    optimizer: torch.optim.Optimizer | None = None,
    allow_other_weights: bool = False,
) -> Held:
    """Apply a ticket to a model and keep its pruned weights at zero in any training loop.

    Pruned weights are zeroed now, their gradients are masked as they are accumulated (before all-reduce and clipping),
    and after each step of `optimizer` they are exactly +0.0, whatever weight decay or momentum did.

    Args:
        model: any Hugging Face model with the ticket's encoder; it is not patched and can be saved as usual.
        ticket: the subnetwork.
        optimizer: the optimizer of the loop; without it call `Held.zero_()` after each of its steps.
        allow_other_weights: also onto weights that the ticket was not made for.

    Raises:
        ContentError: the ticket does not fit the model.

    Example:
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
        >>> held = hold(model, Ticket.from_pretrained("runs/kd60"), optimizer)
    """
    return Held(model, ticket, allow_other_weights, optimizer)


class TicketCallback(TrainerCallback):  # type: ignore[misc]
    """Holds a ticket in any Hugging Face Trainer: `Trainer(..., callbacks=[TicketCallback(ticket)])`.

    Args:
        ticket: the subnetwork.
        allow_other_weights: also onto weights that the ticket was not made for (a fine-tuned model, a resumed run).
    """

    def __init__(self, ticket: Ticket, allow_other_weights: bool = False) -> None:
        self.ticket = ticket
        self.allow_other_weights = allow_other_weights
        self._held: Held | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Zero the pruned weights, mask their gradients; a resumed run has trained weights, so only fit is checked."""
        self._held = Held(model, self.ticket, self.allow_other_weights or state.global_step > 0)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Zero the pruned weights again after the optimizer moved them."""
        if self._held is not None:
            self._held.zero_()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the hooks from the model."""
        if self._held is not None:
            self._held.remove()
