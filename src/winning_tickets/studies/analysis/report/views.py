"""The table and the figure of each analysis by its kind."""

from __future__ import annotations

from collections.abc import Callable

from winning_tickets.report.figures import Drawing
from winning_tickets.report.overlap import similarity_figure, similarity_table
from winning_tickets.report.tables import Result, Table
from winning_tickets.studies.analysis.report import cards, distance, gain, predictors, sharing, winning

REPORTS: dict[str, tuple[Callable[[Result], Table], Callable[[Result], Drawing]]] = {
    "similarity": (similarity_table, similarity_figure),
    "distance": (distance.distance_table, distance.distance_figure),
    "predictors": (predictors.predictors_table, predictors.predictors_figure),
    "gain": (gain.gain_table, gain.gain_figure),
    "winning": (winning.winning_table, winning.winning_figure),
    "sharing": (sharing.sharing_table, sharing.sharing_figure),
    "cards": (cards.cards_table, cards.cards_figure),
}
"""The functions that make the table and the figure of each analysis, by its kind."""


def analysis_table(result: Result) -> Table:
    """Return the table of an analysis, from the result of a function of `ANALYSES`."""
    return REPORTS[result["kind"]][0](result)


def figure(result: Result) -> Drawing:
    """Return the figure of an analysis: the bytes of a file for each format of figures."""
    return REPORTS[result["kind"]][1](result)
