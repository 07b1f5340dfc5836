"""`tickets export`."""

from __future__ import annotations

from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit
from winning_tickets.options import (
    Base,
    DryRun,
    Force,
    Json,
    OtherWeights,
    Out,
)


@app.command()
def export(
    target: Annotated[str, typer.Argument(metavar="TICKET_OR_RUN", help="A ticket, or a run with its model.")],
    out: Out,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="masked: a Hugging Face folder with zeros; compact: smaller matrices; onnx: without PyTorch; "
            "encoder: a fine-tuned or shared encoder without its heads; mask-pt: the masks alone, as the papers' "
            "programs store them.",
        ),
    ],
    task: Annotated[str | None, typer.Option("--task", help="Which task of a shared model.")] = None,
    base: Base = None,
    convention: Annotated[
        str | None, typer.Option("--convention", help="Names in a mask-pt: bert-tickets (default) or tamt.")
    ] = None,
    allow_other_weights: OtherWeights = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write a model that others load.

    Example: tickets export my-ticket --format masked --out my-model
    Example: tickets export my-share --task rte --format compact --out my-rte
    """
    if dry_run:
        return emit({"plan": {"target": target, "format": format_}, "out": str(out)}, as_json, f"Would write {out}")
    from winning_tickets.export import export as write

    result = write(
        target,
        format_,
        out,
        base=base,
        allow_other_weights=allow_other_weights,
        task=task,
        convention=convention,
        force=force,
    )
    return emit(result, as_json, show.exported(result))
