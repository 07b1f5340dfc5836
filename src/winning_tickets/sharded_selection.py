"""`selection.keep_top` for entries that lie in several processes: nothing is gathered but counts.

Where the border lies is found by halving the range of the floats, seen as whole numbers of the same order: at most 32
counts, all groups at once, over ever fewer candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from winning_tickets.selection import WIDE, adapted

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


class SharedSelector:
    """Keeps the entries with the highest scores of each group, exactly as many as are left, tie for tie as `keep_top`.

    Args:
        parts: entries of each group that lie here, by matrix. A group's order is that of its matrices, and inside one
            that of the processes.
        processes: group of processes that hold the rest.
        device: of the scores.

    Attributes:
        borders: of each group, the highest score that is pruned; minus infinity before the first selection, and where
            nothing is pruned.
    """

    def __init__(self, parts: Sequence[Sequence[int]], processes: Any, device: torch.device) -> None:
        self._parts, self._processes, self._device = parts, processes, device
        self._sizes = self.totals([sum(part) for part in parts])
        self._half_widths = [0.0] * len(parts)
        self.borders = [-math.inf] * len(parts)

    def totals(self, counts: Sequence[int]) -> list[int]:
        """Sums of counts over all processes."""
        tensor = torch.tensor(counts, device=self._device)
        dist.all_reduce(tensor, group=self._processes)
        return [int(count) for count in tensor.tolist()]

    def lowest(self, values: Sequence[float]) -> list[float]:
        """The lowest of numbers over all processes."""
        tensor = torch.tensor(values, dtype=torch.float32, device=self._device)
        dist.all_reduce(tensor, dist.ReduceOp.MIN, group=self._processes)
        return [float(value) for value in tensor.tolist()]

    def select(self, scores: Sequence[Tensor], weights: Sequence[Tensor], pruned: Sequence[int]) -> list[Tensor]:
        """The masks of what lies here.

        Args:
            scores: float32 `(n,)` of each group.
            weights: of the same shapes; of equal scores the one with the larger absolute weight survives, then the
                one that comes first.
            pruned: entries that each group loses in all processes.

        Returns:
            Bool `(n,)`, True = kept.
        """
        candidates, below = self._near_borders(scores, pruned)
        left = [count - under for count, under in zip(pruned, below, strict=True)]
        self.borders = self._kth_smallest(candidates, left)
        kept, tied, missing = self._split(scores, self.borders, self._sizes, pruned)
        if any(missing):
            self._add_strongest(kept, tied, missing, weights)
        return kept

    def _split(
        self, values: Sequence[Tensor], borders: Sequence[float], sizes: Sequence[int], pruned: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor], list[int]]:
        """What is above the borders, what equals them, and how many of the latter survive."""
        above = [one > border for one, border in zip(values, borders, strict=True)]
        tied = [one == border for one, border in zip(values, borders, strict=True)]
        kept = self.totals([int(torch.count_nonzero(one)) for one in above])
        return above, tied, [size - gone - many for size, gone, many in zip(sizes, pruned, kept, strict=True)]

    def _add_strongest(
        self, kept: Sequence[Tensor], tied: Sequence[Tensor], missing: Sequence[int], weights: Sequence[Tensor]
    ) -> None:
        """Among the tied the largest weights survive; among equal ones of these, those that come first."""
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
        """So many of the places, in the order of the matrices and, inside one, of the processes."""
        own: list[list[int]] = []
        for place, part in zip(places, self._parts, strict=True):
            ends = torch.tensor(part).cumsum(0).to(place.device)
            own.append(torch.bincount(torch.bucketize(place, ends, right=True), minlength=len(part)).tolist())
        counts = torch.tensor([count for group in own for count in group], device=self._device)
        everyone = [torch.empty_like(counts) for _ in range(dist.get_world_size(self._processes))]
        dist.all_gather(everyone, counts, group=self._processes)
        by_process = torch.stack(everyone).cpu()
        rank, column = dist.get_rank(self._processes), 0
        for index, group in enumerate(own):
            table = by_process[:, column : column + len(group)]
            column += len(group)
            before = table.T.reshape(-1).cumsum(0).view(table.T.shape) - table.T  # of each matrix and process
            start = 0
            for matrix, count in enumerate(group):
                chosen = max(0, min(count, missing[index] - int(before[matrix, rank])))
                kept[index][places[index][start : start + chosen]] = True
                start += count

    def _near_borders(self, scores: Sequence[Tensor], pruned: Sequence[int]) -> tuple[list[Tensor], list[int]]:
        """The scores among which the border is, in a narrow band around the last one, and how many lie below them.

        Where the band misses it, all scores of the group.
        """
        lows = [border - half for border, half in zip(self.borders, self._half_widths, strict=True)]
        highs = [border + half for border, half in zip(self.borders, self._half_widths, strict=True)]
        bands = zip(scores, lows, highs, strict=True)
        inside = [values[(values >= low) & (values <= high)] for values, low, high in bands]
        under = [int(torch.count_nonzero(values < low)) for values, low in zip(scores, lows, strict=True)]
        counts = self.totals([*under, *(values.numel() for values in inside)])
        below, within = counts[: len(scores)], counts[len(scores) :]
        found, offsets = list(scores), [0] * len(scores)
        for index, (count, many) in enumerate(zip(below, within, strict=True)):
            if count < pruned[index] <= count + many:
                found[index], offsets[index] = inside[index], count
                self._half_widths[index] = adapted(self._half_widths[index], many / self._sizes[index])
        if missed := [index for index, one in enumerate(found) if one is scores[index]]:
            self._widen(scores, missed)
        return found, offsets

    def _widen(self, scores: Sequence[Tensor], missed: Sequence[int]) -> None:
        """Bands of a fixed share of the deviation, the same in all processes."""
        sums = torch.stack([torch.stack([v.double().sum(), v.double().square().sum()]) for v in scores])
        dist.all_reduce(sums, group=self._processes)
        for index in missed:
            mean, square = (float(value) / self._sizes[index] for value in sums[index])
            self._half_widths[index] = math.sqrt(max(0.0, square - mean**2)) * WIDE

    def _kth_smallest(self, values: Sequence[Tensor], ks: Sequence[int]) -> list[float]:
        """The k-th smallest of each group over all processes, k from 1, exactly; minus infinity for k = 0."""
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
    """Floats as int32 in the same order; both zeros are one number."""
    bits = (values + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & _HIGHEST)


def _float_of(number: int) -> float:
    bits = torch.tensor(number, dtype=torch.int64)
    bits = bits ^ ((bits >> 31) & _HIGHEST)
    return float(bits.to(torch.int32).view(torch.float32))
