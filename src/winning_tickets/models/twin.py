"""The dense model beside its masked one: a second module that shares all memory but the matrices that are masked."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from winning_tickets.models.architectures import MatrixView, split_name
from winning_tickets.runs.errors import UsageError


def make_twin(model: Any, dense_weights: Mapping[str, Tensor], copied: Iterable[str] = ()) -> Any:
    """Return a model that computes with dense weights and shares all other memory with `model`.

    The twin is the teacher of a search: while `model` is masked and trained, the twin stays the dense model. Its masked
    parameters are the given tensors, not copies of them. All other parameters, the buffers and the configuration are
    those of `model`. It is a module of its own in evaluation mode: `twin.train()` gives it dropout, and hooks,
    gradient checkpointing and `compile` of `model` do not reach it. Make it on the device it runs on, before gates or
    other hooks are put on `model`.

    Args:
        model: a Hugging Face model, masked or not.
        dense_weights: the dense matrices by the encoder's names, such as `MaskedWeights.dense_weights`; parts of a
            fused parameter that lie one behind the other in memory are not copied either, unless they alternate.
        copied: names of parameters of `model` that the twin gets copies of, because they will be trained.

    Raises:
        UsageError: the model is sharded.
    """
    model = getattr(model, "_orig_mod", model)  # of `torch.compile(model)`
    if any(hasattr(parameter, "to_local") for parameter in model.parameters()):
        raise UsageError(
            "The parameters of the model are sharded, and a twin cannot be made of them; make the twin before "
            "fully_shard, and shard both."
        )
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    memo[id(model.config)] = model.config
    for name in copied:
        parameter = model.get_parameter(name)
        memo[id(parameter)] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
    for name, weight in _by_parameter(model.base_model, dense_weights).items():
        memo[id(model.base_model.get_parameter(name))] = nn.Parameter(weight, requires_grad=False)
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = False
    return twin.eval()


def _by_parameter(encoder: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join matrices into parameters; parts of a fused parameter that are not given are taken from the encoder."""
    found: dict[str, dict[MatrixView, Tensor]] = {}
    for name, weight in weights.items():
        part = split_name(name)
        found.setdefault(part.parameter, {})[part] = weight
    return {name: _join(encoder.get_parameter(name).detach(), parts) for name, parts in found.items()}


def _join(own: Tensor, parts: Mapping[MatrixView, Tensor]) -> Tensor:
    """Return matrices as one parameter, which shares their memory if they lie one behind the other in it."""
    ordered = sorted(parts, key=lambda part: part.start)
    first, start = parts[ordered[0]], parts[ordered[0]].storage_offset()
    behind = sum(part.stop - part.start for part in ordered) == ordered[0].count and ordered[0].blocks == 1
    for part in ordered:
        weight = parts[part]
        behind &= weight.is_contiguous() and weight.storage_offset() == start
        behind &= weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        start += weight.numel()
    if behind:
        shape = ordered[0].whole(own).shape
        return ordered[0].whole(first.as_strided(shape, first.stride()))
    joined = own.clone()
    for part, weight in parts.items():
        part.of(joined).copy_(weight)
    return joined
