"""Mask training on weights that FSDP2 has sharded over ranks: each holds rows, and scores and moments of them.

The masks are those that one process would select from the whole scores. Ranks exchange counts and the few scores near
the border between kept and pruned ones, never whole matrices.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from winning_tickets.config import ResolvedSearch
from winning_tickets.pruning.mask_optimizer import MaskOptimizer, buffer_order
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.masking import MaskedWeights, rows_here
from winning_tickets.tickets.selection import Ranks


class ShardedMaskOptimizer(MaskOptimizer):
    """Trains the scores of an encoder's matrices after `torch.distributed.fsdp.fully_shard`.

    FSDP2 averages gradients over the ranks, where a loss over several of them is a sum: multiply a loss that is
    divided by the count of all ranks by their number. A teacher is a twin that was made before both were sharded, with
    `reshard_after_forward=True`, so that it leaves none of its whole weights in memory. `state_dict` holds the rows of
    this rank. docs/how_to/run_on_several_processes.md has a whole training loop.

    Args:
        encoder: sharded by rows over a mesh of one dimension.
        masks: initial masks of whole matrices by name, the same on every rank; each group keeps pruning as many
            entries as they do.
        scores: initial scores of whole matrices by name, as `initial_scores` gives them for the weights before they
            were sharded; those matrices are trained.
        config: the resolved settings of a search by mask training.
        dense: the encoder of the teacher, sharded as `encoder` is: its parameters then are the dense weights, which
            are copied from `encoder` otherwise.

    Raises:
        UsageError: a matrix is not sharded by rows, is part of a fused parameter, or leaves a rank without rows.
    """

    def __init__(
        self,
        encoder: nn.Module,
        masks: Mapping[str, Tensor],
        scores: Mapping[str, Tensor],
        config: ResolvedSearch,
        dense: nn.Module | None = None,
    ) -> None:
        for module in (encoder,) if dense is None else (dense, encoder):
            parameters: dict[str, Any] = dict(module.named_parameters())
            for name in masks:
                _check(name, parameters.get(name))
        self._placed = {name: parameters[name] for name in masks}
        order = buffer_order({name: parameters[name].shape for name in scores}, config.ranking)
        masked = MaskedWeights(encoder, list(masks), order, dense)
        own = {name: self._rows(name, mask) for name, mask in masks.items()}
        masked.write(own)
        self._fixed = {name: mask for name, mask in own.items() if name not in scores}
        group = next(iter(self._placed.values())).device_mesh.get_group()
        sizes = [masked.dense_weights[name].numel() for name in order]
        super().__init__(
            masked,
            {name: self._rows(name, score) for name, score in scores.items()},
            {},
            config,
            ranks=Shards(group, masked.flat.device, sizes),
        )

    def whole_masks(self) -> dict[str, Tensor]:
        """Return the masks of whole matrices, on every rank; all ranks must call this."""
        masks = self.masks() | self._fixed
        return {name: self._whole(name, masks[name].byte()).bool() for name in self._placed}

    def whole_scores(self) -> dict[str, Tensor]:
        """Return the scores of whole matrices, on every rank; all ranks must call this."""
        return {name: self._whole(name, score.detach()) for name, score in self.scores.items()}

    def _rows(self, name: str, whole: Tensor) -> Tensor:
        """Return the rows of a whole matrix that this rank holds of the parameter."""
        parameter = self._placed[name]
        here = rows_here(parameter)
        rank, count = parameter.device_mesh.get_local_rank(), parameter.device_mesh.size()
        rows: Tensor = torch.chunk(whole, count)[rank]
        return rows.to(here.device).contiguous()

    def _whole(self, name: str, rows: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        like = self._placed[name]
        placed = DTensor.from_local(
            rows, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        whole: Tensor = placed.full_tensor()
        return whole


def _check(name: str, parameter: Any) -> None:
    placements: Any = getattr(parameter, "placements", ())
    if len(placements) != 1 or not placements[0].is_shard(0) or "[" in name:
        raise UsageError(
            f"{name} is not sharded by rows over one dimension of processes; call fully_shard on the encoder and its "
            "layers first, with a mesh of one dimension. Parts of fused parameters are not supported."
        )
    rows, size = len(parameter), parameter.device_mesh.size()
    each = -(-rows // size)  # as torch.chunk gives them; the last processes may get none
    if each * (size - 1) >= rows:
        raise UsageError(f"{name} has {rows} rows for {size} processes, which leaves some without any; use fewer.")


class Shards(Ranks):
    """The ranks that hold rows of the same matrices; `sizes` counts the entries of each matrix on this rank."""

    def __init__(self, group: Any, device: torch.device, sizes: Sequence[int]) -> None:
        self._group, self._device = group, device
        self._ends = torch.tensor(list(itertools.accumulate(sizes)), device=device)

    def totals(self, counts: Tensor) -> Tensor:
        """Return counts `(n,)` summed over the ranks."""
        total = counts.to(self._device, copy=True)
        dist.all_reduce(total, group=self._group)
        return total

    def join(self, rows: Tensor) -> Tensor:
        """Return the rows `(n, ...)` of all ranks, one after the other."""
        numbers = self._numbers(rows)
        padded = rows.new_zeros(max(numbers), *rows.shape[1:])
        padded[: len(rows)] = rows
        everyone = [torch.empty_like(padded) for _ in numbers]
        dist.all_gather(everyone, padded, group=self._group)
        return torch.cat([one[:number] for one, number in zip(everyone, numbers, strict=True)])

    def gather(
        self, places: Tensor, scores: Tensor, ties: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor | None], Tensor]:
        """Return entries of all ranks, by matrix and in each by rank, and which of them are this rank's."""
        matrices = torch.bucketize(places, self._ends, right=True)
        order = torch.sort(self.join(matrices), stable=True).indices
        placed = torch.empty_like(order)
        placed[order] = torch.arange(len(order), device=order.device)
        start = sum(self._numbers(places)[: dist.get_rank(self._group)])
        joined = None if ties is None else self.join(ties)[order]
        return (self.join(scores)[order], joined), placed[start : start + len(places)]

    def _numbers(self, rows: Tensor) -> list[int]:
        """Return the number of rows of each rank."""
        own = torch.tensor([len(rows)], device=self._device)
        everyone = [torch.empty_like(own) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(everyone, own, group=self._group)
        return [int(one) for one in torch.cat(everyone).tolist()]
