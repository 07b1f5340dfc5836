"""`tickets perturb`."""

from __future__ import annotations

from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit
from winning_tickets.config import LAST_SEED
from winning_tickets.options import Force, Json, Out


@app.command()
def perturb(
    target: Annotated[str, typer.Argument(metavar="TICKET", help="A ticket folder.")],
    out: Out,
    fraction: Annotated[float, typer.Option(help="Of the kept weights of each matrix, moved to pruned places.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Which ones move, and where to.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Change a ticket's mask at random, at exactly the same sparsity.

    Example: tickets perturb my-ticket --fraction 0.05 --seed 0 --out perturbed
    """
    from winning_tickets.algebra import save_perturbed

    result = save_perturbed(target, fraction, seed, out, force) | {"out": str(out)}
    return emit(result, as_json, show.derived(result))
