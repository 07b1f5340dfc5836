"""`tickets recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from winning_tickets.cli.app import app, emit
from winning_tickets.options import Json


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this one, to change it.")] = None,
    as_json: Json = False,
) -> None:
    """The studies that come along: one for each table and figure of the papers.

    Example: tickets recipes
    """
    from winning_tickets.study.listing import recipe_list
    from winning_tickets.study.load import recipe_text
    from winning_tickets.study.text import recipes_text

    if name is not None:
        text = recipe_text(name)
        return emit({"name": name, "yaml": text}, as_json, text.rstrip())
    found = recipe_list()
    return emit({"recipes": found}, as_json, recipes_text(found))
