"""Overlap of masks: similarity of tickets, and distances along a search (TAMT, Figure 8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from winning_tickets.config import Pattern
from winning_tickets.models.architectures import ARCHITECTURES, prunable_views, split_name
from winning_tickets.models.given import GivenModel
from winning_tickets.models.loading import PLM
from winning_tickets.report.result import resulting
from winning_tickets.runs import memory
from winning_tickets.runs.errors import ContentError, UsageError, unknown
from winning_tickets.studies.analysis.report.views import REPORTS
from winning_tickets.studies.analysis.results import as_list
from winning_tickets.tickets.files import INFO_FILE, children
from winning_tickets.tickets.overlap import OF, Average, Of, check_scopes, compare, jaccard, overlap_by_matrix, pool
from winning_tickets.tickets.selection import keep_top
from winning_tickets.tickets.target import Target
from winning_tickets.tickets.ticket import Ticket, labels_of, names_of, open_ticket


def base_model_of(ticket: Ticket, name: str, base: Any, why: str) -> PLM:
    """Load the pre-trained model of a ticket; `why` tells, in error messages, why it is needed and what to do."""
    # `base` is a name or the model itself, and replaces the base model that the ticket names.
    about = ticket.base
    given = GivenModel.of(base) if isinstance(base, nn.Module) else None
    model = str(base or about.name) if given is None else given.name
    with nullcontext() if given is None else memory.given(model, given):
        plm = Target(name, ticket, model, about.revision, about.layers).load(advice=why)
    ticket.check(plm.encoder)
    return plm


AnyTicket = Ticket | str | Path
"""A ticket itself, or its folder or hub id."""
Tickets = AnyTicket | Sequence[AnyTicket]


@resulting(views=REPORTS)
def similarity(
    paths: Tickets, *, of: Of = "kept", average: Average = "pooled", labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the Jaccard similarity of every pair of tickets; `chance` is that of independent random masks."""
    if of not in OF:
        raise unknown("kind of weights", of, OF)
    paths = as_list(paths)
    compared = compare(paths, average)
    return {
        "kind": "similarity",
        "labels": labels_of(paths, labels),
        "paths": compared["names"],
        **{key: compared[key] for key in ("ids", "sparsity", "same_base")},
        "of": of,
        "average": average,
        "jaccard": compared[f"{of}_jaccard"],
        "chance": compared[f"chance_{of}"],
    }


ROLES = ("Q", "K", "V", "AO", "FI", "FO")
EMBEDDINGS, POOLER, OTHER = "embeddings", "pooler", "other"
KINDS = (EMBEDDINGS, *ROLES, POOLER, OTHER)
"""Kinds of matrices (TAMT, section 3.1), in the order of the model."""

Place = tuple[int | None, str]


def places(ticket: Ticket) -> dict[str, Place]:
    """Return layer (from 0; None outside the layers) and kind of each matrix of a ticket; `other` for unknown kinds."""
    architecture = ARCHITECTURES.get(ticket.base.model_type)
    if architecture is None:
        return dict.fromkeys(ticket.masks, (None, OTHER))
    layers = re.compile(re.escape(architecture.layers).replace(r"\*", r"\d+") + r"(?=\.)")
    exact = {name: role for role, matrices in architecture.matrices.items() for name in matrices}
    roles: dict[str, list[str]] = {}  # roles of the parts of a parameter, in order, as part sizes vary with the model
    for name, role in exact.items():
        roles.setdefault(name.partition("[")[0], []).append(role)
    outside = {architecture.word_embeddings: EMBEDDINGS, architecture.pooler: POOLER}
    numbers: dict[str, int] = {}  # layers are numbered in order, because a path may have several indices
    found: dict[str, Place] = {}
    starts: dict[str, list[int]] = {}
    for name in ticket.masks:
        starts.setdefault(name.partition("[")[0], []).append(split_name(name).start)
    for name in ticket.masks:
        match = layers.match(name)
        if match:
            number = numbers.setdefault(match[0], len(numbers))
            parameter = name.partition("[")[0]
            parts = dict(zip(sorted(starts[parameter]), roles.get(parameter[match.end() + 1 :], []), strict=False))
            found[name] = (number, exact.get(name[match.end() + 1 :], parts.get(split_name(name).start, OTHER)))
        else:
            found[name] = (None, outside.get(name, OTHER))
    return found


@resulting(views=REPORTS)
def distance(
    paths: Tickets,
    *,
    reference: AnyTicket | None = None,
    base: Any = None,
    labels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return distances (1 - Jaccard similarity of kept weights) of the tickets saved along searches.

    Distances are to `reference` (None: the OMP ticket of the same weights and settings), and to the first and the
    previous ticket of the search with the same sparsity. `base` is the base model, by name or in memory.
    """
    paths = as_list(paths)
    if not paths:
        raise UsageError("No search was given; give one or more folders made by tickets search.")
    names = labels_of(paths, labels)
    given = None if reference is None else open_ticket(reference)
    computed: dict[tuple[Any, ...], Ticket] = {}

    def reference_of(ticket: Ticket, folder: AnyTicket) -> Ticket:
        if given is not None:
            check_scopes(names_of([folder])[0], ticket, "the reference", given)
            return given
        key = (ticket.base.hash, tuple(ticket.masks), *_pruning_settings(ticket, folder))
        if key not in computed:
            computed[key] = omp_ticket(ticket, folder, base)
        return computed[key]

    searches = [
        _search(name, path, sparsity, folders, reference_of=reference_of)
        for name, path in zip(names, paths, strict=True)
        for sparsity, folders in _by_sparsity(path).items()
    ]
    return {
        "kind": "distance",
        "reference": None if reference is None else names_of([reference])[0],
        "searches": searches,
    }


def _by_sparsity(given: AnyTicket) -> dict[float, list[AnyTicket]]:
    """Return the tickets of a search by sparsity, one per step in order; a ticket in memory is the only one."""
    if isinstance(given, Ticket):
        return {round(given.sparsity, 3): [given]}
    path = Path(given)
    folders = ([path] if (path / INFO_FILE).is_file() else []) + [path / name for name in children(path)]
    if not folders:
        raise UsageError(
            f"{path} holds no ticket; give folders made by tickets search (--save-at saves tickets along the way)."
        )
    found: dict[float, dict[int, Path]] = {}
    for folder in reversed(folders):  # the final ticket replaces another ticket of the same step
        ticket = Ticket.from_pretrained(folder)
        found.setdefault(round(ticket.sparsity, 3), {})[ticket.info.step or 0] = folder
    return {sparsity: [steps[step] for step in sorted(steps)] for sparsity, steps in sorted(found.items())}


def _search(
    label: str,
    path: AnyTicket,
    sparsity: float,
    folders: Sequence[AnyTicket],
    *,
    reference_of: Callable[[Ticket, AnyTicket], Ticket],
) -> dict[str, Any]:
    first = open_ticket(folders[0])
    checkpoints: list[dict[str, Any]] = []
    previous: Ticket | None = None
    for folder in folders:
        ticket = open_ticket(folder)
        parts = overlap_by_matrix(ticket, reference_of(ticket, folder))
        where = {name: kind for name, (_, kind) in places(ticket).items()}
        kinds = [kind for kind in KINDS if kind in where.values()]
        whole = pool(parts)
        checkpoints.append(
            {
                "step": ticket.info.step or 0,
                "folder": names_of([folder])[0],
                "ticket_id": ticket.id,
                "to_reference": 1 - whole.kept,
                "to_first": 1 - jaccard(ticket, first),
                "to_previous": None if previous is None else 1 - jaccard(ticket, previous),
                "by_kind": {
                    kind: 1 - pool({name: part for name, part in parts.items() if where[name] == kind}).kept
                    for kind in kinds
                },
                "chance": 1 - whole.chance_kept,
            }
        )
        previous = ticket
    return {
        "label": label,
        "path": names_of([path])[0],
        "method": first.info.method,
        "objective": first.info.config.get("objective") if first.info.method == "mask-training" else None,
        "sparsity": sparsity,
        "checkpoints": checkpoints,
    }


def _pruning_settings(ticket: Ticket, folder: AnyTicket) -> tuple[Any, Any, Any, str | None]:
    """Return sparsity, ranking, rounding and N:M pattern of a ticket's search."""
    config = ticket.info.config
    sparsity = config.get("sparsity")
    if not isinstance(sparsity, float | int) or isinstance(sparsity, bool) or "ranking" not in config:
        name = names_of([folder])[0]
        raise ContentError(f"The ticket {name} lacks its sparsity or ranking; give its OMP ticket with --reference.")
    return sparsity, config["ranking"], config.get("count_rounding") or "floor", config.get("pattern")


def omp_ticket(ticket: Ticket, folder: AnyTicket, base: Any = None) -> Ticket:
    """Return the one-shot magnitude ticket with the same weights, matrices, sparsity, ranking, rounding and pattern."""
    sparsity, ranking, rounding, pattern = _pruning_settings(ticket, folder)
    why = "The OMP ticket needs the base model; give its place with --base, or the OMP ticket with --reference."
    plm = base_model_of(ticket, names_of([folder])[0], base, why)
    magnitudes = {name: weight.abs() for name, weight in prunable_views(plm.encoder, ticket.masks).items()}
    n_of_m = None if pattern is None else Pattern.parse(pattern)
    masks = keep_top(magnitudes, sparsity, ranking, rounding=rounding, pattern=n_of_m)
    info = ticket.info.model_copy(update={"method": "magnitude", "step": None, "seed": None})
    return Ticket(masks, info)
