"""Entries of a parameter by the tasks that selected them, cut into pieces that can be updated apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from winning_tickets.errors import UsageError

_LONG = 4096  # entries of a run from which a view of its own is cheaper than gathering
_MOST_TASKS = 63  # bits of an int64 that are free


@dataclass(frozen=True, eq=False)
class Piece:
    """Entries of a parameter that the same tasks selected: some of its rows, columns or single entries.

    Attributes:
        tasks: who selected them; never empty.
        shape: how the parameter is looked at: as it is, or flat where single entries were selected.
        dim: the dimension that is cut.
        start: of a run of rows.
        length: places taken along `dim`.
        index: which places, int64 `(length,)`; None for a run of rows, which can be updated where it is.
    """

    tasks: frozenset[str]
    shape: tuple[int, ...]
    dim: int
    start: int
    length: int
    index: Tensor | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """These entries of a tensor of the parameter's shape: a view without an index, else a copy; contiguous."""
        seen = tensor.reshape(self.shape)
        if self.index is None:
            return seen.narrow(self.dim, self.start, self.length)
        return seen.index_select(self.dim, self.index)

    def put_(self, tensor: Tensor, values: Tensor) -> None:
        """Write entries that were copied back."""
        assert self.index is not None
        tensor.view(self.shape).index_copy_(self.dim, self.index, values)


def pieces_of(shape: Sequence[int], tasks: Sequence[str], selected: Mapping[str, Tensor]) -> list[Piece]:
    """Cut a parameter by who selected what; entries that no task selected are in no piece.

    Heads and neurons give whole rows or columns, so there are few pieces, and most are runs of rows in the parameter's
    own memory. Arbitrary masks give one piece of single entries for each set of tasks that occurs.

    Args:
        shape: of the parameter.
        tasks: all that share the model.
        selected: bool masks of this parameter by task; a task without one selected everything.

    Raises:
        UsageError: more tasks than sets of tasks can be told apart for.
    """
    whole = tuple(shape)
    if all(bool(mask.all()) for mask in selected.values()):
        return [Piece(frozenset(tasks), whole, 0, 0, whole[0])]
    codes = _codes(tasks, selected)
    if codes.dim() == 2 and bool((codes == codes[:, :1]).all()):
        return _along(codes[:, 0], tasks, whole, 0)
    if codes.dim() == 2 and bool((codes == codes[:1]).all()):
        return _along(codes[0], tasks, whole, 1)
    return _along(codes.reshape(-1), tasks, (codes.numel(),), 0)


def union_of(tasks: Sequence[str], selected: Mapping[str, Tensor]) -> Tensor | None:
    """What any task selected of a parameter; None where that is everything."""
    if any(task not in selected for task in tasks):
        return None
    union = torch.stack(list(selected.values())).any(0)
    return None if bool(union.all()) else union


def _codes(tasks: Sequence[str], selected: Mapping[str, Tensor]) -> Tensor:
    """A bit for each task that selected an entry, int64 of the parameter's shape."""
    if len(tasks) > _MOST_TASKS:
        raise UsageError(f"{len(tasks)} tasks share one model; tickets of at most {_MOST_TASKS} can be told apart.")
    codes = torch.zeros_like(next(iter(selected.values())), dtype=torch.int64)
    for bit, task in enumerate(tasks):
        codes |= selected[task].to(torch.int64) << bit if task in selected else torch.full_like(codes, 1 << bit)
    return codes


def _along(codes: Tensor, tasks: Sequence[str], shape: tuple[int, ...], dim: int) -> list[Piece]:
    pieces = []
    width = torch.Size(shape).numel() // len(codes)
    for code in codes.unique().tolist():  # type: ignore[no-untyped-call]
        if code == 0:
            continue
        members = frozenset(task for bit, task in enumerate(tasks) if code >> bit & 1)
        index = (codes == code).nonzero().reshape(-1)
        breaks = ((index.diff() != 1).nonzero().reshape(-1) + 1).tolist()
        runs = len(breaks) + 1
        if dim == 0 and (runs == 1 or len(index) * width >= runs * _LONG):
            ends = [0, *breaks, len(index)]
            pieces += [Piece(members, shape, dim, int(index[start]), stop - start) for start, stop in pairwise(ends)]
        else:
            pieces.append(Piece(members, shape, dim, 0, len(index), index))
    return pieces
