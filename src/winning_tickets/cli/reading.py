"""`tickets compare` and `tickets inspect`: what tickets are. `tickets average`: one score for several tasks."""

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
    average: Annotated[
        str, typer.Option(help="pooled over all weights, or the mean over the values of each matrix.")
    ] = "pooled",
    as_json: Json = False,
) -> None:
    """How much tickets overlap, beside what chance would give.

    Example: tickets compare ticket-a ticket-b --json
    """
    from winning_tickets.compare import compare as overlap

    result = overlap(targets, average)
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


@app.command()
def average(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Transfers, one a task.")],
    as_json: Json = False,
) -> None:
    """One score for several tasks, by both rules of the Super Tickets paper.

    Example: tickets average runs/cola runs/mrpc runs/rte --json
    """
    from winning_tickets.report.averages import average_runs

    result = average_runs(runs)
    emit(result, as_json, show.averages(result))
