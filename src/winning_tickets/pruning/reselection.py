"""Masks that follow trained scores from step to step, in one process or several: by a threshold, or inside groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from winning_tickets.config import Pattern
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.selection import WIDE, BandSelector, Ranking, adapted, groups_of, keep_in_groups

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


RankBy = Literal["signed", "absolute"]


class Reselection(Protocol):
    """How masks arise from the present scores; chosen once for a search.

    Attributes:
        thresholds: what is kept between adjustments is beyond these; part of the state of a search.
    """

    thresholds: list[float]

    def take_counts(self) -> None:
        """From now on prune as many entries as the masks do at present."""

    def select(self, exact: bool) -> None:
        """Overwrite the masks: with exact counts, or (where there are thresholds) what is beyond the last ones."""

    def start_at(self, phi: float) -> None:
        """Let thresholds be phi until the first adjustment, where that leaves the masks as they are."""


class ByGroups:
    """Exact counts inside each row, or inside each M consecutive entries of it, at every step.

    Args:
        masked: its masks are overwritten; every group of a matrix keeps as many entries as its first one does now.
        scores: flat, by name of the matrix.
        pattern: its M is the size of a group; None means whole rows.
        rank_by: scores are ranked with their sign or without.
    """

    def __init__(
        self, masked: MaskedWeights, scores: Mapping[str, Tensor], pattern: Pattern | None, rank_by: RankBy
    ) -> None:
        self.thresholds: list[float] = []
        self._rank_by = rank_by
        self._groups: list[tuple[Tensor, Tensor, Tensor]] = []
        for name, values in scores.items():
            size = masked.masks[name].shape[-1] if pattern is None else pattern.of
            weights, mask = masked.dense_weights[name].view(-1, size), masked.masks[name].view(-1, size)
            self._groups.append((values.view(-1, size), weights, mask))
        self.take_counts()

    def take_counts(self) -> None:
        """From now on keep as many entries of each group as the masks do at present."""
        self._kept = [int(torch.count_nonzero(mask[0])) for _, _, mask in self._groups]

    def select(self, exact: bool) -> None:
        """Masks with exact counts."""
        for (scores, weights, mask), kept in zip(self._groups, self._kept, strict=True):
            mask.copy_(keep_in_groups(_keys(scores, self._rank_by), kept, weights))

    def start_at(self, phi: float) -> None:
        """There is no threshold to set."""


class ByThreshold:
    """Exact counts of each matrix, or of all together; between adjustments what is beyond the last threshold.

    Args:
        masked: its masks are overwritten; they say how many entries are pruned.
        flat: the scores of all matrices in one buffer, so that a group that spans them is selected without copies.
        scores: views of it by name of the matrix.
        ranking: groups inside which weights compete.
        rank_by: scores are ranked with their sign or without.
        kept_at: between adjustments an entry is kept that `reached` the threshold or `exceeded` it.
        phi: the initial threshold.
        adjusted_always: masks are never asked for between adjustments, so that thresholds need no keeping.
    """

    def __init__(
        self,
        masked: MaskedWeights,
        flat: Tensor,
        scores: Mapping[str, Tensor],
        *,
        ranking: Ranking,
        rank_by: RankBy,
        kept_at: Literal["reached", "exceeded"],
        phi: float,
        adjusted_always: bool,
    ) -> None:
        self._masked, self._scores = masked, scores
        self._ranking, self._rank_by, self._kept_at = ranking, rank_by, kept_at
        self._adjusted_always = adjusted_always
        self._groups = self._make_groups(flat)
        self._selectors = [BandSelector(0) for _ in self._groups]
        self.thresholds = [phi] * len(self._groups)
        self.take_counts()

    def _make_groups(self, flat: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each group: its scores, its dense weights, its mask; flat, sharing memory."""
        made = []
        for group in groups_of(tuple(self._scores), self._ranking):
            if len(group) == 1:
                name = group[0]
                weights, mask = self._masked.dense_weights[name].view(-1), self._masked.masks[name].view(-1)
                made.append((self._scores[name], weights, mask))
            else:
                weights = torch.cat([self._masked.dense_weights[name].view(-1) for name in group])
                made.append((flat, weights, torch.empty_like(flat, dtype=torch.bool)))
        return made

    def take_counts(self) -> None:
        """From now on prune as many entries of each group as the masks do at present."""
        # Not of the whole, so that with untrained matrices it stays exact.
        groups = groups_of(tuple(self._scores), self._ranking)
        masks = [[self._masked.masks[name] for name in group] for group in groups]
        counts = [sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in group) for group in masks]
        self._pruned = self._totals(counts)

    def _totals(self, counts: list[int]) -> list[int]:
        """Numbers of all entries from those that are here."""
        return counts

    def select(self, exact: bool) -> None:
        """Masks from scores: exactly the sparsity, or (between adjustments) what is beyond the last threshold."""
        if exact:
            self._select_exactly()
        else:
            for (scores, _, mask), threshold in zip(self._groups, self.thresholds, strict=True):
                mask.copy_(self._beyond(_keys(scores, self._rank_by), threshold))
        if self._ranking == "global":
            mask = self._groups[0][2]
            parts = torch.split(mask, [scores.numel() for scores in self._scores.values()])
            for name, part in zip(self._scores, parts, strict=True):
                self._masked.masks[name].view(-1).copy_(part)

    def _select_exactly(self) -> None:
        """Masks of the groups, one after the other, and the thresholds that they set."""
        for index, ((scores, weights, mask), selector) in enumerate(zip(self._groups, self._selectors, strict=True)):
            keys, selector.count = _keys(scores, self._rank_by), self._pruned[index]
            selector.select(keys, weights, mask)
            if not self._adjusted_always:
                self.thresholds[index] = self._threshold_of(index, keys, mask, selector.threshold)

    def start_at(self, phi: float) -> None:
        """Until the first adjustment the threshold is phi, where phi separates the scores as the masks do (TAMT eq. 5).

        On two plateaus it does; among scores on a dense scale the exact selection sets the first threshold.
        """
        groups = [(self._beyond(_keys(scores, self._rank_by), phi), mask) for scores, _, mask in self._groups]
        for index, wrong in enumerate(self._totals([int(not torch.equal(*pair)) for pair in groups])):
            if not wrong:
                self.thresholds[index] = phi

    def _beyond(self, keys: Tensor, threshold: float) -> Tensor:
        return keys >= threshold if self._kept_at == "reached" else keys > threshold

    def _threshold_of(self, index: int, keys: Tensor, mask: Tensor, border: float | None) -> float:
        """The threshold that an exact selection of a group sets: the lowest kept value, or the highest pruned one."""
        if self._pruned[index] == 0:
            return -math.inf
        if self._kept_at == "exceeded":
            assert border is not None
            return border
        kept = keys[mask]
        return float(kept.min()) if kept.numel() else math.inf


class ByShards(ByThreshold):
    """`ByThreshold` over matrices of which several processes hold the rows.

    Args:
        masked: as there, of the rows here.
        flat: the scores here.
        scores: views of it by name of the matrix.
        processes: group of processes that share the matrices.
        how: as there.
    """

    def __init__(
        self, masked: MaskedWeights, flat: Tensor, scores: Mapping[str, Tensor], processes: Any, **how: Any
    ) -> None:
        groups = groups_of(tuple(scores), how["ranking"])
        parts = [[scores[name].numel() for name in group] for group in groups]
        self._selector = SharedSelector(parts, processes, flat.device)
        super().__init__(masked, flat, scores, **how)

    def _totals(self, counts: list[int]) -> list[int]:
        return self._selector.totals(counts)

    def _select_exactly(self) -> None:
        """Masks of all groups at once, and the thresholds that they set."""
        keys = [_keys(scores, self._rank_by) for scores, _, _ in self._groups]
        kept = self._selector.select(keys, [weights for _, weights, _ in self._groups], self._pruned)
        for (_, _, mask), one in zip(self._groups, kept, strict=True):
            mask.copy_(one)
        if not self._adjusted_always:
            found = zip(keys, kept, self._selector.borders, strict=True)
            self.thresholds = self._selector.lowest([self._threshold_of(i, *one) for i, one in enumerate(found)])


def _keys(scores: Tensor, rank_by: RankBy) -> Tensor:
    """What is ranked."""
    return scores.abs() if rank_by == "absolute" else scores
