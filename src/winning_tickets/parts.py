"""Names of masked matrices: a parameter of the encoder, or one of the equal parts that a fused parameter holds.

`layers.0.attn.Wqkv.weight[0/3]` is the first of three equal blocks of rows of that parameter: its query matrix. A name
says all that is needed, so whoever applies a ticket needs no table of architectures. Blocks of rows of a contiguous
matrix are contiguous, so a part is a plain view: masking it in place masks the parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from winning_tickets.errors import ContentError

_NAME = re.compile(r"(?P<parameter>[^\[\]]+)\[(?P<index>0|[1-9]\d*)/(?P<count>[2-9]|[1-9]\d+)\]")


@dataclass(frozen=True)
class Part:
    """Where a masked matrix lies.

    Attributes:
        parameter: the encoder's own name of the parameter.
        index: which of its parts, from 0.
        count: number of equal parts along dimension 0; 1 for a whole parameter.
    """

    parameter: str
    index: int = 0
    count: int = 1

    def of(self, tensor: Tensor) -> Tensor:
        """The part of a tensor of the parameter's shape, as a view; the tensor itself where the part is the whole.

        Raises:
            ContentError: its rows cannot be cut into so many equal parts.
        """
        if self.count == 1:
            return tensor
        rows, rest = divmod(tensor.shape[0], self.count)
        if rest:
            raise ContentError(
                f"{self.parameter} has {tensor.shape[0]} rows, which are not {self.count} equal parts; "
                "is it another architecture?"
            )
        return tensor.narrow(0, self.index * rows, rows)


def split_name(name: str) -> Part:
    """What a mask's name stands for.

    Raises:
        ContentError: the name ends like a part and is none.
    """
    if not name.endswith("]"):
        return Part(name)
    match = _NAME.fullmatch(name)
    if match is None or int(match["index"]) >= int(match["count"]):
        raise ContentError(f"{name} is not the name of a matrix; parts are written NAME[0/3], NAME[1/3], NAME[2/3].")
    return Part(match["parameter"], int(match["index"]), int(match["count"]))


def present_in(encoder: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of the names whose parameter an encoder has, in their order."""
    present = dict(encoder.named_parameters())
    return [name for name in names if split_name(name).parameter in present]


def prunable_views(encoder: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """The matrices behind names, without gradient: views of the encoder's own memory.

    Args:
        encoder: the encoder inside a model.
        names: of whole parameters or parts.

    Raises:
        ContentError: the encoder lacks a parameter, or it cannot be cut into the parts.
    """
    return matrices_of(dict(encoder.named_parameters()), names)


def matrices_of(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The matrices behind names, without gradient: views of tensors by name of the parameter.

    Raises:
        ContentError: a parameter is missing, or it cannot be cut into the parts.
    """
    views = {}
    for name in names:
        part = split_name(name)
        if part.parameter not in tensors:
            raise ContentError(f"The model has no parameter {part.parameter}; is it another architecture?")
        views[name] = part.of(tensors[part.parameter].detach())
    return views


def join_parts(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks of whole parameters: parts are put together, a part without a mask is kept.

    Args:
        masks: bool, by name of the matrix.

    Returns:
        By name of the parameter, in the order of its first part; whole parameters share the given memory.

    Raises:
        ContentError: two masks of a parameter overlap, or its parts differ in shape.
    """
    found: dict[str, dict[Part, Tensor]] = {}
    for name, mask in masks.items():
        part = split_name(name)
        found.setdefault(part.parameter, {})[part] = mask
    return {parameter: _join(parameter, parts) for parameter, parts in found.items()}


def _join(parameter: str, parts: Mapping[Part, Tensor]) -> Tensor:
    counts, shapes = {part.count for part in parts}, {mask.shape for mask in parts.values()}
    if len(counts) > 1 or len(shapes) > 1:
        raise ContentError(
            f"The masks of {parameter} do not fit together: found parts of {sorted(counts)} with shapes "
            f"{sorted(map(tuple, shapes))}, expected parts of one number and shape."
        )
    (count,), (shape,) = counts, shapes
    by_index = {part.index: mask for part, mask in parts.items()}
    if count == 1:
        return by_index[0]
    return torch.cat([by_index.get(i, torch.ones(shape, dtype=torch.bool)) for i in range(count)])
