"""Data-parallel training: batches sharded across ranks, gradients all-reduced, random states of each rank.

Every rank builds the same batches as a single process, and keeps only its rows of them. Padding, masking and the
order of examples therefore do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.data.batches import shard_rows
from winning_tickets.runs import distributed

_BUCKET = 1 << 23  # gradient entries per all-reduce
_STATES_FILE = "random_states.pth"  # in a checkpoint of several ranks
_SEED_STEP = 1_000_003  # between the seeds of two ranks


def shard_batch(batch: Mapping[str, Any], rank: int, count: int) -> Mapping[str, Any]:
    """Return the rows `rank`, `rank + count`, ... of a batch of tensors, or of a dict of batches; maybe no rows."""
    if count == 1:
        return batch
    if any(isinstance(value, Mapping) for value in batch.values()):
        return {name: shard_batch(value, rank, count) for name, value in batch.items()}
    return shard_rows(batch, rank, count)


def nonempty(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a batch, or the non-empty ones of a dict of batches; an empty dict if no rows are left."""
    if any(isinstance(value, Mapping) for value in batch.values()):
        return {name: value for name, value in batch.items() if nonempty(value)}
    return batch if len(next(iter(batch.values()))) else {}


@torch.no_grad()
def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients over all ranks; a parameter that no rank used keeps `grad=None`."""
    # `DistributedDataParallel` does not fit: objectives call the encoder inside the model, some of them several times;
    # gates are not parameters of the model; a step of `tickets share` must not touch the heads of other tasks.
    # Therefore gradients are summed after the backward pass, when all hooks on gradients have run.
    if distributed.world_size() == 1:
        return
    # Ranks may have used different heads: find the parameters that any rank has a gradient of.
    every = list(dict.fromkeys(parameter for parameter in parameters if parameter.requires_grad))
    used = distributed.all_reduce_sums([float(parameter.grad is not None) for parameter in every])
    wanted = [parameter for parameter, users in zip(every, used, strict=True) if users]
    for parameter in wanted:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for gradients in _buckets([parameter.grad for parameter in wanted if parameter.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce_(flat)
        for gradient, part in zip(gradients, torch.split(flat, [one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))


def _buckets(gradients: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Group consecutive gradients of one dtype up to `_BUCKET` entries; a larger gradient is a group alone."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(one.numel() for one in bucket) + gradient.numel() > _BUCKET
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def random_state() -> list[Tensor]:
    """Return the states of torch's generators: first the CPU's, then one per GPU."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def set_random_state(states: Sequence[Tensor]) -> None:
    """Set the states of torch's generators, as `random_state` returned them."""
    torch.set_rng_state(states[0])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states[1:])


def seed_by_rank() -> None:
    """Use a different seed on each rank from here on, so that dropout differs; rank 0 continues as a single process."""
    if distributed.rank() > 0:
        torch.manual_seed(torch.initial_seed() + _SEED_STEP * distributed.rank())


def save_random_states(folder: Path, states: Sequence[Sequence[Tensor]]) -> None:
    """Save the random states of all ranks in a checkpoint; the Trainer saves that of a single rank."""
    if len(states) > 1:
        torch.save([list(own) for own in states], folder / _STATES_FILE)


def load_random_state(folder: Path) -> None:
    """Restore the random state of this rank; a rank that is new since the checkpoint gets its own seed."""
    if distributed.rank() == 0:
        return  # the Trainer restores its state
    path = folder / _STATES_FILE
    states = torch.load(path, weights_only=True) if path.is_file() else []
    if distributed.rank() < len(states):
        set_random_state(states[distributed.rank()])
    else:
        seed_by_rank()
