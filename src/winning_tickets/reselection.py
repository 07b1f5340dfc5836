"""Masks that follow trained scores from step to step: by a threshold, or inside small groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

from winning_tickets.config import Pattern
from winning_tickets.masking import MaskedWeights
from winning_tickets.selection import BandSelector, Ranking, groups_of, keep_in_groups

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
        self._masked, self._flat, self._scores = masked, flat, scores
        self._ranking, self._rank_by, self._kept_at = ranking, rank_by, kept_at
        self._adjusted_always = adjusted_always
        self._selectors = self._make_selectors()
        self.thresholds = [phi] * len(self._selectors)

    def _make_selectors(self) -> list[tuple[Tensor, Tensor, Tensor, BandSelector]]:
        """For each group: its scores, its dense weights, its mask, its selector; flat, sharing memory."""
        made = []
        for group, count in zip(groups_of(tuple(self._scores), self._ranking), self._counts(), strict=True):
            if len(group) == 1:
                name = group[0]
                weights, mask = self._masked.dense_weights[name].view(-1), self._masked.masks[name].view(-1)
                made.append((self._scores[name], weights, mask, BandSelector(count)))
            else:
                weights = torch.cat([self._masked.dense_weights[name].view(-1) for name in group])
                made.append((self._flat, weights, torch.empty_like(self._flat, dtype=torch.bool), BandSelector(count)))
        return made

    def _counts(self) -> list[int]:
        """How many entries of each group the masks prune now, so that with untrained matrices the whole stays exact."""
        groups = groups_of(tuple(self._scores), self._ranking)
        masks = [[self._masked.masks[name] for name in group] for group in groups]
        return [sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in group) for group in masks]

    def take_counts(self) -> None:
        """From now on prune as many entries of each group as the masks do at present."""
        for (_, _, _, selector), count in zip(self._selectors, self._counts(), strict=True):
            selector.count = count

    def select(self, exact: bool) -> None:
        """Masks from scores: exactly the sparsity, or (between adjustments) what is beyond the last threshold."""
        for index, (scores, weights, mask, selector) in enumerate(self._selectors):
            keys = _keys(scores, self._rank_by)
            if exact:
                selector.select(keys, weights, mask)
                if not self._adjusted_always:
                    self.thresholds[index] = self._threshold_of(keys, mask, selector)
            else:
                mask.copy_(self._beyond(keys, self.thresholds[index]))
        if self._ranking == "global":
            mask = self._selectors[0][2]
            parts = torch.split(mask, [scores.numel() for scores in self._scores.values()])
            for name, part in zip(self._scores, parts, strict=True):
                self._masked.masks[name].view(-1).copy_(part)

    def start_at(self, phi: float) -> None:
        """Until the first adjustment the threshold is phi, where phi separates the scores as the masks do (TAMT eq. 5).

        On two plateaus it does; among scores on a dense scale the exact selection sets the first threshold.
        """
        for index, (scores, _, mask, _) in enumerate(self._selectors):
            if torch.equal(self._beyond(_keys(scores, self._rank_by), phi), mask):
                self.thresholds[index] = phi

    def _beyond(self, keys: Tensor, threshold: float) -> Tensor:
        return keys >= threshold if self._kept_at == "reached" else keys > threshold

    def _threshold_of(self, keys: Tensor, mask: Tensor, selector: BandSelector) -> float:
        """The threshold that an exact selection sets: the lowest kept value, or the highest pruned one."""
        if selector.count == 0:
            return -math.inf
        return float(keys[mask].min()) if self._kept_at == "reached" else float(selector.threshold or 0.0)


def _keys(scores: Tensor, rank_by: RankBy) -> Tensor:
    """What is ranked."""
    return scores.abs() if rank_by == "absolute" else scores
