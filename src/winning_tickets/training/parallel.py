"""Data-parallel training: batches prepared ahead and sharded across ranks, gradients all-reduced, random states.

Every rank builds the same batches as a single process, and keeps only its rows of them. Padding, masking and the
order of examples therefore do not depend on the number of ranks.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from winning_tickets.data.batches import shard_rows
from winning_tickets.runs import distributed
from winning_tickets.tickets.masking import is_sharded, rows_here

_BUCKET = 1 << 23  # gradient entries per all-reduce
_AHEAD = 2  # steps whose batches are prepared before they are needed
_SEED_STEP = 1_000_003  # between the seeds of two ranks

T = TypeVar("T")


@contextmanager
def prepared_ahead(prepare: Callable[[int], T], steps: Iterable[int], device: torch.device) -> Iterator[Iterator[T]]:
    """Yield an iterator over `prepare(step)` of each step; a background thread prepares results ahead of their use."""
    waiting: deque[Future[T]] = deque()
    on_device = (lambda: torch.cuda.set_device(device)) if device.type == "cuda" else None  # each thread has its own
    with ThreadPoolExecutor(1, "batches", on_device) as worker:

        def results() -> Iterator[T]:
            for step in steps:
                waiting.append(worker.submit(prepare, step))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield results()
        finally:
            for future in waiting:
                future.cancel()


def each_tensor(batch: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Return a batch, or a dict of batches, with every tensor changed."""
    return {
        name: each_tensor(value, change)
        if isinstance(value, Mapping)
        else change(value)
        if isinstance(value, Tensor)
        else value
        for name, value in batch.items()
    }


def shard_batch(batch: Mapping[str, Any], rank: int, count: int) -> Mapping[str, Any]:
    """Return the rows `rank`, `rank + count`, ... of a batch of tensors, or of a dict of batches; maybe none."""
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
    """Sum the gradients over all ranks; a parameter that no rank used keeps `grad=None`.

    FSDP2 has averaged the gradients of sharded parameters in the backward pass: these are multiplied by the number of
    ranks instead.
    """
    # `DistributedDataParallel` does not fit: objectives call the encoder inside the model, some of them several times;
    # gates are not parameters of the model; a step of `tickets share` must not touch the heads of other tasks.
    # Therefore gradients are summed after the backward pass, when all hooks on gradients have run.
    if distributed.world_size() == 1:
        return
    # Ranks may have used different heads: find the parameters for which any rank has a gradient.
    trained = list(dict.fromkeys(parameter for parameter in parameters if parameter.requires_grad))
    sharded = [rows_here(one.grad) for one in trained if is_sharded(one) and one.grad is not None]
    if sharded:
        torch._foreach_mul_(sharded, distributed.world_size())
    every = [parameter for parameter in trained if not is_sharded(parameter)]
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


def random_state() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and torch, on the CPU and on this rank's accelerator."""
    numpy: Any = np.random.get_state()  # its name, its keys, and numbers
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    return {
        "python": random.getstate(),
        "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
        "cpu": torch.get_rng_state(),
        "cuda": gpu,
    } | ({} if (other := _other_accelerator()) is None else {"accelerator": other.get_rng_state()})


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set the generators to what `random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if state.get("accelerator") is not None and (other := _other_accelerator()) is not None:
        other.set_rng_state(state["accelerator"])


def _other_accelerator() -> Any:
    """Return torch's module of the accelerator if it is not CUDA, such as `torch.mps`; None without one."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if found is None or found.type == "cuda" else torch.get_device_module(found.type)


def seed_by_rank() -> None:
    """Use a different seed on each rank from here on, so that dropout differs; rank 0 continues as a single process."""
    if distributed.rank() > 0:
        torch.manual_seed(torch.initial_seed() + _SEED_STEP * distributed.rank())


def draw_as_a_data_loader() -> None:
    """Draw what a torch DataLoader draws when a pass begins (the seed of its workers), so that dropout is the same."""
    torch.empty((), dtype=torch.int64).random_()
