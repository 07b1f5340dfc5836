"""Weights that PyTorch computes from other tensors (pruning, parametrizations), and heads removed in the configuration.

Masks act on plain parameters. These models are refused by name, with what makes plain parameters of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from winning_tickets.runs.errors import ContentError, listed

_SPLIT = re.compile(r"(?:(?P<path>.*)\.)?(?P<name>\w*(?:weight|bias))_(?P<part>orig|mask|g|v|u)")
_NEW = re.compile(r"(?:(?P<path>.*)\.)?parametrizations\.(?P<name>\w+)\.(?P<part>original\d*)")
_PAIRS = {  # endings of two tensors of one weight: what made them, and the function that undoes it
    ("orig", "mask"): ("torch.nn.utils.prune", "torch.nn.utils.prune.remove(module, {name!r})"),
    ("g", "v"): ("torch.nn.utils.weight_norm", "torch.nn.utils.remove_weight_norm(module, {name!r})"),
    ("orig", "u"): ("torch.nn.utils.spectral_norm", "torch.nn.utils.remove_spectral_norm(module, {name!r})"),
}
_PARAMETRIZED = (
    "torch.nn.utils.parametrize",
    "torch.nn.utils.parametrize.remove_parametrizations(module, {name!r})",
)
_OLDER = ", or torch.nn.utils.remove_weight_norm(module, {name!r}) for the older weight norm,"


def reparametrized(names: Iterable[str]) -> dict[str, str]:
    """Return what made each weight that is stored as other tensors, and what undoes it, by the weight's name."""
    parts: dict[str, set[str]] = {}
    found: dict[str, str] = {}
    for name in names:
        if new := _NEW.fullmatch(name):
            # Loading a checkpoint of the older weight norm gives its tensors these names too.
            older = _OLDER if new["part"] != "original" else ""
            found[_joined(new)] = _sentence(_PARAMETRIZED[0], _PARAMETRIZED[1] + older, new["name"])
        elif old := _SPLIT.fullmatch(name):
            parts.setdefault(_joined(old), set()).add(old["part"])
    for weight, endings in parts.items():
        for pair, (maker, cure) in _PAIRS.items():
            if endings.issuperset(pair):
                found.setdefault(weight, _sentence(maker, cure, weight.rpartition(".")[2]))
    return found


def _joined(found: re.Match[str]) -> str:
    return ".".join(part for part in (found["path"], found["name"]) if part)


def _sentence(maker: str, cure: str, name: str) -> str:
    return f"{maker} made them; call {cure.format(name=name)} for each of these modules"


def refuse_reparametrized(model: Any, what: str, missing: Iterable[str] | None = None) -> None:
    """Refuse a module in memory that computes weights from other tensors: any of them, or those that are missing."""
    _refuse(what, (name for name, _ in (*model.named_parameters(), *model.named_buffers())), missing)


def explain_missing(missing: Iterable[str], stored: Iterable[str], name: str) -> None:
    """Refuse a checkpoint that stores other tensors in place of weights that the model lacks."""
    _refuse(f"The checkpoint {name}", stored, missing, " in the program that made the model, and save it again")


def _refuse(what: str, stored: Iterable[str], missing: Iterable[str] | None, where: str = "") -> None:
    found = reparametrized(stored)
    if missing is not None:
        lost = [f".{one}" for one in missing]
        found = {
            weight: why
            for weight, why in found.items()
            if any(one.endswith(f".{weight}") or f".{weight}".endswith(one) for one in lost)
        }
    if found:
        why = next(iter(found.values()))
        raise ContentError(f"{what} has other tensors in place of the weights {listed(list(found))}: {why}{where}.")


def refuse_pruned_heads(config: Any, name: str) -> None:
    """Refuse a configuration with `pruned_heads`, which transformers ignores since version 5."""
    heads = getattr(config, "pruned_heads", None)
    if not heads:
        return
    count = sum(len(of_layer) for of_layer in heads.values()) if isinstance(heads, Mapping) else len(heads)
    raise ContentError(
        f"The configuration of {name} has pruned_heads ({count} heads in {len(heads)} layers), which transformers "
        "ignores since version 5: matrices without these heads cannot be loaded. Give the model as it was before its "
        "heads were pruned (tickets search --method importance --heads N prunes them here); if its matrices have all "
        "heads, remove the key from config.json, or set config.pruned_heads = {}."
    )
