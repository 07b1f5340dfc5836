"""Masks that follow trained scores from step to step, in one process or several: by a threshold, or inside groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from winning_tickets.config import Pattern
from winning_tickets.masking import MaskedWeights
from winning_tickets.selection import BandSelector, Ranking, groups_of, keep_in_groups
from winning_tickets.sharded_selection import SharedSelector

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
