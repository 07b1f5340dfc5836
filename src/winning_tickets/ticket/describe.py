"""What `tickets inspect` says of a ticket."""

from __future__ import annotations

import json
from typing import Any

from winning_tickets.architectures import ARCHITECTURES
from winning_tickets.structure import count_units
from winning_tickets.ticket.masks import Ticket


def _pruned_units(ticket: Ticket) -> dict[str, list[int]] | None:
    """Indices of what is pruned, by gate; neurons, which are too many to list, are left to the counts."""
    if ticket.structure is None:
        return None
    gates = {name: gate for name, gate in ticket.gates.items() if not name.endswith(".neurons")}
    return {name: (~gate).nonzero().flatten().tolist() for name, gate in gates.items()}


def describe(ticket: Ticket) -> dict[str, Any]:
    """The facts about a ticket that `tickets inspect` prints: exact sparsity, counts, by matrix, provenance."""
    info = ticket.info
    architecture = ARCHITECTURES.get(ticket.base.model_type)
    return {
        "id": ticket.id,
        "method": info.method,
        "scope": info.scope,
        "pattern": info.config.get("pattern"),
        "units": None if ticket.structure is None else count_units(ticket.gates, ticket.structure),
        "pruned_units": _pruned_units(ticket),
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "by_matrix": ticket.sparsity_by_matrix(),
        "base": {"name": ticket.base.name, "revision": ticket.base.revision, "hash": ticket.base.hash},
        "layers": ticket.base.layers,
        "shared_layers": architecture is not None and architecture.shared_layers,
        "seed": info.seed,
        "step": info.step,
        "mlm_head": ticket.mlm_head is not None,
        "scores_from": info.scores_from,
        "parents": list(info.parents),
        "config": json.loads(json.dumps(info.config)),
        "versions": info.versions,
    }
