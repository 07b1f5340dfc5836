"""The configurations of searches whose scores need no training: random, magnitude and Wanda."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from winning_tickets.config.search import TICKET, CalibratedSearch, CountedSearch, RoundedWeights
from winning_tickets.config.settings import setting
from winning_tickets.config.weights import PRETRAINED, parse_start
from winning_tickets.runs.errors import problems_of


class RandomSearch(RoundedWeights, CountedSearch):
    """Random tickets with the exact number of weights."""

    finder = "winning_tickets.pruning.one_shot:find_random_ticket"


class MagnitudeSearch(RoundedWeights, CountedSearch):
    """Tickets of the largest absolute weights."""

    finder = "winning_tickets.pruning.one_shot:find_magnitude_ticket"

    weights_from: str = setting(
        PRETRAINED,
        "Weights whose magnitudes are ranked: pretrained, reinit, shuffle-within, shuffle-encoder, shuffle-layers, "
        "noise:0.1 or a path.",
        TICKET,
    )

    def problems(self) -> list[str]:
        wrong = problems_of(lambda: parse_start(self.weights_from))
        return super().problems() + [f"--weights-from: {line}" for line in wrong]


class WandaSearch(CalibratedSearch, RoundedWeights, CountedSearch):
    """Tickets of the largest products of absolute weights and norms of their inputs."""

    finder = "winning_tickets.pruning.one_shot:find_wanda_ticket"
    usual: ClassVar[Mapping[str, Any]] = {"ranking": "row"}
