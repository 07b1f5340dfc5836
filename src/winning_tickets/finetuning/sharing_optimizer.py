"""The optimizer of tickets sharing: a step on a batch of one task updates only weights that the task's ticket keeps.

Super tickets, section 4, Algorithm 1. Zero gradients are not enough for that: momentum and weight decay also change
weights without a gradient. So every parameter is partitioned by the set of tasks whose ticket keeps each entry, and a
step passes only the task's pieces on to an ordinary optimizer, which does not see the other pieces at all: their
weights, moments and step counts stay the same, bit for bit. Each piece counts its own steps, so bias correction is
right for pieces that are seldom updated. The cost is at most that of a dense step, and less where much is pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets.selection import write_masked_
from winning_tickets.training.optimizers import make_optimizer

_LONG = 4096  # number of entries in a run of rows from which a view is cheaper than gathering
_MOST_TASKS = 63  # number of usable bits of an int64


@dataclass(frozen=True, eq=False)
class Piece:
    """Entries of a parameter that the same tasks keep: some of its rows, columns or single entries."""

    tasks: frozenset[str]  # the tasks that keep them; never empty
    shape: tuple[int, ...]  # the parameter's own shape, or flat for single entries
    dim: int  # the dimension that is cut
    start: int  # first row of a run of rows
    length: int  # number of rows, columns or entries along `dim`
    index: Tensor | None = None  # their positions, int64; None for a run of rows, which can be updated in place

    def of(self, tensor: Tensor) -> Tensor:
        """Return these entries of a contiguous tensor of the parameter's shape: a view, or a copy with an `index`."""
        seen = tensor.reshape(self.shape)
        if self.index is None:
            return seen.narrow(self.dim, self.start, self.length)
        return seen.index_select(self.dim, self.index)

    def put_(self, tensor: Tensor, values: Tensor) -> None:
        """Write the entries of a copy back."""
        assert self.index is not None
        tensor.view(self.shape).index_copy_(self.dim, self.index, values)


def partition(shape: Sequence[int], tasks: Sequence[str], kept: Mapping[str, Tensor]) -> list[Piece]:
    """Partition a parameter by the set of tasks whose ticket keeps each entry; entries that none keeps are left out."""
    # Masks of heads and neurons give whole rows or columns, so there are few pieces, and most are runs of rows in the
    # parameter's own memory. Other masks give one piece of single entries for each set of tasks that occurs. `kept` has
    # a bool mask of this parameter by task; a task without a mask keeps everything.
    whole = tuple(shape)
    if all(bool(mask.all()) for mask in kept.values()):
        return [Piece(frozenset(tasks), whole, 0, 0, whole[0])]
    codes = _codes(tasks, kept)
    if codes.dim() == 2 and bool((codes == codes[:, :1]).all()):
        return _along(codes[:, 0], tasks, whole, 0)
    if codes.dim() == 2 and bool((codes == codes[:1]).all()):
        return _along(codes[0], tasks, whole, 1)
    return _along(codes.reshape(-1), tasks, (codes.numel(),), 0)


def union_of(tasks: Sequence[str], kept: Mapping[str, Tensor]) -> Tensor | None:
    """Return a mask of the entries of a parameter that at least one task keeps; None if these are all entries."""
    if any(task not in kept for task in tasks):
        return None
    union = torch.stack(list(kept.values())).any(0)
    return None if bool(union.all()) else union


def _codes(tasks: Sequence[str], kept: Mapping[str, Tensor]) -> Tensor:
    """Return an int64 tensor of the parameter's shape, with one bit for each task that keeps an entry."""
    if len(tasks) > _MOST_TASKS:
        raise UsageError(f"{len(tasks)} tasks share one model; tickets of at most {_MOST_TASKS} can be told apart.")
    codes = torch.zeros_like(next(iter(kept.values())), dtype=torch.int64)
    for bit, task in enumerate(tasks):
        codes |= kept[task].to(torch.int64) << bit if task in kept else torch.full_like(codes, 1 << bit)
    return codes


def _along(codes: Tensor, tasks: Sequence[str], shape: tuple[int, ...], dim: int) -> list[Piece]:
    """Return one piece for each code, or several if its rows form runs that are long enough for views."""
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


@dataclass(frozen=True)
class SharedUpdate:
    """Settings of the optimizer of shared weights; biases and norms have no weight decay."""

    kind: Literal["adamw", "adamax", "adamax-mtdnn"]
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True, eq=False)
class Slice:
    """A piece of a parameter as a parameter of the inner optimizer."""

    # `value` shares the parameter's memory if the piece is a run of rows; otherwise it is a buffer.

    piece: Piece
    value: nn.Parameter


class SharingOptimizer(torch.optim.Optimizer):
    """Optimizer whose steps are for one task at a time, over parameters that tasks share in part."""

    # Call `optimizer.select("rte")` before each step, with the task of its batch. Entries that no task keeps are set to
    # +0.0 at the start and stay so.

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],  # all trained parameters, by name, on the device of the training
        tasks: Sequence[str],
        selections: Mapping[str, Mapping[str, Tensor]],  # by task, bool masks by name; without a mask all is kept
        owners: Mapping[str, str],  # by name of a parameter of a head, the only task that updates it
        *,
        update: SharedUpdate,
        strict: bool = True,  # False: a step also moves weights without a gradient, as in the released code
    ) -> None:
        self.update, self.strict = update, strict
        self._tasks, self._task = tuple(tasks), ""
        self._parameters = {name: value for name, value in parameters.items() if value.requires_grad}
        self.slices: dict[str, list[Slice]] = {}  # the pieces of each parameter, by its name
        for name, parameter in self._parameters.items():
            selected = {task: masks[name].to(parameter.device) for task, masks in selections.items() if name in masks}
            union = union_of(self._tasks, selected)
            if union is not None:
                write_masked_(parameter, parameter, union)
            self.slices[name] = self._cut(parameter, selected, owners.get(name))
        self._places = {name: parameter.data_ptr() for name, parameter in self._parameters.items()}
        # Only matrices have weight decay, so they are a group of their own.
        matrices = [name for name, parameter in self._parameters.items() if parameter.dim() > 1]
        vectors = [name for name, parameter in self._parameters.items() if parameter.dim() <= 1]
        self._groups = [names for names in (matrices, vectors) if names]
        decay = [update.weight_decay if names is matrices else 0.0 for names in self._groups]
        # Schedulers and the Trainer see whole parameters; the inner optimizer moves their pieces.
        outer: list[dict[str, Any]] = [{"params": [self._parameters[name] for name in names]} for names in self._groups]
        inner: list[dict[str, Any]] = [
            {"params": [part.value for name in names for part in self.slices[name]]} for names in self._groups
        ]
        for groups in (outer, inner):
            for group, amount in zip(groups, decay, strict=True):
                group["weight_decay"] = amount
        super().__init__(outer, {"lr": update.learning_rate})
        self._inner = make_optimizer(update.kind, inner, update.learning_rate)

    def _cut(self, parameter: nn.Parameter, selected: Mapping[str, Tensor], owner: str | None) -> list[Slice]:
        tasks = self._tasks if owner is None else (owner,)
        # `view` refuses memory that is not in order, where views of rows would be copies.
        flat = parameter.detach().view(-1).view(parameter.shape or (1,))
        pieces = partition(flat.shape, tasks, selected if self.strict else {})
        # For a run of rows this is a view: a step on it updates the parameter.
        return [Slice(piece, nn.Parameter(piece.of(flat))) for piece in pieces]

    def select(self, task: str) -> None:
        if task not in self._tasks:
            raise ValueError(f"There is no task {task!r} here; the tasks are {', '.join(self._tasks)}.")
        self._task = task

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the entries that the selected task keeps and that have gradients."""
        if closure is not None:
            raise ValueError("SharingOptimizer does not support closures.")
        if not self._task:
            raise ValueError("No task was selected for this step. Call select(task) before each step.")
        touched = self._touched()
        # Parameters without a gradient are skipped by the inner optimizer, with their moments and step counts.
        for _, part, gradient in touched:
            part.value.grad = gradient
        for inner, outer in zip(self._inner.param_groups, self.param_groups, strict=True):
            inner["lr"] = outer["lr"]
        self._inner.step()
        # Gradients are cleared, so that the next step starts without any; gathered entries are written back.
        for parameter, part, _ in touched:
            part.value.grad = None
            if part.piece.index is not None:
                part.piece.put_(parameter, part.value)
        self._task = ""

    def _touched(self) -> list[tuple[nn.Parameter, Slice, Tensor]]:
        """Return the slices that this step updates, with their gradients; fill the buffers of gathered pieces."""
        found = []
        # A step that is skipped because its loss was not finite has no gradient at all, and changes nothing.
        any_gradient = any(parameter.grad is not None for parameter in self._parameters.values())
        for name, parameter in self._parameters.items():
            if parameter.data_ptr() != self._places[name]:
                raise ValueError(f"{name} was moved after the optimizer was made; move the model to its device first.")
            for part in self.slices[name]:
                if self.strict and self._task not in part.piece.tasks:
                    continue
                if parameter.grad is not None:
                    gradient = part.piece.of(parameter.grad.contiguous())
                elif not self.strict and any_gradient and part.value in self._inner.state:
                    gradient = torch.zeros_like(part.value)
                else:
                    continue
                if part.piece.index is not None:
                    part.value.copy_(part.piece.of(parameter))
                found.append((parameter, part, gradient))
        return found

    def _order(self) -> list[tuple[str, int]]:
        """Return the slices, as name and number, in the order in which the inner optimizer numbers them."""
        return [(name, place) for names in self._groups for name in names for place in range(len(self.slices[name]))]

    def _layout(self) -> dict[str, list[list[Any]]]:
        """Return the number of entries and the tasks of each slice, by parameter."""
        return {
            name: [[part.value.numel(), *sorted(part.piece.tasks)] for part in parts]
            for name, parts in self.slices.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return moments and steps of each slice by parameter name; names stay valid if Parameters are replaced."""
        moments: dict[str, dict[int, Any]] = {}
        order = self._order()
        for number, state in self._inner.state_dict()["state"].items():
            name, place = order[number]
            moments.setdefault(name, {})[place] = state
        return {
            "layout": self._layout(),
            "moments": moments,
            "param_groups": [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state that was saved for the same parameters, tasks and tickets."""
        if state_dict["layout"] != self._layout():
            raise ContentError(
                "The optimizer's state was saved for other parameters, tasks or tickets than these, so the run cannot "
                "resume. Start again, with another --out."
            )
        inner = self._inner.state_dict()
        inner["state"] = {
            number: state_dict["moments"][name][place]
            for number, (name, place) in enumerate(self._order())
            if place in state_dict["moments"].get(name, {})
        }
        self._inner.load_state_dict(inner)
        for group, stored in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(stored)
