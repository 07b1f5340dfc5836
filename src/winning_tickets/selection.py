"""From scores to masks: exact counts, deterministic ties, per matrix or global.

Everything that prunes by a score goes through `keep_top` (once) or `BandSelector` (every step of a search), so that
methods can only differ in how their scores arise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from winning_tickets.config import check_sparsity

Ranking = Literal["matrix", "global"]
Rounding = Literal["floor", "nearest"]

RANKINGS: tuple[Ranking, ...] = ("matrix", "global")


def pruned_count(entries: int, sparsity: float, rounding: Rounding = "floor") -> int:
    """How many of `entries` weights are removed: floor(s * n), or the nearest (ties to even)."""
    exact = check_sparsity(sparsity) * entries
    return int(exact) if rounding == "floor" else round(exact)


def groups_of(names: Sequence[str], ranking: Ranking) -> list[tuple[str, ...]]:
    """The groups of matrices inside which weights compete: each matrix alone, or all of them together."""
    return [tuple(names)] if ranking == "global" else [(name,) for name in names]


def keep_top(
    scores: Mapping[str, Tensor],
    sparsity: float,
    ranking: Ranking = "matrix",
    weights: Mapping[str, Tensor] | None = None,
    rounding: Rounding = "floor",
) -> dict[str, Tensor]:
    """Keep the entries with the highest scores, exactly as many as the sparsity leaves in each group.

    Args:
        scores: one float tensor of any shape for each name.
        sparsity: fraction removed of each group, in [0, 1).
        ranking: `matrix` ranks inside each tensor, `global` over all of them together.
        weights: of entries with equal scores the one with the larger absolute weight survives, then the one with the
            lower index (in the order of `scores` for `global`).
        rounding: how a fractional count is rounded.

    Returns:
        Bool tensors of the same shapes, True = kept.
    """
    masks: dict[str, Tensor] = {}
    for group in groups_of(tuple(scores), ranking):
        flat = [scores[name].detach().reshape(-1) for name in group]
        joined = torch.cat(flat)
        ties = None if weights is None else torch.cat([weights[name].detach().reshape(-1) for name in group])
        kept = _keep_flat(joined, pruned_count(joined.numel(), sparsity, rounding), ties)
        for name, part in zip(group, torch.split(kept, [f.numel() for f in flat]), strict=True):
            masks[name] = part.reshape(scores[name].shape).clone()
    return masks


def _keep_flat(scores: Tensor, count: int, weights: Tensor | None) -> Tensor:
    """Mask of a flat group with `count` entries pruned."""
    if count == 0:
        return torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    threshold = kth_smallest(scores, count)
    kept = scores > threshold
    missing = scores.numel() - count - int(torch.count_nonzero(kept))
    if missing:
        tied = nonzero(scores == threshold)
        kept[tied[_strongest(weights, tied, missing)]] = True
    return kept


def _strongest(weights: Tensor | None, tied: Tensor, count: int) -> Tensor:
    """Positions inside `tied` (ascending indices) of the `count` entries that survive a tie."""
    if weights is None:
        return torch.arange(count, device=tied.device)
    return torch.argsort(weights[tied].abs(), descending=True, stable=True)[:count]


def kth_smallest(values: Tensor, k: int) -> float:
    """The k-th smallest value (k from 1), exactly; numpy's vectorised partition is 12 times `kthvalue` on a CPU."""
    exact = values.float() if values.element_size() < 4 else values  # numpy has no bfloat16
    if values.device.type == "cpu":
        return float(np.partition(exact.numpy(), k - 1)[k - 1])
    return float(exact.kthvalue(k).values)


def nonzero(condition: Tensor) -> Tensor:
    """Flat ascending indices of True; numpy is 3 times faster than `torch.nonzero` on a CPU."""
    if condition.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(condition.numpy()))
    return condition.reshape(-1).nonzero().reshape(-1)


class BandSelector:
    """Exact selection for scores that move a little every step.

    The last threshold is nearly right, so the entries below a narrow band around it are only counted, and the exact
    value is looked for among the few inside. Where the band misses, the whole group is searched. The masks are those
    of `keep_top`, tie for tie.

    Args:
        count: entries pruned of the group.
    """

    _NARROW, _WIDE = (
        0.002,
        0.02,
    )  # fractions of a group that a band should hold: enough to hit, few enough to be cheap

    def __init__(self, count: int) -> None:
        self.count = count
        self.threshold: float | None = None
        self._half_width = 0.0

    def select(self, scores: Tensor, weights: Tensor, out: Tensor) -> None:
        """Write the mask of a flat group.

        Args:
            scores: `(n,)` float32.
            weights: `(n,)`, the larger absolute weight survives among equal scores.
            out: `(n,)` bool, overwritten.
        """
        if self.count == 0:
            out.fill_(True)
            return
        tied, missing = self._locate(scores)
        threshold = self.threshold
        assert threshold is not None
        torch.gt(scores, threshold, out=out)
        if missing:
            out[tied[_strongest(weights, tied, missing)]] = True

    def _locate(self, scores: Tensor) -> tuple[Tensor, int]:
        """Set the threshold; return the indices that equal it and how many of them survive."""
        if self.threshold is not None:
            low, high = self.threshold - self._half_width, self.threshold + self._half_width
            below = int(torch.count_nonzero(scores < low))
            inside = nonzero((scores >= low) & (scores <= high))
            if below < self.count <= below + inside.numel():
                values = scores[inside]
                self._adapt(inside.numel() / scores.numel())
                return self._finish(values, inside, below)
        self._half_width = float(scores.std(correction=0)) * self._WIDE
        return self._finish(scores, None, 0)

    def _finish(self, values: Tensor, indices: Tensor | None, below: int) -> tuple[Tensor, int]:
        self.threshold = kth_smallest(values, self.count - below)
        tied = nonzero(values == self.threshold)
        under = below + int(torch.count_nonzero(values < self.threshold))
        survivors = under + tied.numel() - self.count
        return (tied if indices is None else indices[tied]), survivors

    def _adapt(self, share: float) -> None:
        if share > self._WIDE:
            self._half_width /= 2
        elif share < self._NARROW:
            self._half_width *= 2
