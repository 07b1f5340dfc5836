"""What each of several processes computes of a step: its rows of every batch, and the sum of all gradients.

Every process makes the batches that one process would make, and takes its rows of them: padding, masking and the order
of examples stay what they are, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets import processes

_TOGETHER = 1 << 23  # entries of gradients that travel at once


def share_of(batch: Mapping[str, Any], rank: int, count: int) -> Mapping[str, Any]:
    """The rows of a batch that one process computes: `rank`, `rank + count` and so on, perhaps none.

    Args:
        batch: tensors whose first dimension is that of the examples, or such batches by name.
        rank: of the process.
        count: of the processes; one takes the batch as it is.
    """
    if count == 1:
        return batch
    return {
        name: share_of(value, rank, count) if isinstance(value, Mapping) else value[rank::count].contiguous()
        for name, value in batch.items()
    }


def filled(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """What has rows: a batch itself, or those of several; nothing where none has."""
    if any(isinstance(value, Mapping) for value in batch.values()):
        return {name: value for name, value in batch.items() if filled(value)}
    return batch if all(len(value) for value in batch.values()) else {}


@torch.no_grad()
def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the sum of the gradients of all; a parameter that no process used keeps none.

    Gradients are added after the backward pass, and not by `DistributedDataParallel` on the way: objectives run the
    encoder several times, with other weights for the teacher; gates are no parameters of the model; a step of tickets
    sharing must not touch the heads of other tasks. Hooks on gradients have run before.

    Args:
        parameters: all that are trained, in the same order everywhere.
    """
    if processes.count() == 1:
        return
    every = list(dict.fromkeys(parameter for parameter in parameters if parameter.requires_grad))
    used = processes.totals([float(parameter.grad is not None) for parameter in every])
    wanted = [parameter for parameter, users in zip(every, used, strict=True) if users]
    for parameter in wanted:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for gradients in _parcels([parameter.grad for parameter in wanted if parameter.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        processes.add_up_(flat)
        for gradient, part in zip(gradients, torch.split(flat, [one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))


def _parcels(gradients: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Neighbours of one type, up to so many entries; larger ones alone."""
    parcel: list[Tensor] = []
    for gradient in gradients:
        full = sum(one.numel() for one in parcel) + gradient.numel() > _TOGETHER
        if parcel and (full or gradient.dtype != parcel[0].dtype):
            yield parcel
            parcel = []
        parcel.append(gradient)
    if parcel:
        yield parcel
