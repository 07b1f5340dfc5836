"""`tickets runs`: what a store holds."""

from __future__ import annotations

from typing import Annotated

import typer

from winning_tickets.cli.app import app, emit
from winning_tickets.errors import UsageError
from winning_tickets.options import DEFAULT_STORE, Json, StoreFolder


@app.command()
def runs(
    store: StoreFolder = DEFAULT_STORE,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="Condition such as task=rte or 'config.sparsity>=0.6'; repeat it for several."),
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="Only runs that are done, failed, running or unfinished.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table with a column for each value.")] = False,
    as_json: Json = False,
) -> None:
    """The runs of a store: their status, settings, numbers and errors.

    Example: tickets runs --where task=rte --where 'metrics.accuracy.final.mean>0.7'
    """
    from winning_tickets.store import Store, listing

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other.")
    found = Store(store)
    if not found.exists():
        raise UsageError(f"There is no store at {store}; give the folder of one with --store.")
    records = list(found.records(where or (), status))
    text = listing.as_csv(records) if as_csv else listing.as_text(records, str(store))
    emit(listing.as_json(records, str(store)), as_json, text)
