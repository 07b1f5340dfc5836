"""Where a ticket comes from, and which weights it belongs to."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from torch import nn

from winning_tickets.errors import UsageError
from winning_tickets.plm import ModelNotFound, base_hash, weight_hashes


class BaseModelInfo(BaseModel):
    """Which weights a ticket was made for: a name to find them again, hashes to recognise them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    revision: str | None = None
    layers: int | None = None
    model_type: str
    hash: str
    tensors: dict[str, str]

    @classmethod
    def of(cls, encoder: nn.Module, name: str, model_type: str, revision: str | None, layers: int | None) -> Self:
        """Describe the weights that an encoder holds now."""
        hashes = weight_hashes(encoder)
        return cls(
            name=name,
            revision=revision,
            layers=layers,
            model_type=model_type,
            hash=base_hash(hashes),
            tensors=hashes,
        )

    def not_found(
        self, ticket: str, error: ModelNotFound, advice: str = "Say where it is now with --base."
    ) -> UsageError:
        """The error for weights that are not where their ticket says.

        Args:
            ticket: its name.
            error: what was found instead.
            advice: what to do.
        """
        return UsageError(
            f"The base model of the ticket {ticket} was {self.name}, and it was not found. {advice} {error}"
        )


class TicketInfo(BaseModel):
    """Provenance of a ticket.

    Attributes:
        method: how the masks arose.
        scope: which matrices they cover.
        config: the whole configuration of the search.
        applies_to: the weights the ticket belongs to.
        scores_from: the weights or training state its scores came from, where that is another one.
        parents: ids of the tickets it was derived from.
        step: training step at which it was taken, where there was training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    scope: str
    config: dict[str, Any]
    applies_to: BaseModelInfo
    scores_from: str | None = None
    parents: tuple[str, ...] = ()
    seed: int | None = None
    step: int | None = None
    versions: dict[str, str] = {}
