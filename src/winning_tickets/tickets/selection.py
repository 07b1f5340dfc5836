"""Select masks by scores: exact counts, deterministic ties, per matrix, row, N:M group, or global.

Everything that prunes by a score goes through `keep_top` (once), `BandSelector` or `keep_in_groups` (every step of a
search), so that methods differ in their scores alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from winning_tickets.config import Pattern, check_sparsity

_INTEGERS = {4: torch.int32, 2: torch.int16, 8: torch.int64}
_CHUNK = 1 << 18  # entries masked at a time: the scratch stays in the processor's cache


def count_true(condition: Tensor) -> int:
    """Count the True entries; numpy is many times faster than `torch.count_nonzero` on a CPU."""
    if condition.device.type == "cpu":
        return int(np.count_nonzero(condition.numpy()))
    return int(torch.count_nonzero(condition))


def nonzero(condition: Tensor) -> Tensor:
    """Return the flat ascending indices of True; numpy is 3 times faster than `torch.nonzero` on a CPU."""
    if condition.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(condition.numpy()))
    return condition.reshape(-1).nonzero().reshape(-1)


def beyond(values: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
    """Return `values > threshold`, in `out` where given; numpy is several times faster than PyTorch on a CPU."""
    if not _fast(values):
        return torch.gt(values, threshold) if out is None else torch.gt(values, threshold, out=out)
    out = torch.empty(values.shape, dtype=torch.bool) if out is None else out
    np.greater(values.detach().numpy(), threshold, out=out.numpy())
    return out


def between(values: Tensor, low: float, high: float) -> tuple[int, Tensor]:
    """Return the number of values `(n,)` below `low`, and the ascending indices of those in [low, high]."""
    if not _fast(values):
        return count_true(values < low), nonzero((values >= low) & (values <= high))
    # Chunks that stay in the processor's cache are read once for both answers.
    everything = values.detach().numpy()
    size = min(_CHUNK, len(everything))
    under, upto = np.empty(size, np.bool_), np.empty(size, np.bool_)
    below, inside = 0, []
    for start in range(0, len(everything), _CHUNK):
        part = everything[start : start + _CHUNK]
        np.less(part, low, out=under[: len(part)])
        np.less_equal(part, high, out=upto[: len(part)])
        below += int(np.count_nonzero(under[: len(part)]))
        np.greater(upto, under, out=upto)  # not below, and not above
        found = np.flatnonzero(upto[: len(part)])
        if len(found):
            inside.append(found + start)
    return below, torch.from_numpy(np.concatenate(inside) if inside else np.empty(0, np.int64))


def _fast(values: Tensor) -> bool:
    """Return whether numpy can compute with the values: on a CPU, and not bfloat16."""
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)


def write_masked_(target: Tensor, dense: Tensor, mask: Tensor) -> None:
    """Write `dense` where the mask is True and +0.0 elsewhere into `target`, in place; `target` may be `dense` itself.

    On a CPU it ANDs the bits of the floats with 0 or -1, which is several times faster than a bool multiply or `where`,
    gives +0.0 for negative weights and also removes inf and NaN.
    """
    if target.device.type != "cpu" or not (target.is_contiguous() and dense.is_contiguous() and mask.is_contiguous()):
        target.detach().copy_(
            torch.where(mask, dense.detach(), torch.zeros((), dtype=dense.dtype, device=dense.device))
        )
        return
    kind = _INTEGERS[target.element_size()]
    to, source, keep = target.detach().view(-1).view(kind), dense.detach().view(-1).view(kind), mask.view(-1)
    scratch = torch.empty(min(_CHUNK, keep.numel()), dtype=kind, device=target.device)
    for start in range(0, keep.numel(), _CHUNK):
        stop = min(start + _CHUNK, keep.numel())
        bits = scratch[: stop - start].copy_(keep[start:stop]).neg_()
        torch.bitwise_and(source[start:stop], bits, out=to[start:stop])


Ranking = Literal["matrix", "row", "global"]
Rounding = Literal["floor", "nearest"]

RANKINGS: tuple[Ranking, ...] = ("matrix", "row", "global")


def pruned_count(entries: int, sparsity: float, rounding: Rounding = "floor") -> int:
    """Return the number of removed weights among `entries`: floor(s * n), or the nearest (ties to even)."""
    exact = check_sparsity(sparsity) * entries
    return int(exact) if rounding == "floor" else round(exact)


def groups_of(names: Sequence[str], ranking: Ranking) -> list[tuple[str, ...]]:
    """Return the groups of matrices between which weights compete: each alone (or its rows), or all together."""
    return [tuple(names)] if ranking == "global" else [(name,) for name in names]


def keep_top(
    scores: Mapping[str, Tensor],
    sparsity: float,
    ranking: Ranking = "matrix",
    weights: Mapping[str, Tensor] | None = None,
    rounding: Rounding = "floor",
    pattern: Pattern | None = None,
) -> dict[str, Tensor]:
    """Keep the entries with the highest scores, exactly as many as the sparsity leaves in each group.

    Args:
        scores: one float tensor of any shape for each name.
        sparsity: fraction removed of each group, in [0, 1).
        ranking: `matrix` ranks inside each tensor, `row` inside each row of it, `global` over all of them together.
        weights: of entries with equal scores the one with the larger absolute weight survives, then the one with the
            lower index (in the order of `scores` for `global`).
        rounding: how a fractional count is rounded.
        pattern: N:M; keeps N of every M consecutive entries of the last dimension, whatever the other settings are.

    Returns:
        Bool tensors of the same shapes, True = kept.
    """
    masks: dict[str, Tensor] = {}
    # Rows and N:M groups are consecutive entries of one size, selected all at once.
    if pattern is not None or ranking == "row":
        if pattern is not None:
            pattern.check_shapes({name: values.shape for name, values in scores.items()})
        for name, values in scores.items():
            size = values.shape[-1] if pattern is None else pattern.of
            left = size - pruned_count(size, sparsity, rounding) if pattern is None else pattern.keep
            ties = None if weights is None else weights[name].detach().reshape(-1, size)
            masks[name] = keep_in_groups(values.detach().reshape(-1, size), left, ties).view(values.shape)
        return masks
    for group in groups_of(tuple(scores), ranking):
        joined = _join(scores, group)
        ties = None if weights is None else _join(weights, group)
        kept = _keep_flat(joined, pruned_count(joined.numel(), sparsity, rounding), ties)
        for name, part in zip(group, torch.split(kept, [scores[name].numel() for name in group]), strict=True):
            masks[name] = (part if len(group) == 1 else part.clone()).reshape(scores[name].shape)
    return masks


def _join(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return the entries of tensors in one flat tensor; a single one is not copied."""
    parts = [tensors[name].detach().reshape(-1) for name in names]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def keep_counts(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """Keep the given number of highest scores of each tensor; of equal scores the one with the lower index survives."""
    return {
        name: _keep_flat(values.detach().reshape(-1), values.numel() - counts[name], None).reshape(values.shape)
        for name, values in scores.items()
    }


def _keep_flat(scores: Tensor, count: int, weights: Tensor | None) -> Tensor:
    """Return the mask of a flat group with `count` entries pruned."""
    if count == 0:
        return torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    threshold = kth_smallest(scores, count)
    kept = beyond(scores, threshold)
    missing = scores.numel() - count - count_true(kept)
    if missing:
        _, tied = between(scores, threshold, threshold)
        kept[tied[_strongest(weights, tied, missing)]] = True
    return kept


def _strongest(weights: Tensor | None, tied: Tensor, count: int) -> Tensor:
    """Return the positions inside `tied` (ascending indices) of the `count` entries that survive a tie."""
    if weights is None:
        return torch.arange(count, device=tied.device)
    sizes = weights[tied].abs().nan_to_num_(nan=math.inf, posinf=math.inf)
    return nonzero(_keep_flat(sizes, sizes.numel() - count, None))


def kth_smallest(values: Tensor, k: int) -> float:
    """Return the exact k-th smallest of values `(n,)`, k from 1 to n."""
    exact = values.float() if values.element_size() < 4 else values  # numpy has no bfloat16
    if values.device.type != "cpu":
        return float(exact.kthvalue(k).values)
    # numpy's partition is 12 times faster than `kthvalue` on a CPU, and faster still on the values that a sample names.
    if len(exact) >= _MANY:
        low, high = _bracket(exact.numpy(), k)
        below, inside = between(exact, low, high)
        if below < k <= below + len(inside):
            return low if low == high else float(np.partition(exact[inside].numpy(), k - below - 1)[k - below - 1])
    return float(np.partition(exact.numpy(), k - 1)[k - 1])


_MANY = 1 << 20  # values among which looking at a sample first is worth while
_SAMPLE = 1 << 16
_MARGIN = 0.01  # of all values on either side: five standard deviations of the rank that a sample of that size gives


def _bracket(values: np.ndarray[Any, Any], k: int) -> tuple[float, float]:
    """Return two values between which the k-th smallest very probably is; they are values of a sample, as ties need."""
    sample = values[:: len(values) // _SAMPLE]
    share = k / len(values)
    places = [int(min(max(edge, 0.0), 1.0) * (len(sample) - 1)) for edge in (share - _MARGIN, share + _MARGIN)]
    low, high = np.partition(sample, places)[places].tolist()
    # Beyond the ends of the sample there may be more.
    return (low if places[0] else -math.inf), (high if places[1] < len(sample) - 1 else math.inf)


def keep_in_groups(scores: Tensor, keep: int, weights: Tensor | None = None) -> Tensor:
    """Keep the `keep` highest scores of each row `(groups, size)`; of equal ones the larger weight, then the first."""
    size = scores.shape[1]
    if keep == size:
        return torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    return (_keep_by_wins if size <= _SMALL_GROUP else _keep_by_threshold)(scores, keep, weights)


_SMALL_GROUP = 4  # entries up to which comparing each with each costs less than a partition
_AT_A_TIME = 1 << 17  # entries of small groups compared at a time on a CPU: they stay in its cache


def _keep_by_wins(scores: Tensor, keep: int, weights: Tensor | None) -> Tensor:
    """An entry survives when fewer than `keep` of its group beat it: no sorting, whole columns at once."""
    groups, size = scores.shape
    kept = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    step = max(1, _AT_A_TIME // size) if scores.device.type == "cpu" else groups
    for start in range(0, groups, step):
        part = slice(start, start + step)
        columns = scores[part].t().contiguous()
        # Start as if every later entry had won, so that each pair is compared once.
        beaten = torch.arange(size - 1, -1, -1, dtype=torch.uint8, device=scores.device)[:, None]
        beaten = beaten.repeat(1, columns.shape[1])
        for index in range(size - 1):
            wins = columns[index] >= columns[index + 1 :]
            if weights is not None:
                tied = columns[index] == columns[index + 1 :]
                if tied.any():
                    sizes = weights[part].t().abs()
                    wins &= ~(tied & (sizes[index] < sizes[index + 1 :]))
            beaten[index + 1 :] += wins.view(torch.uint8)
            beaten[index] -= wins.view(torch.uint8).sum(0, dtype=torch.uint8)
        kept[part] = (beaten < keep).t()
    return kept


def _keep_by_threshold(scores: Tensor, keep: int, weights: Tensor | None) -> Tensor:
    """Keep the entries above each group's own threshold; sort only groups where a tie leaves a choice."""
    pruned = scores.shape[1] - keep
    exact = scores.float() if scores.element_size() < 4 else scores  # numpy has no bfloat16
    if scores.device.type == "cpu":
        threshold = torch.from_numpy(np.partition(exact.numpy(), pruned - 1, axis=1)[:, pruned - 1 : pruned])
    else:
        threshold = exact.kthvalue(pruned, dim=1, keepdim=True).values
    # Entries at the threshold fill the missing places; where there are more of them than places, the weights decide.
    kept = exact > threshold
    missing = keep - kept.sum(1, keepdim=True)
    tied = exact == threshold
    undecided = ((missing > 0) & (tied.sum(1, keepdim=True) > missing)).reshape(-1).nonzero().reshape(-1)
    kept |= tied & (missing > 0)
    if undecided.numel():
        kept[undecided] = _keep_sorted(exact[undecided], keep, None if weights is None else weights[undecided])
    return kept


def _keep_sorted(scores: Tensor, keep: int, weights: Tensor | None) -> Tensor:
    order = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape)
    if weights is not None:
        order = torch.argsort(weights.abs(), dim=1, descending=True, stable=True)
    by_score = torch.argsort(scores.gather(1, order), dim=1, descending=True, stable=True)
    best = order.gather(1, by_score[:, :keep])
    return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device).scatter_(1, best, True)


_NARROW, WIDE = 0.002, 0.02
"""Shares of a group that a band around the last threshold should hold: enough to hit, few enough to be cheap."""


def adapted(half_width: float, share: float) -> float:
    """Return the half width of a band for the next selection, by the share of the group inside the present one."""
    if share > WIDE:
        return half_width / 2
    return half_width * 2 if share < _NARROW else half_width


class BandSelector:
    """Exact selection for scores that move a little every step: the masks of `keep_top`, tie for tie.

    The last threshold is nearly right, so the exact one is searched among the few entries in a narrow band around it.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.threshold: float | None = None
        self._half_width = 0.0

    def select(self, scores: Tensor, weights: Tensor, out: Tensor) -> None:
        """Write the mask of a flat group, all `(n,)`: among equal scores the larger absolute weight survives."""
        if self.count == 0:
            out.fill_(True)
            return
        tied, missing = self._locate(scores)
        threshold = self.threshold
        assert threshold is not None
        beyond(scores, threshold, out)
        if missing:
            out[tied[_strongest(weights, tied, missing)]] = True

    def _locate(self, scores: Tensor) -> tuple[Tensor, int]:
        """Set the threshold; return the indices that equal it and how many of them survive."""
        # Where the band holds the border, only its entries are searched, and its width is adapted for the next step.
        if self.threshold is not None:
            low, high = self.threshold - self._half_width, self.threshold + self._half_width
            below, inside = between(scores, low, high)
            if below < self.count <= below + inside.numel():
                values = scores[inside]
                self._half_width = adapted(self._half_width, inside.numel() / scores.numel())
                return self._finish(values, inside, below)
        # The band missed (or there is none yet): search all, and start from a share of the standard deviation.
        self._half_width = float(scores.std(correction=0)) * WIDE
        return self._finish(scores, None, 0)

    def _finish(self, values: Tensor, indices: Tensor | None, below: int) -> tuple[Tensor, int]:
        self.threshold = kth_smallest(values, self.count - below)
        under, tied = between(values, self.threshold, self.threshold)
        survivors = below + under + tied.numel() - self.count
        return (tied if indices is None else indices[tied]), survivors
