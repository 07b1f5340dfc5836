"""The encoder inside any module: a model with a head, a wrapped model, a sentence-transformer, a module of your own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.models.reparametrized import refuse_pruned_heads, refuse_reparametrized
from winning_tickets.runs.errors import ContentError, UsageError

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "base_layer")
"""Modules that `torch.compile`, activation checkpointing and PEFT put into the middle of a parameter's name."""


@dataclass(frozen=True)
class Place:
    """Where a module has a parameter; another parameter may take its place later, as with `fully_shard`."""

    owner: nn.Module
    name: str

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that is there now."""
        found: nn.Parameter = getattr(self.owner, self.name)
        return found


@dataclass(frozen=True)
class Encoder:
    """The parameters of an encoder by its own names, and its number of attention heads where that is known."""

    places: Mapping[str, Place]
    num_heads: int | None
    modules: Mapping[str, Sequence[nn.Module]]  # by path: the module there, behind the wrappers around it

    def chain(self, name: str) -> Sequence[nn.Module]:
        """Return the modules in the place of a parameter's layer, each inside the one before; empty without any."""
        return self.modules.get(name.rpartition(".")[0], ())

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The present parameters by the encoder's own names."""
        return {name: place.parameter for name, place in self.places.items()}


def as_module(model: Any) -> nn.Module:
    """Return a module unchanged; for an object that is none, such as a `SetFitModel`, return a module of its modules.

    Raises:
        UsageError: there is no module in the object.
    """
    if isinstance(model, nn.Module):
        return model
    inside = {name: value for name, value in getattr(model, "__dict__", {}).items() if isinstance(value, nn.Module)}
    if not inside:
        raise UsageError(f"A {type(model).__name__} has no encoder; give a torch.nn.Module or an object with one.")
    return nn.ModuleDict(inside)


def find_encoder(model: Any, names: Iterable[str]) -> Encoder:
    """Find the encoder that has parameters of these names somewhere inside a module.

    Args:
        model: the encoder itself or any module or object around it, also wrapped by DataParallel, DDP, `fully_shard`,
            `torch.compile`, PEFT, sentence-transformers or SetFit.
        names: the encoder's own names, such as `encoder.layer.0.attention.self.query.weight`. The pooler is not looked
            for, as many classes leave it out.

    Returns:
        The encoder; if none has all names, the one with most of them, which the caller has to check.

    Raises:
        ContentError: several encoders have the names, weights are computed from other tensors, or heads were removed.
        UsageError: `FullyShardedDataParallel` has flattened the parameters.
    """
    model = as_module(model)
    # `named_modules` yields a submodule that is registered twice only once, so a shared encoder is one encoder.
    found: dict[str, Place] = {}
    paths: dict[str, str] = {}
    modules: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        refuse_pruned_heads(getattr(module, "config", None), f"the {type(module).__name__}")
        if type(module).__name__ == "FullyShardedDataParallel":
            raise UsageError(
                "FullyShardedDataParallel has flattened the model's matrices, so no ticket can be put on them; use "
                "torch.distributed.fsdp.fully_shard (FSDP2) instead."
            )
        own = ".".join(step for step in path.split(".") if step not in _WRAPPERS)
        modules.setdefault(own, []).append(module)
        for name, _ in module.named_parameters(recurse=False):
            full = f"{own}.{name}".lstrip(".")
            found[full] = Place(module, name)
            paths[full] = path
    # The encoder is at the prefix under which the most names are found.
    names = set(names)
    wanted = {name for name in names if not name.startswith("pooler.")} or names
    begins: Counter[str] = Counter()
    for name in found:
        steps = name.split(".")
        begins.update(".".join(steps[:at]) for at in range(len(steps)) if ".".join(steps[at:]) in wanted)
    starts = sorted(start for start, count in begins.items() if count == len(wanted))
    if len(starts) > 1 and starts[0]:  # "" is the model itself, and comes first
        raise ContentError(
            f"The model has {len(starts)} encoders that the ticket fits, {' and '.join(starts)}; give one of them, "
            f"such as model.{starts[0]}."
        )
    start = starts[0] if starts else max(begins, key=begins.__getitem__, default="")
    prefix = f"{start}." if start else ""
    places = {name.removeprefix(prefix): place for name, place in found.items() if name.startswith(prefix)}
    refuse_reparametrized(model, f"The {type(model).__name__}", wanted - places.keys())
    first = next((prefix + name for name in places if name in wanted), None)
    inside = {path.removeprefix(prefix): chain for path, chain in modules.items() if path.startswith(prefix)}
    return Encoder(places, None if first is None else _num_heads(model, paths[first]), inside)


def links_to(model: Any, modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return the parent, name and child of every module on the way from a model to some of its modules, each once."""
    wanted, found = {id(module) for module in modules}, dict(as_module(model).named_modules())
    paths: dict[str, None] = {}
    for path, module in found.items():
        if id(module) in wanted:
            steps = path.split(".")
            paths |= dict.fromkeys(".".join(steps[:end]) for end in range(1, len(steps) + 1) if path)
    split = {path: path.rpartition(".") for path in paths}
    return [(found[parent], name, found[path]) for path, (parent, _, name) in split.items()]


def _num_heads(model: nn.Module, path: str) -> int | None:
    """Return the number of heads, or of groups that share a key, as the innermost configuration around a path says."""
    steps = path.split(".")
    for end in range(len(steps), -1, -1):
        config = getattr(model.get_submodule(".".join(steps[:end])), "config", None)
        if found := getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None):
            return int(found)
    return None


def whole(tensor: Any) -> Tensor:
    """Return a whole tensor; a DTensor is gathered from all processes, which must all call this."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


@torch.no_grad()
def part_like(tensor: Tensor, other: Any) -> Tensor:
    """Return this process's part of a whole tensor if `other` is a DTensor of its shape; else the whole tensor."""
    if not hasattr(other, "device_mesh"):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    # Every process has the whole tensor, so nothing is sent.
    mesh, here = other.device_mesh, tensor.to(other.to_local().device)
    everywhere = DTensor.from_local(here, mesh, [Replicate()] * mesh.ndim, run_check=False)
    part: Tensor = everywhere.redistribute(placements=other.placements).to_local()
    return part
