"""The model, ticket or run that a user named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winning_tickets.models.loading import (
    PLM,
    Head,
    ModelNotFound,
    load_plm,
)
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.files import is_ticket
from winning_tickets.tickets.ticket import Ticket


@dataclass
class Target:
    """A model or a ticket as the user named it.

    Attributes:
        name: as given.
        ticket: None for a dense model.
        model: name of the (base) model.
        revision: hub revision of it.
        layers: how many layers of it are used.
    """

    name: str
    ticket: Ticket | None
    model: str
    revision: str | None
    layers: int | None

    @classmethod
    def find(cls, name: str, base: str | None = None, revision: str | None = None, layers: int | None = None) -> Target:
        """Tell tickets from models.

        Args:
            name: a ticket folder, or a model's hub id, folder or `builtin:...`.
            base: where a ticket's base model is now, if not where it was.
            revision: hub revision of the model.
            layers: first layers of a dense model; a ticket brings its own number.

        Raises:
            UsageError: `layers` contradicts the ticket, or nothing is there.
            ContentError: the ticket is damaged.
        """
        if not is_ticket(name):
            if base is not None:
                raise UsageError(f"--base goes with a ticket, and {name} is not one.")
            return cls(name, None, name, revision, layers)
        ticket = Ticket.from_pretrained(Path(name))
        if layers is not None and layers != ticket.base.layers:
            raise UsageError(
                f"--layers {layers} contradicts the ticket {name}, which was made for {ticket.base.layers}."
            )
        return cls(name, ticket, base or ticket.base.name, revision or ticket.base.revision, ticket.base.layers)

    def load(self, head: Head = "none", **options: Any) -> PLM:
        """The (base) model, dense.

        Raises:
            UsageError: it is not there; of a ticket's own one, the message says so.
            ContentError: see `load_plm`.
        """
        try:
            return load_plm(self.model, head=head, revision=self.revision, layers=self.layers, **options)
        except ModelNotFound as error:
            if self.ticket is None or self.model != self.ticket.base.name:
                raise
            raise self.ticket.base.not_found(self.name, error) from error
