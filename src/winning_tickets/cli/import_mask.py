"""`tickets import-mask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit
from winning_tickets.options import Force, Json, Out, Revision


@app.command("import-mask")
def import_mask(
    file: Annotated[Path, typer.Argument(help="A mask.pt of BERT-tickets or of TAMT.")],
    base: Annotated[str, typer.Option("--base", help="The pre-trained model that the masks belong to.")],
    out: Out,
    revision: Revision = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a ticket of the masks that the papers' programs write.

    Example: tickets import-mask mask.pt --base bert-base-uncased --out my-ticket
    """
    from winning_tickets.mask_files import import_mask as read

    result = read(file, base, out, revision=revision, force=force)
    return emit(result, as_json, show.imported(result))
