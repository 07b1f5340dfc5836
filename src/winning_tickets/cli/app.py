"""The application that commands register themselves with, and the one place that prints results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from winning_tickets.config import Settings
from winning_tickets.runs import distributed
from winning_tickets.runs.errors import printable
from winning_tickets.runs.provenance import version

app = typer.Typer(
    name="tickets",
    help="Find winning tickets in pre-trained language models, see what they preserve, use them and export them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version())
        raise typer.Exit


TOGETHER = ("search", "transfer", "share", "super", "fit-head")
"""Commands that several processes run together; the main process alone runs the others."""


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""
    if context.invoked_subcommand not in TOGETHER and not distributed.continues_alone():
        raise typer.Exit


def emit(result: dict[str, Any], as_json: bool, text: str) -> None:
    """The only place that writes to stdout."""
    typer.echo(json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False) if as_json else printable(text))


def plan_of(config: Settings, out: Path | None, as_json: bool, **facts: Any) -> None:
    """Print the settings of `--dry-run`, and facts that follow from them."""
    plan = {"plan": config.model_dump(mode="json") | facts, "out": None if out is None else str(out)}
    lines = [f"{key}: {value}" for key, value in plan["plan"].items() if value is not None]  # type: ignore[union-attr]
    emit(plan, as_json, "\n".join(["Would run with:", *lines]))
