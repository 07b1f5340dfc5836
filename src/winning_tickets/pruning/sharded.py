"""Mask training on weights that FSDP2 has cut over processes: each holds rows, and scores and moments of them.

The masks are those that one process would select from the whole scores. No process ever holds a whole matrix of them:
the value that separates what is kept from what is pruned is found by counting, and so is what survives a tie.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from winning_tickets.pruning.mask_optimizer import MaskOptimizer, MaskUpdate, by_threshold
from winning_tickets.pruning.reselection import ByShards, Reselection
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.masking import MaskedWeights, rows_here


class ShardedMaskOptimizer(MaskOptimizer):
    """Trains the scores of an encoder's matrices after `torch.distributed.fsdp.fully_shard`.

    FSDP2 averages gradients over the processes, where a loss over several of them is a sum: multiply a loss that is
    divided by the count of all processes by their number. Shard the encoder with `reshard_after_forward=True`, so that
    a teacher (`optimizer.masked.dense()`) leaves none of its weights behind. `state_dict` holds what this process has.

    Args:
        encoder: sharded by rows over a mesh of one dimension.
        masks: initial masks of whole matrices by name, the same in every process; each group goes on pruning as many
            entries as they do.
        scores: initial scores of whole matrices by name, as `initial_scores` gives them for the weights before they
            were sharded; those matrices are trained.
        update: how.

    Raises:
        UsageError: a matrix is not sharded so, is part of a fused parameter, or leaves a process without rows.
    """

    def __init__(
        self, encoder: nn.Module, masks: Mapping[str, Tensor], scores: Mapping[str, Tensor], update: MaskUpdate
    ) -> None:
        parameters: dict[str, Any] = dict(encoder.named_parameters())
        for name in masks:
            _check(name, parameters.get(name))
        self._placed = {name: parameters[name] for name in masks}
        self._processes = next(iter(self._placed.values())).device_mesh.get_group()
        masked = MaskedWeights(encoder, list(masks))
        masked.write({name: self._rows(name, mask) for name, mask in masks.items()})
        super().__init__(masked, {name: self._rows(name, score) for name, score in scores.items()}, {}, update)

    def whole_masks(self) -> dict[str, Tensor]:
        """The masks of whole matrices, in every process; all processes must ask for them."""
        return {name: self._whole(name, mask.byte()).bool() for name, mask in self.masked.masks.items()}

    def whole_scores(self) -> dict[str, Tensor]:
        """The scores of whole matrices, in every process; all processes must ask for them."""
        return {name: self._whole(name, score.detach()) for name, score in self.scores.items()}

    def _rows(self, name: str, whole: Tensor) -> Tensor:
        """The rows of a whole matrix that this process holds of the parameter."""
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

    def _choose_selection(self, masked: MaskedWeights, scores: Mapping[str, Tensor]) -> Reselection:
        if self.update.pattern is not None or self.update.ranking == "row":
            return super()._choose_selection(masked, scores)  # rows are whole in every process
        return ByShards(masked, self._flat, scores, self._processes, **by_threshold(self.update))

    def _clip(self, parameters: list[nn.Parameter]) -> None:
        if self.update.clip == "none":
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        squares = torch.stack([gradient.double().square().sum() for gradient in gradients])
        dist.all_reduce(squares, group=self._processes)
        norms = squares.sqrt()
        if self.update.clip == "global":
            norms = squares.sum().sqrt().expand_as(norms)
            self.grad_norm = float(norms[0])
        for gradient, norm in zip(gradients, norms.tolist(), strict=True):
            gradient.mul_(min(1.0, self.update.max_grad_norm / (norm + 1e-6)))


def _check(name: str, parameter: Any) -> None:
    placements: Any = getattr(parameter, "placements", ())
    if len(placements) != 1 or not placements[0].is_shard(0) or "[" in name:
        raise UsageError(
            f"{name} is not sharded by rows over one dimension of processes; call fully_shard on the encoder and its "
            "layers first, with a mesh of one dimension. Parts of fused parameters cannot be trained so."
        )
    rows, size = len(parameter), parameter.device_mesh.size()
    each = -(-rows // size)  # as torch.chunk gives them; the last processes may get none
    if each * (size - 1) >= rows:
        raise UsageError(f"{name} has {rows} rows for {size} processes, which leaves some without any; use fewer.")
