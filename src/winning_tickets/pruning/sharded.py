"""Mask training on weights that FSDP2 has sharded over ranks: each holds rows, and scores and moments of them.

The masks are those that one process would select from the whole scores. No rank ever holds a whole matrix of them: the
value that separates kept from pruned scores is found by counting, and so are the entries that survive a tie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from winning_tickets.config import ResolvedSearch
from winning_tickets.pruning.mask_optimizer import ByThreshold, MaskOptimizer, MaskRule, ranked_values
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.masking import MaskedWeights, rows_here
from winning_tickets.tickets.selection import WIDE, adapted, groups_of

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


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
        self._ranks = next(iter(self._placed.values())).device_mesh.get_group()
        masked = MaskedWeights(encoder, list(masks), dense)
        masked.write({name: self._rows(name, mask) for name, mask in masks.items()})
        super().__init__(masked, {name: self._rows(name, score) for name, score in scores.items()}, {}, config)

    def whole_masks(self) -> dict[str, Tensor]:
        """Return the masks of whole matrices, on every rank; all ranks must call this."""
        return {name: self._whole(name, mask.byte()).bool() for name, mask in self.masked.masks.items()}

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

    def _choose_rule(self, masked: MaskedWeights, scores: Mapping[str, Tensor]) -> MaskRule:
        if self.config.pattern is not None or self.config.ranking == "row":
            return super()._choose_rule(masked, scores)  # rows are whole on every rank
        return ByShards(masked, self._flat, scores, self._ranks, self.config)

    def _clip(self, parameters: list[nn.Parameter]) -> None:
        if self.config.clip == "none":
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        squares = torch.stack([gradient.double().square().sum() for gradient in gradients])
        dist.all_reduce(squares, group=self._ranks)
        norms = squares.sqrt()
        if self.config.clip == "global":
            norms = squares.sum().sqrt().expand_as(norms)
            self.grad_norm = float(norms[0])
        for gradient, norm in zip(gradients, norms.tolist(), strict=True):
            gradient.mul_(min(1.0, self.config.max_grad_norm / (norm + 1e-6)))


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


class ByShards(ByThreshold):
    """`ByThreshold` over matrices whose rows are sharded over ranks."""

    def __init__(
        self, masked: MaskedWeights, flat: Tensor, scores: Mapping[str, Tensor], ranks: Any, config: ResolvedSearch
    ) -> None:
        groups = groups_of(tuple(scores), config.ranking)
        parts = [[scores[name].numel() for name in group] for group in groups]
        self._selector = ShardedSelector(parts, ranks, flat.device)
        super().__init__(masked, flat, scores, config)

    def _totals(self, counts: list[int]) -> list[int]:
        return self._selector.totals(counts)

    def _select_exactly(self) -> None:
        """Overwrite the masks of all groups at once, and set their thresholds."""
        keys = [ranked_values(scores, self._config.rank_by) for scores, _, _ in self._groups]
        kept = self._selector.select(keys, [weights for _, weights, _ in self._groups], self._pruned)
        for (_, _, mask), one in zip(self._groups, kept, strict=True):
            mask.copy_(one)
        if self._keeps_thresholds:
            found = zip(keys, kept, self._selector.borders, strict=True)
            self.thresholds = self._selector.lowest([self._threshold_of(i, *one) for i, one in enumerate(found)])


class ShardedSelector:
    """Keeps the entries with the highest scores of each group, with exact counts, tie for tie as `keep_top`.

    `parts` counts the entries of each group on this rank, by matrix. A group's order is that of its matrices, and
    inside one that of the ranks.
    """

    def __init__(self, parts: Sequence[Sequence[int]], ranks: Any, device: torch.device) -> None:
        self._parts, self._ranks, self._device = parts, ranks, device
        self._sizes = self.totals([sum(part) for part in parts])
        self._half_widths = [0.0] * len(parts)
        self.borders = [-math.inf] * len(parts)  # of each group, the highest score that is pruned

    def totals(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of counts over all ranks."""
        tensor = torch.tensor(counts, device=self._device)
        dist.all_reduce(tensor, group=self._ranks)
        return [int(count) for count in tensor.tolist()]

    def lowest(self, values: Sequence[float]) -> list[float]:
        """Return the lowest of numbers over all ranks."""
        tensor = torch.tensor(values, dtype=torch.float32, device=self._device)
        dist.all_reduce(tensor, dist.ReduceOp.MIN, group=self._ranks)
        return [float(value) for value in tensor.tolist()]

    def select(self, scores: Sequence[Tensor], weights: Sequence[Tensor], pruned: Sequence[int]) -> list[Tensor]:
        """Return the masks `(n,)` of the entries on this rank by group; `pruned` entries go over all ranks."""
        # Only the scores near the last border take part in the search for the new one.
        candidates, below = self._near_borders(scores, pruned)
        left = [count - under for count, under in zip(pruned, below, strict=True)]
        self.borders = self._kth_smallest(candidates, left)
        # Of equal scores the larger absolute weight survives, then the one that comes first.
        kept, tied, missing = self._split(scores, self.borders, self._sizes, pruned)
        if any(missing):
            self._add_strongest(kept, tied, missing, weights)
        return kept

    def _split(
        self, values: Sequence[Tensor], borders: Sequence[float], sizes: Sequence[int], pruned: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor], list[int]]:
        """Return the masks of values above and equal to the borders, and how many of the equal ones survive."""
        above = [one > border for one, border in zip(values, borders, strict=True)]
        tied = [one == border for one, border in zip(values, borders, strict=True)]
        kept = self.totals([int(torch.count_nonzero(one)) for one in above])
        return above, tied, [size - gone - many for size, gone, many in zip(sizes, pruned, kept, strict=True)]

    def _add_strongest(
        self, kept: Sequence[Tensor], tied: Sequence[Tensor], missing: Sequence[int], weights: Sequence[Tensor]
    ) -> None:
        """Keep the largest weights among tied scores; among equal weights, the ones that come first."""
        places = [one.nonzero().reshape(-1) for one in tied]
        strengths = [one[place].float().abs() for one, place in zip(weights, places, strict=True)]
        sizes = self.totals([place.numel() for place in places])
        pruned = [size - many for size, many in zip(sizes, missing, strict=True)]
        borders = self._kth_smallest(strengths, pruned)
        above, equal, rest = self._split(strengths, borders, sizes, pruned)
        for index, place in enumerate(places):
            kept[index][place[above[index]]] = True
        if any(rest):
            self._add_first(kept, [place[one] for place, one in zip(places, equal, strict=True)], rest)

    def _add_first(self, kept: Sequence[Tensor], places: Sequence[Tensor], missing: Sequence[int]) -> None:
        """Keep the first of the places, in the order of the matrices and, inside one, of the ranks."""
        # Every rank counts its places in each matrix ...
        own: list[list[int]] = []
        for place, part in zip(places, self._parts, strict=True):
            ends = torch.tensor(part).cumsum(0).to(place.device)
            own.append(torch.bincount(torch.bucketize(place, ends, right=True), minlength=len(part)).tolist())
        # ... and learns the counts of all others, which say how many of the missing ones come before its own.
        counts = torch.tensor([count for group in own for count in group], device=self._device)
        everyone = [torch.empty_like(counts) for _ in range(dist.get_world_size(self._ranks))]
        dist.all_gather(everyone, counts, group=self._ranks)
        by_rank = torch.stack(everyone).cpu()
        rank, column = dist.get_rank(self._ranks), 0
        for index, group in enumerate(own):
            table = by_rank[:, column : column + len(group)]
            column += len(group)
            before = table.T.reshape(-1).cumsum(0).view(table.T.shape) - table.T  # of each matrix and rank
            start = 0
            for matrix, count in enumerate(group):
                chosen = max(0, min(count, missing[index] - int(before[matrix, rank])))
                kept[index][places[index][start : start + chosen]] = True
                start += count

    def _near_borders(self, scores: Sequence[Tensor], pruned: Sequence[int]) -> tuple[list[Tensor], list[int]]:
        """Return the scores near the last border, and the number below them; all scores where that band misses."""
        lows = [border - half for border, half in zip(self.borders, self._half_widths, strict=True)]
        highs = [border + half for border, half in zip(self.borders, self._half_widths, strict=True)]
        bands = zip(scores, lows, highs, strict=True)
        inside = [values[(values >= low) & (values <= high)] for values, low, high in bands]
        under = [int(torch.count_nonzero(values < low)) for values, low in zip(scores, lows, strict=True)]
        counts = self.totals([*under, *(values.numel() for values in inside)])
        below, within = counts[: len(scores)], counts[len(scores) :]
        # Where a band holds the border only its scores are searched; its width follows the share of scores inside.
        found, offsets = list(scores), [0] * len(scores)
        for index, (count, many) in enumerate(zip(below, within, strict=True)):
            if count < pruned[index] <= count + many:
                found[index], offsets[index] = inside[index], count
                self._half_widths[index] = adapted(self._half_widths[index], many / self._sizes[index])
        # A band that missed gets a new width, for the next selection.
        if missed := [index for index, one in enumerate(found) if one is scores[index]]:
            self._widen(scores, missed)
        return found, offsets

    def _widen(self, scores: Sequence[Tensor], missed: Sequence[int]) -> None:
        """Set the bands to a fixed share of the standard deviation, the same on all ranks."""
        sums = torch.stack([torch.stack([v.double().sum(), v.double().square().sum()]) for v in scores])
        dist.all_reduce(sums, group=self._ranks)
        for index in missed:
            mean, square = (float(value) / self._sizes[index] for value in sums[index])
            self._half_widths[index] = math.sqrt(max(0.0, square - mean**2)) * WIDE

    def _kth_smallest(self, values: Sequence[Tensor], ks: Sequence[int]) -> list[float]:
        """Return the exact k-th smallest value of each group over all ranks, k from 1; minus infinity for k = 0."""
        # A binary search over the bits of the floats: at most 32 rounds, each an all-reduce of one count per group.
        candidates = [_ordered(one) for one in values]
        lows, highs, below = [_LOWEST] * len(ks), [_HIGHEST] * len(ks), [0] * len(ks)
        while any(low < high for low, high in zip(lows, highs, strict=True)):
            middles = [(low + high) // 2 for low, high in zip(lows, highs, strict=True)]
            lower = [one <= middle for one, middle in zip(candidates, middles, strict=True)]
            counts = self.totals([int(torch.count_nonzero(one)) for one in lower])
            for index, count in enumerate(counts):
                if below[index] + count >= ks[index]:
                    highs[index] = middles[index]
                    candidates[index] = candidates[index][lower[index]]
                elif lows[index] < highs[index]:
                    lows[index] = middles[index] + 1
                    below[index] += count
                    candidates[index] = candidates[index][~lower[index]]
        return [_float_of(low) if k else -math.inf for low, k in zip(lows, ks, strict=True)]


def _ordered(values: Tensor) -> Tensor:
    """Map floats to int32 in the same order; both zeros become one number."""
    bits = (values + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & _HIGHEST)


def _float_of(number: int) -> float:
    bits = torch.tensor(number, dtype=torch.int64)
    bits = bits ^ ((bits >> 31) & _HIGHEST)
    return float(bits.to(torch.int32).view(torch.float32))
