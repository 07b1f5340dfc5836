"""Hold a fixed ticket through any training loop: `hold` for loops of your own, `TicketCallback` for Trainers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback

from winning_tickets.models.encoders import Place, links_to, part_like
from winning_tickets.runs.ambient import neutral
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.adapters import mask_adapters as mask_adapters_of
from winning_tickets.tickets.masking import rows_here
from winning_tickets.tickets.selection import write_masked_
from winning_tickets.tickets.ticket import Ticket, open_ticket


class Mask:
    """A mask that adapts to the tensor it is applied to: to its device, and to the part that this process holds."""

    def __init__(self, mask: Tensor) -> None:
        self._whole = self._here = mask

    @torch.no_grad()
    def zero_(self, tensor: Tensor) -> None:
        """Set the pruned entries of a tensor of the mask's shape to +0.0."""
        here = rows_here(tensor)
        if self._here.device != here.device or self._here.shape != here.shape:
            self._here = part_like(self._whole, tensor).to(here.device)
        write_masked_(here, here, self._here)


def mask_gradient(mask: Mask) -> Callable[[nn.Parameter], None]:
    """Return a hook that masks a parameter's gradient as it is accumulated, before all-reduce and clipping."""

    def hook(parameter: nn.Parameter) -> None:
        if parameter.grad is not None:
            mask.zero_(parameter.grad)

    return hook


@dataclass
class _HeldParameter:
    """A parameter of the model with its mask; `hooked` is the parameter object whose gradients are masked."""

    place: Place
    mask: Mask
    hooked: Any = None
    handle: RemovableHandle | None = None
    computes: Any = None  # the layer's class, and the function that replaces its `forward`, if any
    state: Any = None

    @property
    def is_unchanged(self) -> bool:
        """Whether layer and parameter are those that were checked."""
        owner, present = self.place.owner, self.place.owner._parameters.get(self.place.name)
        return present is self.hooked and _computation_of(owner) == self.computes and _state_of(present) == self.state

    def attach(self) -> None:
        """Mask the gradients of the parameter that is in this place now; sharding and some moves replace it."""
        parameter: Any = self.place.parameter
        self.computes, self.state = _computation_of(self.place.owner), _state_of(parameter)
        if parameter is self.hooked:
            # After a swap of the tensor behind a parameter, its hooks are still in this list but are not called;
            # assigning the list registers them again.
            parameter._post_accumulate_grad_hooks = parameter._post_accumulate_grad_hooks
            return
        # A parameter that is frozen now may be trained later, and torch refuses hooks on frozen ones.
        trained = parameter.requires_grad
        parameter.requires_grad_(True)
        self.hooked, self.handle = parameter, parameter.register_post_accumulate_grad_hook(mask_gradient(self.mask))
        parameter.requires_grad_(trained)


def _computation_of(layer: nn.Module) -> Any:
    return type(layer), vars(layer).get("forward")


def _state_of(parameter: Any) -> Any:
    return parameter.dtype, parameter.device


class Held:
    """A ticket that is held on a model: its pruned weights stay zero. `remove()` ends that; the zeros stay."""

    @neutral()
    def __init__(
        self,
        model: Any,
        ticket: Ticket | Path | str,
        *,
        allow_other_weights: bool = False,
        optimizer: Any = None,
        mask_adapters: bool = True,
    ) -> None:
        ticket = open_ticket(ticket)
        # If the pruned weights are zero already, the model was trained with this ticket, so its weights may differ.
        ticket.apply_(model, allow_other_weights=allow_other_weights or ticket.is_applied_to(model))
        self._model, self._ticket, self._masks_adapters = model, ticket, mask_adapters
        self._held: dict[Place, _HeldParameter] = {}
        self._active = True
        self._attach()
        self._step_hook = None if optimizer is None else after_each_step(optimizer, self.zero_)

    def _attach(self) -> None:
        """Hold the parameters and adapters that the model has now."""
        places, before = self._ticket.encoder_of(self._model).places, self._held
        self._adapters = mask_adapters_of(self._model, self._ticket) if self._masks_adapters else []
        masks = {places[name]: mask for name, mask in self._ticket.masks_on(self._model).items()}
        self._held = {place: before.get(place) or _HeldParameter(place, Mask(mask)) for place, mask in masks.items()}
        for place, one in before.items():
            if place not in self._held and one.handle is not None:
                one.handle.remove()
        for one in self._held.values():
            one.attach()
        self._links = links_to(self._model, [place.owner for place in self._held])

    def _is_unchanged(self) -> bool:
        return (
            all(parent._modules.get(name) is child for parent, name, child in self._links)
            and all(one.is_unchanged for one in self._held.values())
            and all(adapters.is_complete for adapters in self._adapters)
        )

    def zero_(self) -> None:
        """Set all pruned weights to exactly +0.0.

        Raises:
            ContentError: the model was changed so that the ticket cannot be held on it any more, such as by adapters
                other than LoRA or by quantization.
        """
        if self._active and not self._is_unchanged():
            self._ticket.check(self._model, allow_other_weights=True)
            self._attach()
        for one in self._held.values():
            one.mask.zero_(one.place.parameter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the hooks of the training; the weights stay as they are, and LoRA adapters stay masked."""
        self._active = False
        for handle in (self._step_hook, *(one.handle for one in self._held.values())):
            if handle is not None:
                handle.remove()


def after_each_step(optimizer: Any, call: Callable[[], None]) -> RemovableHandle:
    """Call a function after each step of an optimizer, which may be wrapped, for example by accelerate's `prepare`."""
    for one in _unwrapped(optimizer):
        # Some wrappers are instances of Optimizer but have no list of hooks.
        if isinstance(one, torch.optim.Optimizer) and hasattr(one, "_optimizer_step_post_hooks"):
            return one.register_step_post_hook(lambda *_: call())
    raise UsageError(
        f"{type(optimizer).__name__} calls no hooks after its steps; call held = hold(model, ticket) without it, and "
        "held.zero_() after each step."
    )


def _unwrapped(optimizer: Any) -> Iterator[Any]:
    """Yield an optimizer and those it wraps, called `optimizer` by accelerate and `base` by schedule-free wrappers."""
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "optimizer", None) or getattr(optimizer, "base", None)


def hold(
    model: Any,
    ticket: Ticket | Path | str,
    optimizer: Any = None,
    *,
    allow_other_weights: bool = False,
    mask_adapters: bool = True,
) -> Held:
    """Apply a ticket to a model and keep its pruned weights at zero in any training loop.

    Pruned weights are zeroed now, their gradients are masked as they are accumulated (before all-reduce and clipping),
    and after each step of `optimizer` they are exactly +0.0, whatever weight decay or momentum did.

    Args:
        model: any model with the ticket's encoder somewhere inside: of Hugging Face, a SentenceTransformer, a module of
            your own; also wrapped by DataParallel, DDP, `fully_shard`, `torch.compile` or PEFT. It is not patched, and
            can be moved, wrapped, compiled and saved as usual.
        ticket: the subnetwork, or its folder or hub id.
        optimizer: the optimizer of the loop, also one that accelerate has prepared; without it call `Held.zero_()`
            after each of its steps.
        allow_other_weights: accept weights that the ticket was not made for. Weights whose pruned entries are already
            zero, as in a resumed run, are always accepted.
        mask_adapters: mask the LoRA adapters that are on held matrices too, so that merging them keeps the zeros.

    Raises:
        ContentError: the ticket does not fit the model, or fits several encoders in it; a held layer, its weight or an
            adapter around it is of a kind that cannot be masked. Such a change after the call is refused at the next
            step; LoRA that is added later is masked from then on.
        UsageError: the optimizer calls no hooks, or the model is sharded by `FullyShardedDataParallel`.

    Example:
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
        >>> with hold(model, Ticket.from_pretrained("runs/kd60"), optimizer):
        ...     train(model, optimizer)
    """
    return Held(
        model, ticket, allow_other_weights=allow_other_weights, optimizer=optimizer, mask_adapters=mask_adapters
    )


held = hold
"""The same function under a name that reads well in a `with` block, at whose end the hooks are removed."""


class TicketCallback(TrainerCallback):  # type: ignore[misc]
    """Holds a ticket in any Hugging Face Trainer: `Trainer(..., callbacks=[TicketCallback(ticket)])`.

    The ticket is on the model as soon as the Trainer is made, so an evaluation before the training measures it.

    Args:
        ticket: the subnetwork, or its folder or hub id.
        allow_other_weights: accept weights that the ticket was not made for. Weights whose pruned entries are already
            zero, as in a resumed run, are always accepted.
        mask_adapters: as in `hold`.
    """

    def __init__(
        self, ticket: Ticket | Path | str, *, allow_other_weights: bool = False, mask_adapters: bool = True
    ) -> None:
        self.ticket = open_ticket(ticket)
        self.mask_adapters = mask_adapters
        self.allow_other_weights = allow_other_weights
        self._held: Held | None = None
        self._model: Any = None  # the last model that is known to have the ticket

    @neutral()
    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Zero the pruned weights."""
        self.ticket.apply_(model, allow_other_weights=self.allow_other_weights or self.ticket.is_applied_to(model))
        if self.mask_adapters:
            mask_adapters_of(model, self.ticket)
        self._model = model

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Zero the pruned weights, and mask their gradients from here on."""
        self._release()
        self._held = Held(
            model, self.ticket, allow_other_weights=self.allow_other_weights, mask_adapters=self.mask_adapters
        )
        self._model = model

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Zero the pruned weights again after the optimizer has updated them."""
        if self._held is not None:
            self._held.zero_()

    def on_prediction_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Refuse to evaluate a model without the ticket, as after the callback was added to an existing Trainer."""
        if model is not self._model and not self.ticket.is_applied_to(model):
            raise UsageError(
                "This evaluation would measure the model without the ticket, as the callback was added after the "
                "Trainer was made. Give it to the Trainer (callbacks=[...]), or call ticket.apply_(model) first."
            )
        self._model = model

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the hooks from the model."""
        self._release()

    def _release(self) -> None:
        if self._held is not None:
            self._held.remove()
            self._held = None
