"""`tickets combine`."""

from __future__ import annotations

from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit
from winning_tickets.options import Force, Json, Out


@app.command()
def combine(
    operation: Annotated[str, typer.Argument(metavar="OPERATION", help="union, intersection or difference.")],
    targets: Annotated[list[str], typer.Argument(metavar="TICKETS...", help="Two or more of one model and scope.")],
    out: Out,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a ticket of what several tickets keep; a difference is what the first keeps and no other does.

    Example: tickets combine intersection ticket-a ticket-b --out shared-core
    """
    from winning_tickets.algebra import save_combined

    result = save_combined(operation, targets, out, force) | {"out": str(out)}
    return emit(result, as_json, show.derived(result))
