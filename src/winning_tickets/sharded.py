"""Mask training on weights that FSDP2 has cut over processes: each holds rows, and scores and moments of them.

The masks are those that one process would select from the whole scores. No process ever holds a whole matrix of them:
the value that separates what is kept from what is pruned is found by counting, and so is what survives a tie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from winning_tickets.errors import UsageError
from winning_tickets.mask_optimizer import MaskOptimizer, MaskUpdate
from winning_tickets.masking import MaskedWeights, rows_here
from winning_tickets.reselection import Reselection
from winning_tickets.selection import groups_of
from winning_tickets.sharded_selection import SharedSelector


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
        UsageError: a matrix is not sharded so, is part of a fused parameter, or has fewer rows than there are
            processes.
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
        return ByShards(masked, self._flat, scores, self.update, self._processes)

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
    if len(parameter) < parameter.device_mesh.size():
        raise UsageError(f"{name} has {len(parameter)} rows for {parameter.device_mesh.size()} processes; use fewer.")


class ByShards:
    """Exact counts of each matrix, or of all together, over the rows of all processes.

    Args:
        masked: its masks are overwritten; they say how many entries are pruned.
        flat: the scores of all matrices in one buffer.
        scores: views of it by name of the matrix.
        update: the ranking, and how masks follow between adjustments.
        processes: group of processes that share the matrices.
    """

    def __init__(
        self, masked: MaskedWeights, flat: Tensor, scores: Mapping[str, Tensor], update: MaskUpdate, processes: Any
    ) -> None:
        self._masked, self._update = masked, update
        self._groups = groups_of(tuple(scores), update.ranking)
        self._scores = [flat if len(group) > 1 else scores[group[0]] for group in self._groups]
        self._weights = [torch.cat([masked.dense_weights[n].reshape(-1) for n in group]) for group in self._groups]
        self._parts = [[scores[name].numel() for name in group] for group in self._groups]
        self._selector = SharedSelector(self._parts, processes, flat.device)
        self.thresholds = [update.phi] * len(self._groups)
        self.take_counts()

    def take_counts(self) -> None:
        """From now on prune as many entries of each group as the masks do at present."""
        self._pruned = self._selector.totals([int(torch.count_nonzero(~mask)) for mask in self._present()])

    def select(self, exact: bool) -> None:
        """Masks from scores: exactly the sparsity, or (between adjustments) what is beyond the last threshold."""
        keys = self._keys()
        if exact:
            kept = self._selector.select(keys, self._weights, self._pruned)
            self.thresholds = self._selector.borders
            if self._update.threshold == "reached":
                lowest = [
                    float(one[mask].min()) if mask.any() else math.inf for one, mask in zip(keys, kept, strict=True)
                ]
                self.thresholds = self._selector.lowest(lowest)
        else:
            kept = [self._beyond(one, threshold) for one, threshold in zip(keys, self.thresholds, strict=True)]
        for group, mask, parts in zip(self._groups, kept, self._parts, strict=True):
            for name, part in zip(group, torch.split(mask, parts), strict=True):
                self._masked.masks[name].view(-1).copy_(part)

    def start_at(self, phi: float) -> None:
        """Until the first adjustment the threshold is phi, where phi separates the scores as the masks do."""
        masks = [self._beyond(keys, phi) ^ mask for keys, mask in zip(self._keys(), self._present(), strict=True)]
        for index, wrong in enumerate(self._selector.totals([int(torch.count_nonzero(mask)) for mask in masks])):
            if not wrong:
                self.thresholds[index] = phi

    def _keys(self) -> list[Tensor]:
        """What is ranked."""
        return [one.abs() for one in self._scores] if self._update.rank_by == "absolute" else list(self._scores)

    def _present(self) -> list[Tensor]:
        """The masks of each group as they are."""
        return [torch.cat([self._masked.masks[name].view(-1) for name in group]) for group in self._groups]

    def _beyond(self, keys: Tensor, threshold: float) -> Tensor:
        return keys >= threshold if self._update.threshold == "reached" else keys > threshold
