"""Where a masked matrix lies: its layer, and what it does there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from winning_tickets.architectures import ARCHITECTURES, Architecture
from winning_tickets.ticket import Ticket

ROLES = ("Q", "K", "V", "AO", "FI", "FO")
EMBEDDINGS, POOLER, OTHER = "embeddings", "pooler", "other"
KINDS = (EMBEDDINGS, *ROLES, POOLER, OTHER)
"""Kinds of matrices (TAMT, section 3.1), in the order of the model."""

Place = tuple[int | None, str]


def places(ticket: Ticket) -> dict[str, Place]:
    """Layer (from 0; None outside the layers) and kind of each matrix of a ticket, by its name.

    A matrix that the table of architectures does not know is of the kind `other`.
    """
    architecture = ARCHITECTURES.get(ticket.base.model_type)
    if architecture is None:
        return dict.fromkeys(ticket.masks, (None, OTHER))
    return _places(list(ticket.masks), architecture)


def _places(names: Sequence[str], architecture: Architecture) -> dict[str, Place]:
    layers = re.compile(re.escape(architecture.layers).replace(r"\*", r"\d+") + r"(?=\.)")
    roles = {name: role for role, matrices in architecture.matrices.items() for name in matrices}
    numbers: dict[str, int] = {}  # a path may hold several indices; layers are counted as they come
    found: dict[str, Place] = {}
    for name in names:
        match = layers.match(name)
        if match:
            number = numbers.setdefault(match[0], len(numbers))
            found[name] = (number, roles.get(name[match.end() + 1 :], OTHER))
        else:
            kind = {architecture.word_embeddings: EMBEDDINGS, architecture.pooler: POOLER}.get(name, OTHER)
            found[name] = (None, kind)
    return found
