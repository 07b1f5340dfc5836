"""Select masks by scores: exact counts, deterministic ties, per matrix, row, N:M group, or global.

Everything that prunes by a score uses a `Selector`: `keep_top` once, mask training at every step. Methods differ only
in their scores. The order is always the same: higher score, then larger absolute weight, then lower index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from winning_tickets.config import Pattern, check_sparsity
from winning_tickets.runs.errors import ContentError

_INTEGERS = {4: torch.int32, 2: torch.int16, 8: torch.int64}
_CHUNK = 1 << 18  # entries handled at a time on a CPU: the scratch stays in the processor's cache


def count_true(condition: Tensor) -> int:
    """Count the True entries; numpy is many times faster than `torch.count_nonzero` on a CPU."""
    if condition.device.type == "cpu":
        return int(np.count_nonzero(condition.numpy()))
    return int(torch.count_nonzero(condition))


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


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors with NaN or infinity, which cannot be ranked; finite tensors cost one device-to-host read."""
    # A sum is the fastest check. The sum of finite values can overflow too, so a second pass decides.
    sums = [
        tensor.detach().sum(dtype=torch.float32 if tensor.element_size() < 4 else None) for tensor in tensors.values()
    ]
    if not sums or bool(torch.stack([one.double() for one in sums]).isfinite().all()):
        return
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ContentError(
                f"The {what} of {name} contain NaN or infinity, which cannot be ranked; check the model and the data "
                "that they come from."
            )


class Computed(Mapping[str, Tensor]):
    """Tensors by name that are computed whenever they are read, so that they are never all in memory at once."""

    def __init__(self, names: Iterable[str], compute: Callable[[str], Tensor]) -> None:
        self._names, self._compute = tuple(names), compute

    def __getitem__(self, name: str) -> Tensor:
        return self._compute(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def magnitudes(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the absolute weights by name."""
    return Computed(weights, lambda name: weights[name].abs())


Ranking = Literal["matrix", "row", "global"]
Rounding = Literal["floor", "nearest"]

RANKINGS: tuple[Ranking, ...] = ("matrix", "row", "global")


def pruned_count(entries: int, sparsity: float, rounding: Rounding = "floor") -> int:
    """Return the number of removed weights among `entries`: floor(s * n), or the nearest (ties to even)."""
    exact = check_sparsity(sparsity) * entries
    return int(exact) if rounding == "floor" else round(exact)


def groups_of(names: Sequence[str], ranking: Ranking) -> list[tuple[str, ...]]:
    """Return the groups of matrices that are ranked together: each matrix alone (also for `row`), or all of them."""
    return [tuple(names)] if ranking == "global" else [(name,) for name in names]


def keep_top(
    scores: Mapping[str, Tensor],
    sparsity: float,
    ranking: Ranking = "matrix",
    weights: Mapping[str, Tensor] | None = None,
    *,
    rounding: Rounding = "floor",
    pattern: Pattern | None = None,
) -> dict[str, Tensor]:
    """Keep the entries with the highest scores, exactly as many as the sparsity leaves in each group.

    Args:
        scores: one float tensor of any shape for each name.
        sparsity: fraction removed of each group, in [0, 1).
        ranking: `matrix` ranks inside each tensor, `row` inside each row of it, `global` over all of them together.
        weights: tensors that break ties, on the device of the scores: of entries with equal scores, the one with the
            larger absolute weight survives, then the one with the lower index (in the order of `scores` for `global`).
        rounding: how a fractional count is rounded.
        pattern: N:M; keeps N of every M consecutive entries of the last dimension, whatever the other settings are.

    Returns:
        Bool tensors of the same shapes, True = kept.

    Raises:
        ContentError: a score or weight is NaN or infinite.
    """
    check_finite(scores, "scores")
    check_finite(weights or {}, "weights")
    if pattern is not None:
        pattern.check_shapes({name: values.shape for name, values in scores.items()})
    masks: dict[str, Tensor] = {}
    for group in groups_of(tuple(scores), "matrix" if pattern is not None else ranking):
        joined, shapes = _join(scores, group)
        # Rows and N:M groups are consecutive entries of one size.
        size = joined.numel()
        if pattern is not None:
            size = pattern.of
        elif ranking == "row":
            size = shapes[0][-1]
        kept = size - pruned_count(size, sparsity, rounding) if pattern is None else pattern.keep
        ties = None if weights is None else _join(weights, group)[0]
        found = Selector([Block(joined.numel() // size, size, kept)]).select(joined, ties)
        for name, shape, part in zip(group, shapes, torch.split(found, [one.numel() for one in shapes]), strict=True):
            masks[name] = (part if len(group) == 1 else part.clone()).reshape(shape)
    return masks


def keep_counts(
    scores: Mapping[str, Tensor], counts: Mapping[str, int], weights: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Keep the given number of highest scores of each tensor; ties are broken as in `keep_top`."""
    check_finite(scores, "scores")
    masks = {}
    for name, count in counts.items():
        flat, (shape,) = _join(scores, [name])
        ties = None if weights is None else _join(weights, [name])[0]
        masks[name] = Selector([Block(1, flat.numel(), count)]).select(flat, ties).reshape(shape)
    return masks


def _join(tensors: Mapping[str, Tensor], names: Sequence[str]) -> tuple[Tensor, list[torch.Size]]:
    """Return tensors joined into one flat tensor of at least 32 bits per entry, and their shapes."""
    parts = [tensors[name].detach() for name in names]
    joined = parts[0].reshape(-1) if len(parts) == 1 else torch.cat([part.reshape(-1) for part in parts])
    return wide(joined), [part.shape for part in parts]


def wide(values: Tensor) -> Tensor:
    """Return values with at least 32 bits each, as the selection needs them."""
    return values.float() if values.element_size() < 4 else values  # numpy has no bfloat16


@dataclass(frozen=True)
class Block:
    """Groups of one size, one after the other in a flat buffer."""

    groups: int
    size: int  # entries of each group
    kept: int | tuple[int, ...]  # entries to keep: one number for all groups, or one for each


class Ranks:
    """The processes among which the entries of every group are divided; this class is for one process with all."""

    def totals(self, counts: Tensor) -> Tensor:
        """Return counts `(n,)` summed over the processes."""
        return counts

    def join(self, rows: Tensor) -> Tensor:
        """Return the rows `(n, ...)` of all processes, one after the other."""
        return rows

    def gather(
        self, places: Tensor, scores: Tensor, ties: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor | None], Tensor | None]:
        """Return the entries of all processes, ordered by group and index, and the positions of this process's entries.

        `places` are the indices of the given entries in this process's buffer. Positions of None mean that all entries
        are this process's, in the order given.
        """
        return (scores, ties), None


_SAMPLE = 1 << 16  # largest group whose scores are all looked at; larger groups are sampled
_ONE_OF = 64  # at least one of so many scores of a group is in its sample
_NARROW, _WIDE = 0.0005, 0.004  # share of a group that its band should hold: wide enough to hit, cheap to sort
_SMALL = 32  # largest group in which comparing all pairs costs less than finding a threshold

Array = np.ndarray[Any, Any]


@dataclass(eq=False)
class _Part:
    """A block, its place in the buffer, and the place of its groups among those of all parts."""

    block: Block
    place: slice
    span: slice

    def of(self, flat: Tensor) -> Tensor:
        """Return the entries of the block `(groups, size)`."""
        return flat[self.place].view(self.block.groups, self.block.size)


class Selector:
    """Keeps the entries with the highest scores of each of many groups: all groups at once, on any device.

    Each group has a band of scores around its last threshold, or around one that is estimated from a sample. Entries
    above the band are kept and entries below it are pruned; only those inside it are ranked. If the scores have changed
    little since the last selection, the next one takes a single pass over them; on a GPU it takes a few dozen kernel
    launches and one device-to-host read, however many groups there are.

    Args:
        blocks: the groups, in the order of the buffer.
        ranks: the processes among which the entries of every group are divided; `kept` of the blocks then counts the
            entries of all processes, and `size` those of this one.
    """

    def __init__(self, blocks: Sequence[Block], ranks: Ranks | None = None) -> None:
        self._ranks = ranks or Ranks()
        self._small: list[_Part] = []
        self._large: list[_Part] = []
        start = group = 0
        for block in blocks:
            end = start + block.groups * block.size
            part = _Part(block, slice(start, end), slice(group, group + block.groups))
            start = end
            if ranks is None and block.size <= _SMALL and isinstance(block.kept, int):
                self._small.append(part)
            else:
                self._large.append(part)
                group = part.span.stop
        self._kept, self._sizes = np.zeros((2, group), np.int64)
        for part in self._large:
            self._kept[part.span], self._sizes[part.span] = part.block.kept, part.block.size
        if self._large:
            self._sizes = self._ranks.totals(torch.from_numpy(self._sizes)).cpu().numpy()
        self._bands: tuple[Tensor, Tensor] | None = None  # for the next selection

    @torch.no_grad()
    def select(self, scores: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mask `(n,)` of a buffer of scores; ties go to the larger absolute weight."""
        mask = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
        for part in self._small:
            _keep_by_wins(part, scores, weights, mask)
        if self._large:
            self._select_large(scores, weights, mask)
        return mask

    def _select_large(self, scores: Tensor, weights: Tensor | None, mask: Tensor) -> None:
        low, high = self._bands or (scores.new_empty(len(self._sizes)), scores.new_empty(len(self._sizes)))
        self._sample(scores, (self._sizes <= _SAMPLE) | (self._bands is None), low, high)
        above, inside, places = self._divide(scores, mask, low, high)
        if not inside.any():
            return
        ties = None if weights is None else wide(weights[places]).abs()
        (near, ties), here = self._ranks.gather(places, scores[places], ties)
        survivors, borders = _survivors(near, ties, inside, self._kept - above)
        mask[places] = survivors if here is None else survivors[here]
        # The next bands are centered on the thresholds; the share of entries inside the present ones sets the width.
        if (self._sizes > _SAMPLE).any():
            if not inside.all():
                borders = torch.where(_to(inside > 0, low), borders, low)
            share = inside / self._sizes
            factors = (
                np.where(share > _WIDE, _WIDE / 2 / share.clip(min=_WIDE), np.where(share < _NARROW, 2.0, 1.0)) / 2
            )
            half_widths = (high - low).mul_(_to(factors, low).to(low.dtype)).nan_to_num_(0.0, 0.0, 0.0)
            self._bands = borders - half_widths, borders + half_widths

    def _sample(self, scores: Tensor, chosen: Array, low: Tensor, high: Tensor) -> None:
        """Set the bands of the chosen groups from a sample of their scores, or from all scores of a small group."""
        for part in self._large:
            rows = np.flatnonzero(chosen[part.span])
            if not len(rows):
                continue
            step = min(-(-int(self._sizes[part.span.start]) // _SAMPLE), _ONE_OF)
            values, groups = part.of(scores)[:, ::step], rows + part.span.start
            to: Any = part.span
            if len(rows) < part.block.groups:
                values, to = values[_to(rows, low)], _to(groups, low)
            values = self._ranks.join(values.t()).t()
            # All scores of a group give its threshold, the lowest score that is kept; a sample gives an estimate of it.
            count = values.shape[1]
            center = (1 - self._kept[groups] / self._sizes[groups]) * count
            margin = 2.5 * count**0.5 if step > 1 else 0.0  # at least five standard deviations of that rank
            ranks = np.stack([center - margin, center + margin]).round().clip(0, count - 1).astype(np.int64)
            low[to], high[to] = _order_statistics(values, ranks)

    def _divide(self, scores: Tensor, mask: Tensor, low: Tensor, high: Tensor) -> tuple[Array, Array, Tensor]:
        """Write which entries are above the bands; return the counts above and inside, and the sorted places inside."""
        above, inside, here = np.zeros((3, len(self._sizes)), np.int64)
        found: dict[_Part, Tensor] = {}
        pending = self._large
        for attempt in range(3):
            counts = []
            for part in pending:
                *numbers, found[part] = _compare(part.of(scores), low[part.span], high[part.span], part.of(mask))
                counts.append(numbers)
            # One read-back for all groups: how many entries are above the bands, and above or inside them.
            own = torch.cat([number for numbers in zip(*counts, strict=True) for number in numbers])
            total = self._ranks.totals(own)
            read = own.cpu().numpy().reshape(2, -1)
            read_total = read if total is own else total.cpu().numpy().reshape(2, -1)
            groups = np.concatenate([np.arange(part.span.start, part.span.stop) for part in pending])
            here[groups] = read[1] - read[0]
            above[groups], inside[groups] = read_total[0], read_total[1] - read_total[0]
            missed = (above > self._kept) | (above + inside < self._kept)
            if not missed.any():
                break
            # If a band missed the threshold, a sample gives a new band; if that misses too, a band covers all scores.
            if attempt == 0:
                self._sample(scores, missed, low, high)
            elif attempt == 1:
                low[_to(missed, low)], high[_to(missed, low)] = -torch.inf, torch.inf
            else:
                raise ContentError("A score is NaN, which has no rank; lower the learning rate, or check the data.")
            pending = [part for part in self._large if missed[part.span].any()]
        places = [_locate(found[part], int(here[part.span].sum())) + part.place.start for part in self._large]
        return above, inside, torch.cat(places)


def _to(array: Array, like: Tensor) -> Tensor:
    """Return an array as a tensor on a device."""
    return torch.from_numpy(array).to(like.device)


def _order_statistics(values: Tensor, ranks: Array) -> Tensor:
    """Return from each row of `values` `(groups, n)` those of `ranks` `(k, groups)`; rank 0 is the lowest value."""
    wanted = np.unique(ranks)
    columns = np.searchsorted(wanted, ranks)
    if values.device.type != "cpu":
        found = [values.kthvalue(int(rank) + 1, dim=1).values for rank in wanted]
        if (columns == columns[:, :1]).all():  # all groups have the same ranks, which saves an upload
            return torch.stack([found[column] for column in columns[:, 0]])
        return torch.stack(found).gather(0, _to(columns, values))
    # numpy's partition is 12 times faster than `kthvalue` on a CPU.
    rows = max(1, _CHUNK // values.shape[1])
    parts = np.split(values.numpy(), range(rows, len(values), rows))
    found_parts = [np.partition(part, wanted, axis=1)[:, wanted] for part in parts]
    return torch.from_numpy(np.take_along_axis(np.concatenate(found_parts), columns.T, 1).T)


def _compare(values: Tensor, low: Tensor, high: Tensor, above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Write which values `(groups, n)` are above the bands; return counts above, counts not below, and those inside.

    The values inside are given as a mask on a GPU, where they have to be counted first, and as flat indices on a CPU.
    """
    if values.device.type != "cpu":
        torch.gt(values, high[:, None], out=above)
        reached = values >= low[:, None]
        return above.sum(1), reached.sum(1), reached ^ above
    # Chunks that stay in the processor's cache are read once; numpy compares several times faster than PyTorch.
    groups, size = values.shape
    scores, lows, highs, over = values.numpy(), low.numpy()[:, None], high.numpy()[:, None], above.numpy()
    counts, places = np.zeros((2, groups), np.int64), []
    rows = max(1, _CHUNK // size)
    scratch = np.empty(min(_CHUNK, values.numel()), np.bool_)
    for first, start in ((r, c) for r in range(0, groups, rows) for c in range(0, size, _CHUNK)):
        these, part = slice(first, first + rows), (slice(first, first + rows), slice(start, start + _CHUNK))
        inside = scratch[: scores[part].size].reshape(scores[part].shape)
        np.greater(scores[part], highs[these], out=over[part])
        np.greater_equal(scores[part], lows[these], out=inside)
        for count, true in zip(counts, (over[part], inside), strict=True):
            count[these] += np.count_nonzero(true) if len(true) == 1 else np.count_nonzero(true, axis=1)
        np.not_equal(inside, over[part], out=inside)
        found = np.flatnonzero(inside)
        if len(found):
            places.append(found + (first * size + start))
    indices = np.concatenate(places) if places else np.empty(0, np.int64)
    return torch.from_numpy(counts[0]), torch.from_numpy(counts[1]), torch.from_numpy(indices)


def _locate(found: Tensor, count: int) -> Tensor:
    """Return the flat indices of the `count` values that `_compare` found inside the bands."""
    return found if found.dtype != torch.bool else torch.nonzero_static(found.view(-1), size=count).view(-1)


def _survivors(scores: Tensor, ties: Tensor | None, inside: Array, missing: Array) -> tuple[Tensor, Tensor]:
    """Return which entries inside the bands survive, and the approximate threshold of each group.

    The entries are ordered by group and index: `inside` of each group, of which `missing` survive.
    """
    if scores.device.type != "cpu":
        return _sort_out(scores, ties, inside, missing)
    # On a CPU numpy's partitions are faster, and only groups that keep some but not all of their entries need them.
    ends = np.cumsum(inside)
    survivors = np.repeat(missing == inside, inside)
    borders = scores.numpy()[(ends - inside).clip(max=len(scores) - 1)]
    for group in np.flatnonzero((missing > 0) & (missing < inside)):
        part = slice(ends[group] - inside[group], ends[group])
        keys = [scores[part].numpy(), *([] if ties is None else [ties[part].numpy()])]
        survivors[part], borders[group] = _part_out(keys, int(missing[group]))
    return torch.from_numpy(survivors), torch.from_numpy(borders)


def _sort_out(scores: Tensor, ties: Tensor | None, inside: Array, missing: Array) -> tuple[Tensor, Tensor]:
    """Compute `_survivors` by sorting the entries of all groups together; ties cause no device-to-host read."""
    ends = np.cumsum(inside)
    limits = ends - inside + missing
    edges = np.stack([ends, limits, np.minimum(limits, ends - 1).clip(0)])
    end, limit, border = torch.from_numpy(edges).to(scores.device)
    places = torch.arange(len(scores), device=scores.device)
    group = torch.bucketize(places, end, right=True)
    # Stable sorts by the least important key first; entries that are equal in all keys stay in the order of indices.
    order: Tensor | None = None
    for key in (ties, scores, group):
        if key is None:
            continue
        found = torch.sort(key if order is None else key[order], stable=True, descending=key is not group).indices
        order = found if order is None else order[found]
    assert order is not None
    survivors = torch.empty(len(scores), dtype=torch.bool, device=scores.device)
    survivors[order] = places < limit[group]
    return survivors, scores[order[border]]


def _part_out(keys: Sequence[Array], missing: int) -> tuple[Array, float]:
    """Compute `_survivors` for one group by partitions: each key breaks the ties of the keys before it."""
    survivors, left = np.zeros(len(keys[0]), np.bool_), np.arange(len(keys[0]))
    borders: list[float] = []
    for key in keys:
        if missing in (0, len(left)):
            break
        values = key[left]
        lowest = np.partition(values, len(values) - missing)[len(values) - missing]  # lowest value that is kept
        borders.append(float(lowest))
        above = left[values > lowest]
        survivors[above] = True
        left, missing = left[values == lowest], missing - len(above)
    survivors[left[:missing]] = True
    return survivors, borders[0]


_AT_A_TIME = 1 << 17  # entries of small groups compared at a time on a CPU: they stay in its cache


def _keep_by_wins(block: _Part, flat: Tensor, flat_weights: Tensor | None, mask: Tensor) -> None:
    """Write the mask of a block of small groups: an entry is kept when fewer than `kept` of its group beat it."""
    scores, out = block.of(flat), block.of(mask)
    weights = None if flat_weights is None else wide(block.of(flat_weights))
    groups, size = scores.shape
    on_cpu = scores.device.type == "cpu"
    step = max(1, _AT_A_TIME // size) if on_cpu else max(1, groups)
    byte: Any = np.uint8 if on_cpu else torch.uint8
    for start in range(0, groups, step):
        part = slice(start, start + step)
        columns: Any = scores[part].t().contiguous()
        sizes: Any = None
        # Start as if every later entry had won, so that each pair is compared once.
        beaten: Any = torch.arange(size - 1, -1, -1, dtype=torch.uint8, device=scores.device)[:, None]
        beaten = beaten.repeat(1, columns.shape[1])
        if on_cpu:  # numpy compares several times faster than PyTorch
            columns, beaten = columns.numpy(), beaten.numpy()
        for index in range(size - 1):
            one, others = columns[index], columns[index + 1 :]
            wins = one >= others
            if weights is not None:
                tied = one == others
                if not on_cpu or tied.any():  # on a GPU the check costs a read-back
                    if sizes is None:
                        sizes = weights[part].t().abs()
                        sizes = sizes.numpy() if on_cpu else sizes
                    wins &= ~(tied & (sizes[index] < sizes[index + 1 :]))
            beaten[index + 1 :] += wins.view(byte)
            beaten[index] -= wins.view(byte).sum(0, dtype=byte)
        kept = (beaten < block.block.kept).T
        out[part] = torch.from_numpy(kept) if on_cpu else kept
