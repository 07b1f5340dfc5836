"""`tickets compare` and `tickets inspect`: what tickets are."""

from __future__ import annotations

from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit
from winning_tickets.options import (
    Json,
)


@app.command()
def compare(
    targets: Annotated[list[str], typer.Argument(metavar="TICKET...", help="Two or more tickets.")],
    as_json: Json = False,
) -> None:
    """How much tickets overlap, beside what chance would give.

    Example: tickets compare ticket-a ticket-b --json
    """
    from winning_tickets.compare import compare as overlap

    result = overlap(targets)
    emit(result, as_json, show.comparison(result))


@app.command()
def inspect(
    ticket: Annotated[str, typer.Argument(help="A ticket folder.")],
    as_json: Json = False,
) -> None:
    """What a ticket is: exact sparsity, counts, by matrix, where it came from.

    Example: tickets inspect my-ticket --json
    """
    from winning_tickets.ticket import Ticket, children, describe

    result = describe(Ticket.from_pretrained(ticket)) | {"tickets_inside": children(ticket)}
    emit(result, as_json, show.description(result))
