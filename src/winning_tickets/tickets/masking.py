"""Apply masks to parameter data; the model stays a plain Hugging Face model.

`MaskedWeights` stores the dense weights of a model, so that one mask after the other can be applied to it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.models.architectures import prunable_views, split_name
from winning_tickets.runs.errors import ContentError
from winning_tickets.tickets.selection import count_true, write_masked_


def rows_here(tensor: Any) -> Tensor:
    """Return the rows of a DTensor on this rank, or any other tensor unchanged."""
    here: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return here


def is_sharded(tensor: Any) -> bool:
    """Return whether a tensor is a DTensor, of which each rank has some rows."""
    return hasattr(tensor, "to_local")


def own_rows(whole: Tensor, parameter: Any) -> Tensor:
    """Return a copy of this rank's rows of a whole matrix if its parameter is a DTensor, else the matrix itself."""
    # The rows are split as `fully_shard` splits parameters. A view would keep the whole matrix in memory.
    if not is_sharded(parameter) or whole.shape == parameter.to_local().shape:
        return whole
    mesh = parameter.device_mesh
    rows: Tensor = torch.chunk(whole, mesh.size())[mesh.get_local_rank()]
    return rows.clone()


class MaskedWeights:
    """The dense weights W of some matrices (parameters, or parts of fused ones) and the parameters that hold W * M.

    The dense weights are stored in one flat buffer, with the matrices `first` at its start. Parameters are always
    written in place, because sharded models silently ignore a rebound `p.data`. Slices of a fused parameter are
    adjacent in the buffer, as the parameters of a twin need them (`models.twin`). `source` is a model to copy the dense
    weights from, such as a sharded twin, if the encoder does not hold them.
    """

    def __init__(
        self, encoder: nn.Module, names: Sequence[str], first: Sequence[str] = (), source: nn.Module | None = None
    ) -> None:
        parameters = dict(encoder.named_parameters())
        self.names = (*first, *(name for name in names if name not in set(first)))
        views = {name: rows_here(view) for name, view in prunable_views(encoder, self.names).items()}
        self._parts = {name: split_name(name) for name in self.names}
        # Several matrices may share a parameter.
        self.parameters: dict[str, nn.Parameter] = {n: parameters[part.parameter] for n, part in self._parts.items()}
        kinds = {(view.dtype, view.device) for view in views.values()} or {(torch.float32, torch.device("cpu"))}
        if len(kinds) > 1:
            raise ContentError(f"The matrices have several types or devices ({kinds}); load the model in one.")
        ((dtype, device),) = kinds
        self.flat = torch.empty(sum(view.numel() for view in views.values()), dtype=dtype, device=device)
        self.dense_weights: dict[str, Tensor] = self.split(self.flat, views)
        for name, view in (views if source is None else prunable_views(source, self.names)).items():
            self.dense_weights[name].copy_(rows_here(view))
        self.kept = {name: view.numel() for name, view in views.items()}  # entries kept here since the last `write`

    def split(self, flat: Tensor, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return views of a flat buffer that covers the first matrices, by name and in the shapes of the matrices."""
        views, start = {}, 0
        for name in self.names:
            shape = (like or self.dense_weights)[name].shape
            if start == flat.numel() and shape.numel():
                break
            views[name] = flat[start : start + shape.numel()].view(shape)
            start += shape.numel()
        return views

    def part(self, names: Sequence[str]) -> MaskedWeights:
        """Return the `MaskedWeights` of some matrices, which must be adjacent in the buffer; they share its memory."""
        part, chosen = copy.copy(self), set(names)
        part.names = tuple(name for name in self.names if name in chosen)
        part.dense_weights = {name: self.dense_weights[name] for name in part.names}
        part.kept = {name: self.kept[name] for name in part.names}
        start = part.dense_weights[part.names[0]].storage_offset()
        part.flat = self.flat[start : start + sum(weight.numel() for weight in part.dense_weights.values())]
        return part

    def trained(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Return the parameters that hold some of the matrices, each once."""
        return list(dict.fromkeys(self.parameters[name] for name in names))

    def gradient(self, name: str) -> Tensor | None:
        """Return the gradient of a matrix, a view of its parameter's gradient; None if there is none."""
        gradient = self.parameters[name].grad
        return None if gradient is None else self._parts[name].of(rows_here(gradient))

    @torch.no_grad()
    def write(self, masks: Mapping[str, Tensor]) -> None:
        """Write W * M of some whole matrices into their parameters, and record how many entries this rank keeps."""
        for name, mask in masks.items():
            mask = own_rows(mask, self.parameters[name])
            self.kept[name] = count_true(mask)
            write_masked_(self._here(name), self.dense_weights[name], mask.to(self.flat.device))

    @torch.no_grad()
    def write_flat(self, mask: Tensor) -> None:
        """Write W * M of the first matrices, whose masks are given as one buffer `(n,)`."""
        masks = self.split(mask)
        if mask.device.type == "cpu":
            for name, one in masks.items():
                write_masked_(self._here(name), self.dense_weights[name], one)
        else:  # a few kernel launches, however many matrices there are
            product = torch.where(mask, self.flat[: mask.numel()], 0.0)
            torch._foreach_copy_([self._here(name) for name in masks], list(self.split(product).values()))

    def _here(self, name: str) -> Tensor:
        """Return a matrix in its parameter, as a view of its rows on this rank."""
        return self._parts[name].of(rows_here(self.parameters[name].detach()))


@contextmanager
def modes(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set all modules to training or evaluation mode inside the block, and restore each module's flag after it."""
    flags = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
