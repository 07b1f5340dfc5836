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
from winning_tickets.runs.errors import ContentError
from winning_tickets.tickets.selection import count_true, write_masked_
from winning_tickets.tickets.ticket import Ticket


def rows_here(tensor: Any) -> Tensor:
    """Return the rows of a DTensor on this rank, or any other tensor unchanged."""
    here: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return here


class MaskedWeights:
    """The dense weights W of some matrices (parameters, or parts of fused ones) and the parameters that hold W * M.

    The dense weights lie in one flat buffer, those of the matrices `first` in front. Data of parameters is always
    written in place: rebinding `p.data` is silently ignored by sharded models. Slices of a fused parameter are
    neighbors in the buffer, as the parameter of a twin needs them (`models.twin`). `source` is a model with the dense
    weights, such as a sharded twin, where the encoder has others.
    """

    def __init__(
        self, encoder: nn.Module, names: Sequence[str], first: Sequence[str] = (), source: nn.Module | None = None
    ) -> None:
        parameters = dict(encoder.named_parameters())
        self.names = (*first, *(name for name in names if name not in set(first)))
        views = {name: rows_here(view) for name, view in prunable_views(encoder, self.names).items()}
        self._parts = {name: split_name(name) for name in self.names}
        # Several matrices may share a parameter.
        self.parameters: dict[str, nn.Parameter] = {n: parameters[part.parameter] for n, part in self._parts.items()}
        kinds = {(view.dtype, view.device) for view in views.values()} or {(torch.float32, torch.device("cpu"))}
        if len(kinds) > 1:
            raise ContentError(f"The matrices have several types or devices ({kinds}); load the model in one.")
        ((dtype, device),) = kinds
        self.flat = torch.empty(sum(view.numel() for view in views.values()), dtype=dtype, device=device)
        self.dense_weights: dict[str, Tensor] = self.split(self.flat, views)
        for name, view in (views if source is None else prunable_views(source, self.names)).items():
            self.dense_weights[name].copy_(rows_here(view))
        self.kept = {name: view.numel() for name, view in views.items()}  # entries, by the masks of the last `write`

    def split(self, flat: Tensor, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return views, by name and in the shape of the matrices, of a buffer over the first matrices."""
        views, start = {}, 0
        for name in self.names:
            shape = (like or self.dense_weights)[name].shape
            if start == flat.numel() and shape.numel():
                break
            views[name] = flat[start : start + shape.numel()].view(shape)
            start += shape.numel()
        return views

    def trained(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Return the parameters that hold some of the matrices, each once."""
        return list(dict.fromkeys(self.parameters[name] for name in names))

    def gradient(self, name: str) -> Tensor | None:
        """Return the gradient of a matrix: that of its parameter, or a view of its part of it."""
        gradient = self.parameters[name].grad
        return None if gradient is None else self._parts[name].of(rows_here(gradient))

    @torch.no_grad()
    def write(self, masks: Mapping[str, Tensor]) -> None:
        """Write W * M of some matrices into their parameters, and note how many entries they keep."""
        for name, mask in masks.items():
            self.kept[name] = count_true(mask)
            write_masked_(self._here(name), self.dense_weights[name], mask.to(self.flat.device))

    @torch.no_grad()
    def write_flat(self, mask: Tensor) -> None:
        """Write W * M of the first matrices, whose masks are given as one buffer `(n,)`."""
        masks = self.split(mask)
        if mask.device.type == "cpu":
            for name, one in masks.items():
                write_masked_(self._here(name), self.dense_weights[name], one)
        else:  # a few launches, however many matrices there are
            product = torch.where(mask, self.flat[: mask.numel()], 0.0)
            torch._foreach_copy_([self._here(name) for name in masks], list(self.split(product).values()))

    def _here(self, name: str) -> Tensor:
        """Return a matrix in its parameter, as a view of its rows on this rank."""
        return self._parts[name].of(rows_here(self.parameters[name].detach()))


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
