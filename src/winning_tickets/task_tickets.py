"""A ticket for each task on one shared encoder: which one computes, and what each of them moves.

Super tickets, section 4. A ticket of heads, FFNs or neurons acts through gates on states, so switching between tasks
copies no weights. A ticket of single weights has no such place in the forward pass: the weights are masked in place for
the time of a batch, which costs three passes over the masked matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.bits import write_masked_
from winning_tickets.gates import gated
from winning_tickets.masking import mask_gradient
from winning_tickets.multitask import SharedEncoder
from winning_tickets.sharing_optimizer import SharedUpdate, SharingOptimizer
from winning_tickets.structure import Structure, expand
from winning_tickets.ticket import Ticket


class TaskTickets:
    """Tickets that share one encoder.

    Args:
        encoder: the encoder inside the models, on its device.
        tickets: by task; a task without one uses the whole encoder.
        allow_other_weights: also onto weights that the tickets were not made for (a resumed run).

    Raises:
        ContentError: a ticket does not fit the encoder.

    Attributes:
        selections: of each task, bool masks by parameter name of the encoder, True = selected, where not everything is.
    """

    def __init__(self, encoder: nn.Module, tickets: Mapping[str, Ticket], allow_other_weights: bool = False) -> None:
        self._encoder = encoder
        self._parameters = dict(encoder.named_parameters())
        self._buffers: dict[str, Tensor] = {}
        self._gates: dict[str, tuple[Structure, dict[str, Tensor]]] = {}
        self._masks: dict[str, dict[str, Tensor]] = {}
        self.selections: dict[str, dict[str, Tensor]] = {}
        for task, ticket in tickets.items():
            ticket.check(encoder, allow_other_weights)
            self.selections[task] = {n: mask for n, mask in ticket.masks_on(encoder).items() if not bool(mask.all())}
            if ticket.structure is not None and _is_gates_alone(ticket, ticket.structure):
                self._gates[task] = ticket.structure, self._closing(ticket)
            else:
                self._masks[task] = {n: m.to(self._parameters[n].device) for n, m in self.selections[task].items()}

    def _closing(self, ticket: Ticket) -> dict[str, Tensor]:
        """The gates that close something, where and what the states are: no forward pass has to convert them."""
        at = next(iter(self._parameters.values()))
        return {name: gate.to(at.device, at.dtype) for name, gate in ticket.gates.items() if not bool(gate.all())}

    @contextmanager
    def acting(self, task: str) -> Iterator[None]:
        """Forward passes compute with the ticket of a task inside this block, and gradients outside it are zero.

        For training the block holds the forward and the backward pass, and the optimiser's step comes after it.
        """
        if task in self._gates:
            with gated(self._encoder, *self._gates[task]):
                yield
            return
        with ExitStack() as stack:
            for name, mask in self._masks.get(task, {}).items():
                parameter: Any = self._parameters[name]
                self._mask(name, mask)
                stack.callback(self._restore, name)
                if parameter.requires_grad:
                    stack.callback(parameter.register_post_accumulate_grad_hook(mask_gradient(mask)).remove)
            yield

    @torch.no_grad()
    def _mask(self, name: str, mask: Tensor) -> None:
        parameter = self._parameters[name]
        if name not in self._buffers:
            self._buffers[name] = torch.empty_like(parameter)
        write_masked_(parameter, self._buffers[name].copy_(parameter), mask)

    @torch.no_grad()
    def _restore(self, name: str) -> None:
        self._parameters[name].copy_(self._buffers[name])


def _is_gates_alone(ticket: Ticket, structure: Structure) -> bool:
    """Whether the gates say all that a ticket prunes."""
    masks = expand(ticket.gates, structure)[0]
    return all(name in masks and torch.equal(mask, masks[name]) for name, mask in ticket.masks.items())


def sharing_optimizer(
    model: SharedEncoder, tasks: Sequence[str], tickets: TaskTickets, update: SharedUpdate, strict: bool = True
) -> SharingOptimizer:
    """The optimiser of an encoder shared by tickets, and of the heads on it.

    Args:
        model: on the device where it is trained; its models are called like the tasks.
        tasks: all of them.
        tickets: on the same encoder.
        update: how weights move.
        strict: move only what the task of a batch selected (`SharingOptimizer`).
    """
    encoder, heads = dict(model.base_model.named_parameters()), model.heads
    owners = {name: name.split(".")[1] for name in heads}  # models.rte.classifier.weight
    return SharingOptimizer({**encoder, **heads}, tasks, tickets.selections, owners, update, strict)
