"""Analyses of tickets and results; `__all__` has the public names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from winning_tickets.studies.analysis.data_cards import cards as cards
    from winning_tickets.studies.analysis.masks import distance as distance
    from winning_tickets.studies.analysis.masks import similarity as similarity
    from winning_tickets.studies.analysis.paired_gains import gain as gain
    from winning_tickets.studies.analysis.shared_units import sharing as sharing
    from winning_tickets.studies.analysis.transfer_predictors import predictors as predictors
    from winning_tickets.studies.analysis.winning_criteria import winning as winning

__all__ = [
    *("similarity", "distance", "predictors", "gain", "winning", "sharing", "cards"),
]


def __getattr__(name: str) -> Any:
    """Resolve public names on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from winning_tickets.studies.analysis.kinds import ANALYSES

    return ANALYSES[name]
