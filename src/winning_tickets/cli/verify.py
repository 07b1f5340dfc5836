"""`tickets verify`: are files still what they were?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit
from winning_tickets.options import DEFAULT_STORE, Json, StoreFolder


@app.command()
def verify(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH...]", help="Stores, runs, tickets or exports, instead of --store."),
    ] = None,
    store: StoreFolder = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Hash files again: which changed, are missing or too many, and what did killed processes leave?

    Exit code 1 where something is wrong; what it is, is on stdout.

    Example: tickets verify --store tickets-store
    """
    from winning_tickets.verify import verify as check

    result = check(paths or [store])
    emit(result, as_json, show.verification(result))
    raise typer.Exit(0 if result["ok"] else 1)
