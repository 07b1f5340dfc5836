"""The model or ticket that a user named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from winning_tickets.models.loading import PLM, Head, ModelNotFound, examine, load_plm
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.hub import local
from winning_tickets.tickets.files import is_ticket
from winning_tickets.tickets.ticket import Ticket


@dataclass
class Target:
    """A model or a ticket as the user named it, with the name, revision and layers of the (base) model."""

    name: str
    ticket: Ticket | None
    model: str
    revision: str | None
    layers: int | None

    @classmethod
    def find(cls, name: str, base: str | None = None, revision: str | None = None, layers: int | None = None) -> Target:
        """Open a ticket, or take the name as that of a model; `base` names a base model that has moved."""
        # `revision` is always that of the (base) model, not that of a ticket on the hub.
        where = local(name)
        if not is_ticket(where):
            if base is not None:
                raise UsageError(f"--base needs a ticket, and {name} is not one.")
            return cls(name, None, name, revision, layers)
        ticket = Ticket.from_pretrained(where)
        if layers is not None and layers != ticket.base.layers:
            raise UsageError(
                f"--layers {layers} contradicts the ticket {name}, which was made for {ticket.base.layers}."
            )
        return cls(name, ticket, base or ticket.base.name, revision or ticket.base.revision, ticket.base.layers)

    def load(self, head: Head = "none", advice: str = "Say where it is now with --base.", **options: Any) -> PLM:
        """Load the dense (base) model; `advice` is added to the error message if a ticket's base model is not found."""
        with self._finding_base(advice):
            return load_plm(self.model, head=head, revision=self.revision, layers=self.layers, **options)

    def examine(self, head: Head = "none", *, require_mlm_head: bool = False) -> PLM | None:
        """Check the files of the dense (base) model as `loading.examine` does."""
        with self._finding_base("Say where it is now with --base."):
            return examine(self.model, head, self.revision, self.layers, require_mlm_head=require_mlm_head)

    @contextmanager
    def _finding_base(self, advice: str) -> Iterator[None]:
        try:
            yield
        except ModelNotFound as error:
            if self.ticket is None or self.model != self.ticket.base.name:
                raise
            raise UsageError(
                f"The base model of the ticket {self.name} was {self.model}, and it was not found. {advice} {error}"
            ) from error
