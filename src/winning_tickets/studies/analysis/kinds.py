"""ANALYSES: the analyses of tickets and results by kind; `report` makes tables and figures of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from winning_tickets.studies.analysis.data_cards import cards
from winning_tickets.studies.analysis.masks import distance, similarity
from winning_tickets.studies.analysis.paired_gains import gain
from winning_tickets.studies.analysis.shared_units import sharing
from winning_tickets.studies.analysis.transfer_predictors import predictors
from winning_tickets.studies.analysis.winning_criteria import winning

ANALYSES: dict[str, Callable[..., dict[str, Any]]] = {
    "similarity": similarity,
    "distance": distance,
    "predictors": predictors,
    "gain": gain,
    "winning": winning,
    "sharing": sharing,
    "cards": cards,
}
"""Each analysis by its kind: the command under `tickets analyse` and `kind` in its result."""
