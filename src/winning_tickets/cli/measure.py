"""`tickets measure`."""

from __future__ import annotations

from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit
from winning_tickets.config import Runtime
from winning_tickets.options import (
    Base,
    Bf16,
    Device,
    DryRun,
    Json,
    Layers,
    OtherWeights,
    Quiet,
    Revision,
    split_ints,
)


@app.command()
def measure(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A model, a ticket, an export, or a transfer with its model.")
    ],
    batch: Annotated[str, typer.Option(help="Texts in a forward pass, with commas.")] = "1,8,32",
    length: Annotated[str, typer.Option(help="Tokens of each text, with commas.")] = "32,128",
    threads: Annotated[int | None, typer.Option(help="Of the processor.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed passes of each model for each batch and length.")] = 10,
    base: Base = None,
    revision: Revision = None,
    layers: Layers = None,
    allow_other_weights: OtherWeights = False,
    device: Device = "auto",
    bf16: Bf16 = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Sizes, operations and speed, with the dense model beside it in the same run.

    Example: tickets measure my-export --batch 1,8 --length 128
    """
    batches, lengths = split_ints("--batch", batch) or (), split_ints("--length", length) or ()
    if dry_run:
        plan = {"target": target, "batches": batches, "lengths": lengths, "threads": threads, "repeats": repeats}
        return emit({"plan": plan, "out": None}, as_json, f"Would measure {target}")
    from winning_tickets.measure import measure as run

    result = run(
        target,
        batches,
        lengths,
        threads=threads,
        repeats=repeats,
        base=base,
        revision=revision,
        layers=layers,
        allow_other_weights=allow_other_weights,
        runtime=Runtime(device=device, bf16=bf16, quiet=quiet),
    )
    return emit(result, as_json, show.measurement(result))
