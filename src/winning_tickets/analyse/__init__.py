"""ANALYSES: what tickets and results say together, as plain records; `report` writes and draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from winning_tickets.analyse.cards import cards
from winning_tickets.analyse.densities import densities
from winning_tickets.analyse.distance import distance
from winning_tickets.analyse.gain import gain
from winning_tickets.analyse.predictors import predictors
from winning_tickets.analyse.sensitivity import sensitivity
from winning_tickets.analyse.sharing import sharing
from winning_tickets.analyse.similarity import similarity
from winning_tickets.analyse.winning import winning

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
"""Each analysis by its kind, which is the word of the command line and `kind` in its result."""
