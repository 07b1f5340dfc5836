"""`tickets runs` and `tickets cache`: the runs of a store or a folder, and tokenized corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from winning_tickets.cli import commands, show
from winning_tickets.cli.commands import app, emit
from winning_tickets.runs.errors import UsageError


@app.command()
def runs(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="A store, or a folder with runs made with --out at any depth, instead of --store. With --verify also "
            "the folder of one run, ticket or export.",
        ),
    ] = None,
    store: commands.StoreFolder = commands.DEFAULT_STORE,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="Condition such as task=rte or 'config.sparsity>=0.6'; repeat it for several."),
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="Only runs that are done, failed, running or unfinished.")
    ] = None,
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table with a column for each value.")] = False,
    break_lock: Annotated[
        Path | None,
        typer.Option(
            "--break-lock",
            metavar="DIR",
            help="Remove the lock of this folder, or of the run with this folder, instead of listing runs. A process "
            "that still works there stops before it writes again.",
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Hash all files again, and report changed, missing and surplus files, and those that killed processes "
            "left. The exit code is 1 where something is wrong.",
        ),
    ] = False,
    as_json: commands.Json = False,
) -> None:
    """List the runs of a store: status, settings, numbers, errors. A folder of runs is listed, too.

    Example: tickets runs --where task=rte --where 'metrics.accuracy.final.mean>0.7'

    Example: tickets runs my-experiments --csv

    Example: tickets runs --store tickets-store --verify
    """
    from winning_tickets.runs import locks

    if break_lock is not None:
        holder = locks.break_lock(break_lock)
        text = f"Removed the lock of {break_lock}, which {holder} held."
        emit({"dir": str(break_lock), "holder": holder}, as_json=as_json, show=lambda _: text)
        return
    if verify:
        if where or status is not None or as_csv:
            raise UsageError("--verify checks all files; leave --where, --status and --csv out.")
        from winning_tickets.deploy.verify import verify as check

        checked = check([folder or store])
        emit(checked, as_json=as_json, show=show.verification)
        raise typer.Exit(0 if checked["ok"] else 1)
    from winning_tickets.runs.store import query
    from winning_tickets.runs.store.folders import find_records, list_runs
    from winning_tickets.runs.store.store import Store

    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other.")
    if folder is None and not Store(store).exists():
        raise UsageError(f"There is no store at {store}; give one with --store, or a FOLDER with runs.")
    place = folder or store
    if not (as_csv or as_json or where):
        emit({}, as_json=False, show=lambda _: query.as_text(list_runs(place, status), str(place)))
        return
    records = find_records(place, where or (), status)
    emit(
        query.as_json(records, str(place)) if as_json else {},
        as_json=as_json,
        show=lambda _: query.as_csv(records) if as_csv else query.as_text(records, str(place)),
    )


cache_app = typer.Typer(help="List or remove tokenized corpora on disk.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cache_app, name="cache")


@cache_app.command("list")
def cache_list(*, as_json: commands.Json = False) -> None:
    """List the folder and the entries of the cache."""
    from winning_tickets.data.token_cache import cache_root, list_cache_entries

    result = {"root": str(cache_root()), "entries": list_cache_entries()}
    emit(result, as_json=as_json, show=show.cache)


@cache_app.command("clean")
def cache_clean(
    older_than_days: Annotated[
        float | None, typer.Option(help="Only entries that were not used for this many days.")
    ] = None,
    *,
    as_json: commands.Json = False,
) -> None:
    """Remove tokenized corpora; they are made again when needed."""
    from winning_tickets.data.token_cache import clean_cache

    if older_than_days is not None and not older_than_days >= 0:
        raise UsageError(f"--older-than-days {older_than_days} is impossible; give a number of days, such as 30.")
    freed = clean_cache(older_than_days)
    emit({"bytes_freed": freed}, as_json=as_json, show=lambda _: f"{freed / 1e6:.1f} MB freed")
