"""ANALYSES: the analyses of tickets and results by kind; `report` makes tables and figures of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from winning_tickets.analysis.cards import cards
from winning_tickets.analysis.gain import gain
from winning_tickets.analysis.masks import densities, distance, similarity
from winning_tickets.analysis.predictors import predictors
from winning_tickets.analysis.sensitivity import sensitivity
from winning_tickets.analysis.sharing import sharing
from winning_tickets.analysis.winning import winning

ANALYSES: dict[str, Callable[..., dict[str, Any]]] = {
    "similarity": similarity,
    "distance": distance,
    "densities": densities,
    "predictors": predictors,
    "gain": gain,
    "winning": winning,
    "sharing": sharing,
    "sensitivity": sensitivity,
    "cards": cards,
}
"""Each analysis by its kind: the command under `tickets analyse` and `kind` in its result."""
