"""What the tickets of several tasks have in common: who keeps which head and FFN (Super Tickets, sections 4 and 8)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from winning_tickets.analyse.members import Member, open_members
from winning_tickets.analyse.task_shares import UNITS, Array, open_importances, task_shares
from winning_tickets.compare import all_overlaps, averaged
from winning_tickets.structure import open_units


def sharing(
    paths: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    importances: Sequence[str | Path] | None = None,
    definition: str = "sample",
    base: str | None = None,
) -> dict[str, Any]:
    """Which tasks keep which heads and FFNs, and how much each of them makes of it.

    Weight that remains is counted as in the paper: of all parameters of the encoder, embeddings included; biases of
    what is pruned do not count.

    Args:
        paths: structured tickets of one encoder, one a task; or a shared model (`tickets share`).
        names: of the tasks; by default those that the tickets were found on, else the folders'.
        importances: folders of searches by importance, one a task; by default those of the tickets, if all have one.
        definition: of importance (`importance.DEFINITIONS`).
        base: where the base model is now, if not where the tickets say.

    Returns:
        `tasks`, `union`, `intersection`, `used_by` (how many structures 0, 1, ... tasks keep), `layers`, `overlap`
        (Jaccard), `structures` (one record a head and FFN), `importance` (None without).

    Raises:
        UsageError: fewer than two tasks, something is not there, a folder without importance, or unknown words.
        ContentError: a damaged ticket, one of single weights, or different encoders.
    """
    members, plm = open_members(paths, names, base)
    kept = {unit: np.stack([_kept(member, unit) for member in members]) for unit in _units(members)}
    encoder = {
        "name": members[0].ticket.base.name,
        "hash": members[0].ticket.base.hash,
        "layers": len(members[0].structure.layers),
        "heads": members[0].structure.num_heads,
        "parameters": sum(parameter.numel() for parameter in plm.encoder.parameters()),
    }
    shares = _shares(members, importances, definition)
    return {
        "kind": "sharing",
        "encoder": encoder,
        "tasks": [_task(member, index, kept, encoder) for index, member in enumerate(members)],
        "union": _together(members, kept, encoder, every=False),
        "intersection": _together(members, kept, encoder, every=True),
        "used_by": {unit: _used_by(one) for unit, one in kept.items()},
        "layers": [
            {"layer": layer} | {unit: _used_by(one[:, layer]) for unit, one in kept.items()}
            for layer in range(kept["heads"].shape[1])
        ],
        "overlap": _overlap(members, kept),
        "structures": _structures(members, kept, shares),
        "importance": None if shares is None else shares.about,
        "without_importance": [] if shares else [member.name for member in members if member.importance is None],
    }


def _units(members: Sequence[Member]) -> list[str]:
    """Heads and FFNs, and neurons where some ticket prunes them one by one."""
    neurons = any(name.endswith(".neurons") for member in members for name in member.ticket.gates)
    return [*UNITS, *(["neurons"] if neurons else [])]


def _kept(member: Member, unit: str) -> Array:
    """bool `(layers, n)`: which heads, FFNs or neurons compute, the gate of a whole layer taken into account."""
    structure = member.structure
    layers = [open_units(member.ticket.gates, structure, layer) for layer in range(len(structure.layers))]
    if unit == "ffns":
        return np.array([[layer.ffn] for layer in layers])
    return np.stack([(layer.heads if unit == "heads" else layer.neurons).numpy() for layer in layers])


def _remaining(kept: int, total: int, encoder: Mapping[str, Any]) -> dict[str, float]:
    """Of all parameters of the encoder, and of the matrices of its layers."""
    return {"weight_remaining": 1 - (total - kept) / encoder["parameters"], "kept_of_matrices": kept / total}


def _task(member: Member, index: int, kept: Mapping[str, Array], encoder: Mapping[str, Any]) -> dict[str, Any]:
    ticket = member.ticket
    return {
        "task": member.name,
        "path": member.path,
        "ticket_id": None if member.whole else ticket.id,
        "method": None if member.whole else ticket.info.method,
        **{unit: int(one[index].sum()) for unit, one in kept.items()},
        **_remaining(ticket.total - ticket.pruned, ticket.total, encoder),
    }


def _together(
    members: Sequence[Member], kept: Mapping[str, Array], encoder: Mapping[str, Any], every: bool
) -> dict[str, Any]:
    """What some task keeps, or `every` one: structures and weights."""
    combine = torch.logical_and if every else torch.logical_or
    weights = 0
    for name, mask in members[0].ticket.masks.items():
        for member in members[1:]:
            mask = combine(mask, member.ticket.masks[name])
        weights += int(mask.sum())
    counts = {unit: int((one.all(0) if every else one.any(0)).sum()) for unit, one in kept.items()}
    return counts | _remaining(weights, members[0].ticket.total, encoder)


def _used_by(kept: Array) -> list[int]:
    """How many structures are kept by 0, 1, ... tasks; `kept` is bool `(tasks, ...)`."""
    return [int(count) for count in np.bincount(kept.sum(0).ravel(), minlength=len(kept) + 1)]


def _overlap(members: Sequence[Member], kept: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Jaccard similarity of every pair: of structures, beside the level of random tickets as large, and of weights."""
    weights = all_overlaps([member.ticket for member in members])
    found = []
    for i, j in itertools.combinations(range(len(members)), 2):
        record: dict[str, Any] = {"tasks": [members[i].name, members[j].name]}
        for unit, one in kept.items():
            first, second, both = (int(part.sum()) for part in (one[i], one[j], one[i] & one[j]))
            record[unit] = _jaccard(both, first, second)
            record[f"{unit}_chance"] = _jaccard(first * second / one[i].size, first, second)
        found.append(record | {"weights": averaged(weights[i, j], "kept")})
    return found


def _jaccard(both: float, first: int, second: int) -> float:
    """Two empty sets are equal."""
    union = first + second - both
    return both / union if union else 1.0


@dataclass(frozen=True)
class _Shares:
    about: dict[str, Any]
    by_unit: Mapping[str, tuple[Array, Array]]


def _shares(members: Sequence[Member], given: Sequence[str | Path] | None, definition: str) -> _Shares | None:
    own = [member.importance for member in members if member.importance is not None]
    if given is None and len(own) < len(members):
        return None
    names = [member.name for member in members]
    opened = open_importances(own if given is None else given, names, members[0].ticket)
    sources = [
        {"task": name, "id": one.id, "source": one.about.get("source")} for name, one in zip(names, opened, strict=True)
    ]
    return _Shares({"definition": definition, "sources": sources}, task_shares(opened, definition))


def _structures(members: Sequence[Member], kept: Mapping[str, Array], shares: _Shares | None) -> list[dict[str, Any]]:
    """One record for each head and FFN, by layers."""
    names = [member.name for member in members]
    found = []
    for layer in range(kept["heads"].shape[1]):
        for unit in UNITS:
            for index in range(kept[unit].shape[2]):
                tasks = [name for name, one in zip(names, kept[unit][:, layer, index], strict=True) if one]
                record: dict[str, Any] = {"unit": unit, "layer": layer, "index": index, "tasks": tasks}
                if shares is not None:
                    values, parts = (one[:, layer, index] for one in shares.by_unit[unit])
                    record["importance"] = float(values.mean())
                    record["by_task"] = dict(zip(names, values.tolist(), strict=True))
                    record["share"] = None if np.isnan(parts).any() else dict(zip(names, parts.tolist(), strict=True))
                found.append(record)
    return found
