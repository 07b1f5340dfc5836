"""`tickets cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit
from winning_tickets.errors import UsageError
from winning_tickets.options import (
    Json,
)

cache_app = typer.Typer(help="The tokenised corpora on disk.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cache_app, name="cache")


@cache_app.command("list")
def cache_list(as_json: Json = False) -> None:
    """Where the cache is and what it holds."""
    from winning_tickets.data.cache import cache_root, list_entries

    result = {"root": str(cache_root()), "entries": list_entries()}
    emit(result, as_json, show.cache(result))


@cache_app.command("clean")
def cache_clean(
    older_than_days: Annotated[float | None, typer.Option(help="Only entries unused for so long.")] = None,
    as_json: Json = False,
) -> None:
    """Remove tokenised corpora; they are made again when needed."""
    from winning_tickets.data.cache import clean

    if older_than_days is not None and not older_than_days >= 0:
        raise UsageError(f"--older-than-days {older_than_days} is impossible; give a number of days, such as 30.")
    freed = clean(older_than_days)
    emit({"bytes_freed": freed}, as_json, f"{freed / 1e6:.1f} MB freed")
