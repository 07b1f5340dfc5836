"""Heads and FFNs that the tickets of several tasks keep in common (Super Tickets, sections 4 and 8)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from winning_tickets.models.loading import PLM
from winning_tickets.models.structure import Structure, open_units
from winning_tickets.pruning.importance import DEFINITIONS, IMPORTANCE_FILE, Importance
from winning_tickets.report.result import resulting
from winning_tickets.runs.errors import ContentError, UsageError, unknown
from winning_tickets.studies.analysis.masks import AnyTicket, Tickets, base_model_of
from winning_tickets.studies.analysis.report.views import REPORTS
from winning_tickets.studies.analysis.results import as_list
from winning_tickets.tickets.overlap import Overlap, all_overlaps, pool
from winning_tickets.tickets.ticket import Ticket, labels_of, names_of, open_ticket
from winning_tickets.training.shared_model import SharedModel
from winning_tickets.training.source import SharedSource, find_source

Array = np.ndarray[Any, Any]

UNITS = ("heads", "ffns")
"""Structures that are listed one by one; there are too many neurons for that."""


def find_importance(ticket: AnyTicket) -> Path | None:
    """Return the folder with the importance of a search: the ticket's folder, or its parent with several levels."""
    if isinstance(ticket, Ticket):
        return None
    path = Path(ticket)
    return next((folder for folder in (path, path.parent) if (folder / IMPORTANCE_FILE).is_file()), None)


def open_importances(folders: Sequence[str | Path], names: Sequence[str], ticket: Ticket) -> list[Importance]:
    """Open one importance per task; all must belong to the encoder of a ticket."""
    if len(folders) != len(names):
        raise UsageError(f"--importances needs a folder for each of {', '.join(names)}, found {len(folders)}.")
    opened = []
    for folder, name in zip(folders, names, strict=True):
        where = find_importance(folder)
        if where is None:
            raise UsageError(
                f"{folder} has no {IMPORTANCE_FILE} for {name}; give the --out of a tickets search --method importance "
                "(selections winning and losing leave one)."
            )
        importance = Importance.load(where)
        found = importance.about.get("base_hash", ticket.base.hash)
        if found != ticket.base.hash or importance.structure != ticket.structure:
            raise ContentError(
                f"The importance in {where} belongs to another encoder than the tickets, which are of "
                f"{ticket.base.name}; give that of a model fine-tuned from the same weights."
            )
        opened.append(importance)
    return opened


def task_shares(importances: Sequence[Importance], definition: str = "sample") -> dict[str, tuple[Array, Array]]:
    """Return, by unit, the importance for each task `(tasks, layers, n)`, and the tasks' shares (NaN if all are 0)."""
    if definition not in DEFINITIONS:
        raise unknown("definition", definition, DEFINITIONS)
    found = {}
    for unit in UNITS:
        # Tasks are put on one scale: heads by the l2 norm of their layer, FFNs (one per layer) by the l2 norm of all.
        scores: list[Array] = [one.scores(definition, unit).numpy() for one in importances]
        if unit == "ffns":
            norms = [np.linalg.norm(own) for own in scores]
            scores = [own / norm if norm > 0 else own for own, norm in zip(scores, norms, strict=True)]
        values = np.stack(scores)
        total = values.sum(0)
        found[unit] = values, np.divide(values, total, out=np.full(values.shape, np.nan), where=total > 0)
    return found


@dataclass(frozen=True)
class Member:
    """A task and its ticket."""

    name: str
    path: str
    ticket: Ticket  # of heads, FFNs or neurons; for a task without a ticket, one that prunes nothing
    whole: bool = False  # true if the task has no ticket of its own
    importance: Path | None = None  # folder with the importance for the task

    @property
    def structure(self) -> Structure:
        """The structure of the encoder."""
        assert self.ticket.structure is not None
        return self.ticket.structure


def open_members(paths: Sequence[AnyTicket], names: Sequence[str] | None, base: Any) -> tuple[list[Member], PLM]:
    """Open the tickets of all tasks, and the encoder that they share."""
    if len(paths) == 1 and not isinstance(paths[0], Ticket):
        source = find_source(paths[0])
        if isinstance(source, SharedSource):
            return _of_shared_model(source.open_shared(), names, base)
    if len(paths) < 2:
        raise UsageError(
            f"There is nothing to share: {len(paths)} ticket was given, expected those of two or more tasks, or one "
            "shared model of tickets share."
        )
    tickets = [open_ticket(path) for path in paths]
    where = names_of(paths)
    _check(where, tickets)
    if names is None:
        # `scores_from` begins with the task, as in `rte, fine-tuned with seed 0`; equal tasks are named by folders.
        tasks = [(ticket.info.scores_from or "").partition(", fine-tuned")[0] for ticket in tickets]
        found = tasks if all(tasks) and len(set(tasks)) == len(tasks) else labels_of(paths)
    else:
        found = labels_of(paths, names, "--names")
    members = [
        Member(name, place, ticket, importance=find_importance(path))
        for name, place, path, ticket in zip(found, where, paths, tickets, strict=True)
    ]
    why = "The parameters of the base model are counted; say where it is with --base."
    return members, base_model_of(tickets[0], where[0], base, why)


def _of_shared_model(model: SharedModel, names: Sequence[str] | None, base: Any) -> tuple[list[Member], PLM]:
    for option, given in (("--names", names), ("--base", base)):
        if given is not None:
            raise UsageError(f"{option} is for folders of tickets; the shared model {model.path} has its own.")
    tickets = {task: model.ticket(task) for task in model.tasks}
    own = {task: ticket for task, ticket in tickets.items() if ticket is not None}
    if not own:
        raise UsageError(f"The shared model {model.path} has no tickets: every task uses the whole encoder.")
    _check([f"{model.path} ({task})" for task in own], list(own.values()))
    like = next(iter(own.values()))
    gates = {name: torch.ones_like(gate) for name, gate in like.gates.items()}
    whole = Ticket({}, like.info, gates=gates, structure=like.structure)  # prunes nothing
    members = [Member(task, str(model.path), own.get(task, whole), whole=task not in own) for task in model.tasks]
    return members, model.load_encoder()


def _check(paths: Sequence[str], tickets: Sequence[Ticket]) -> None:
    """Refuse tickets of single weights, and tickets of different encoders."""
    first = tickets[0]
    for path, ticket in zip(paths, tickets, strict=True):
        if ticket.structure is None:
            raise ContentError(
                f"{path} is a ticket of single weights ({ticket.info.method}); give tickets of heads and FFNs (tickets "
                "search --method importance), or compare weights with tickets compare."
            )
        if ticket.base.hash != first.base.hash or ticket.structure != first.structure:
            raise ContentError(
                f"{paths[0]} was made for the weights of {first.base.name}, and {path} for other ones, those of "
                f"{ticket.base.name}; tasks share one encoder, so give tickets of the same weights."
            )


@resulting(views=REPORTS)
def sharing(
    paths: Tickets,
    *,
    names: Sequence[str] | None = None,
    importances: Sequence[str | Path] | None = None,
    definition: str = "sample",
    base: Any = None,
) -> dict[str, Any]:
    """Return the heads and FFNs that each task keeps, their overlap between tasks, and each structure's importance.

    `importances` are folders of the tickets' searches, needed for tickets in memory. `base` is the base model, by name
    or in memory.
    """
    members, plm = open_members(as_list(paths), names, base)
    # Neurons are counted only if some ticket prunes single neurons.
    neurons = any(name.endswith(".neurons") for member in members for name in member.ticket.gates)
    units = [*UNITS, *(["neurons"] if neurons else [])]
    kept = {unit: np.stack([_kept(member, unit) for member in members]) for unit in units}
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
        "importance": None if shares is None else shares[0],
        "spread": None if shares is None else _spread([member.name for member in members], shares[1]),
        "without_importance": [] if shares else [member.name for member in members if member.importance is None],
    }


def _kept(member: Member, unit: str) -> Array:
    """Return which heads, FFNs or neurons are kept, bool `(layers, n)`; a pruned layer keeps none."""
    structure = member.structure
    layers = [open_units(member.ticket.gates, structure, layer) for layer in range(len(structure.layers))]
    if unit == "ffns":
        return np.array([[layer.ffn] for layer in layers])
    return np.stack([(layer.heads if unit == "heads" else layer.neurons).numpy() for layer in layers])


def _remaining(kept: int, total: int, encoder: Mapping[str, Any]) -> dict[str, float]:
    """Return kept weights as a share of all encoder parameters (as in the paper) and of the matrices of the layers."""
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
    members: Sequence[Member], kept: Mapping[str, Array], encoder: Mapping[str, Any], *, every: bool
) -> dict[str, Any]:
    """Count the structures and weights that at least one task keeps, or that `every` task keeps."""
    combine = torch.logical_and if every else torch.logical_or
    weights = 0
    for name, mask in members[0].ticket.masks.items():
        for member in members[1:]:
            mask = combine(mask, member.ticket.masks[name])
        weights += int(mask.sum())
    counts = {unit: int((one.all(0) if every else one.any(0)).sum()) for unit, one in kept.items()}
    return counts | _remaining(weights, members[0].ticket.total, encoder)


def _used_by(kept: Array) -> list[int]:
    """Count structures that 0, 1, ... tasks keep; `kept` is bool `(tasks, ...)`."""
    return [int(count) for count in np.bincount(kept.sum(0).ravel(), minlength=len(kept) + 1)]


def _overlap(members: Sequence[Member], kept: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Return the Jaccard similarity of every pair of tasks, of structures (and by chance) and of weights."""
    weights = all_overlaps([member.ticket for member in members])
    found = []
    for i, j in itertools.combinations(range(len(members)), 2):
        record: dict[str, Any] = {"tasks": [members[i].name, members[j].name]}
        for unit, one in kept.items():
            first, second, both = (int(part.sum()) for part in (one[i], one[j], one[i] & one[j]))
            overlap = Overlap(both, first, second, one[i].size, first * second / one[i].size)
            record[unit], record[f"{unit}_chance"] = overlap.kept, overlap.chance_kept
        found.append(record | {"weights": pool(weights[i, j]).kept})
    return found


Shares = tuple[dict[str, Any], Mapping[str, tuple[Array, Array]]]


def _shares(members: Sequence[Member], given: Sequence[str | Path] | None, definition: str) -> Shares | None:
    """Return the sources of the importances, and their values by unit; None if a task has no importance."""
    own = [member.importance for member in members if member.importance is not None]
    if given is None and len(own) < len(members):
        return None
    names = [member.name for member in members]
    opened = open_importances(own if given is None else given, names, members[0].ticket)
    sources = [
        {"task": name, "id": one.id, "source": one.about.get("source")} for name, one in zip(names, opened, strict=True)
    ]
    return {"definition": definition, "sources": sources}, task_shares(opened, definition)


EVEN, MOST, DOMINANT, JOINTLY = 1.5, 5 / 8, 1 / 2, 2 / 3
"""The largest ratio of almost equal shares, the part of tasks that is most, and shares that dominate: alone, in two."""


def _spread(names: Sequence[str], found: Mapping[str, tuple[Array, Array]]) -> dict[str, Any]:
    """Return how the tasks share the heads and FFNs, by the words of section 8 of Super Tickets.

    `even` is the share of structures with almost equal shares of more than five of eight tasks; `served` is each task's
    mean share of those, relative to an even share; `dominated` is the share of structures that belong mostly to one
    task, or to two together.
    """
    every = np.concatenate([parts.reshape(len(names), -1) for _, parts in found.values()], axis=1)
    shares = np.sort(every[:, ~np.isnan(every).any(0)], axis=0)  # of tasks, from the lowest
    least = int(MOST * len(names)) + 1  # tasks in the smallest group that is most of them
    ratios = [shares[start : start + least] for start in range(len(names) - least + 1)]
    even = np.any([(own[0] > 0) & (own[-1] <= EVEN * own[0]) for own in ratios], axis=0)
    dominated = (shares[-1] > DOMINANT) | (shares[-2:].sum(0) > JOINTLY if len(names) > 2 else False)
    own = every[:, ~np.isnan(every).any(0)][:, even]
    return {
        "structures": shares.shape[1],
        "even": float(even.mean()) if even.size else None,
        "dominated": float(dominated.mean()) if even.size else None,
        "served": {
            name: float(len(names) * row.mean()) if row.size else None for name, row in zip(names, own, strict=True)
        },
    }


def _structures(members: Sequence[Member], kept: Mapping[str, Array], shares: Shares | None) -> list[dict[str, Any]]:
    """Return one record per head and FFN, layer by layer."""
    names = [member.name for member in members]
    found = []
    for layer in range(kept["heads"].shape[1]):
        for unit in UNITS:
            for index in range(kept[unit].shape[2]):
                tasks = [name for name, one in zip(names, kept[unit][:, layer, index], strict=True) if one]
                record: dict[str, Any] = {"unit": unit, "layer": layer, "index": index, "tasks": tasks}
                if shares is not None:
                    values, parts = (one[:, layer, index] for one in shares[1][unit])
                    record["importance"] = float(values.mean())
                    record["by_task"] = dict(zip(names, values.tolist(), strict=True))
                    record["share"] = None if np.isnan(parts).any() else dict(zip(names, parts.tolist(), strict=True))
                found.append(record)
    return found
