"""What tickets keep of each matrix: shares of weights, and rows and columns that are gone altogether."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from winning_tickets.analyse.opening import labels_of
from winning_tickets.analyse.places import places
from winning_tickets.errors import UsageError
from winning_tickets.ticket import Ticket


def densities(paths: Sequence[str | Path], *, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """Kept fraction of each matrix, and fractions of its output rows and input columns without a kept weight.

    A row of a linear layer's weight makes one output, a column reads one input; a row of the embeddings is a token.
    Ranking inside each matrix keeps the same fraction of all (up to rounding); rows and columns tell more there.

    Args:
        paths: ticket folders or hub ids, of any scopes and models.
        labels: a name for each ticket; by default those of the folders.

    Returns:
        `tickets`: for each one `matrices`, a record each: `name`, `layer` (None outside the layers), `kind`, `shape`,
        `kept`, `empty_rows`, `empty_columns` (fractions); and `constant`: all keep the same, up to rounding.

    Raises:
        UsageError: no ticket, one that is not there, or labels that do not fit.
        ContentError: a damaged ticket.
    """
    if not paths:
        raise UsageError("No ticket was given; give one or more folders made by tickets search.")
    names = labels_of(paths, labels)
    return {
        "kind": "densities",
        "tickets": [_ticket(name, path, Ticket.from_pretrained(path)) for name, path in zip(names, paths, strict=True)],
    }


def _ticket(label: str, path: str | Path, ticket: Ticket) -> dict[str, Any]:
    where = places(ticket)
    matrices = [
        {"name": name, "layer": where[name][0], "kind": where[name][1], **_facts(mask)}
        for name, mask in ticket.masks.items()
    ]
    # Rounding moves the count of a matrix by less than one weight.
    lowest = max(one["kept"] - 1 / mask.numel() for one, mask in zip(matrices, ticket.masks.values(), strict=True))
    highest = min(one["kept"] + 1 / mask.numel() for one, mask in zip(matrices, ticket.masks.values(), strict=True))
    return {
        "label": label,
        "path": str(path),
        "id": ticket.id,
        "method": ticket.info.method,
        "sparsity": ticket.sparsity,
        "constant": lowest < highest,
        "matrices": matrices,
    }


def _facts(mask: Tensor) -> dict[str, Any]:
    kept = mask.reshape(mask.shape[0], -1).cpu().numpy()
    rows, columns = kept.any(1), kept.any(0)
    return {
        "shape": list(mask.shape),
        "kept": int(np.count_nonzero(kept)) / kept.size,
        "empty_rows": 1 - int(np.count_nonzero(rows)) / rows.size,
        "empty_columns": 1 - int(np.count_nonzero(columns)) / columns.size,
    }
