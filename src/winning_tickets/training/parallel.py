"""What each of several processes computes of a step: its rows of every batch, and the sum of all gradients.

Every process makes the batches that one process would make, and takes its rows of them: padding, masking and the order
of examples stay what they are, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.runs import distributed

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
    if distributed.count() == 1:
        return
    every = list(dict.fromkeys(parameter for parameter in parameters if parameter.requires_grad))
    used = distributed.totals([float(parameter.grad is not None) for parameter in every])
    wanted = [parameter for parameter, users in zip(every, used, strict=True) if users]
    for parameter in wanted:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for gradients in _parcels([parameter.grad for parameter in wanted if parameter.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.add_up_(flat)
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


FILE = "random_states.pth"
"""In a checkpoint of several processes: the states of each."""
_APART = 1_000_003  # between the seeds of two processes


def random_state() -> list[Tensor]:
    """States of torch's generators: the processor's, then one for each GPU."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def set_random_state(states: Sequence[Tensor]) -> None:
    """Go on with the random numbers that followed a state."""
    torch.set_rng_state(states[0])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states[1:])


def draw_apart() -> None:
    """Let each of several processes draw numbers of its own from here on, so that its rows have dropout of their own.

    The main process goes on with those of a single one.
    """
    if distributed.rank() > 0:
        torch.manual_seed(torch.initial_seed() + _APART * distributed.rank())


def save_states(folder: Path, states: Sequence[Sequence[Tensor]]) -> None:
    """Keep the states of several processes in a checkpoint; there is nothing to keep of a single one."""
    if len(states) > 1:
        torch.save([list(own) for own in states], folder / FILE)


def load_own_state(folder: Path) -> None:
    """Go on where this process was at a checkpoint; in another number of processes they draw apart from there."""
    if distributed.rank() == 0:
        return  # its state stands where a single process has it
    path = folder / FILE
    states = torch.load(path, weights_only=True) if path.is_file() else []
    if distributed.rank() < len(states):
        set_random_state(states[distributed.rank()])
    else:
        draw_apart()
