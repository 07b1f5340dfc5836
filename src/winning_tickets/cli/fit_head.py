"""`tickets fit-head`."""

from __future__ import annotations

from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit, plan_of
from winning_tickets.config import FitHeadConfig, Runtime
from winning_tickets.options import (
    Bf16,
    CheckpointSteps,
    Config,
    DataDir,
    Device,
    DryRun,
    Force,
    Json,
    Layers,
    NonFinite,
    Out,
    Quiet,
    ReportTo,
    Revision,
    fields_of,
    settings_of,
    trackers_of,
)


@app.command("fit-head")
def fit_head(
    model: Annotated[str, typer.Argument(help="Hub id, local folder or builtin:minilm; without an MLM head.")],
    out: Out,
    corpus: Annotated[
        str | None, typer.Option(help="wikitext-103, wikitext-2, pydocs, task:NAME, a text file or a folder.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    train_encoder: Annotated[bool, typer.Option("--train-encoder", help="Train the encoder too.")] = False,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens an optimiser step sees.")] = None,
    segments: Annotated[str | None, typer.Option(help="packed:L, lines, mixed or sections:L.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate of the head.")] = None,
    encoder_learning_rate: Annotated[float | None, typer.Option(help="Peak rate of the encoder.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps over which the rates rise; by default 6 %.")] = None,
    mlm_probability: Annotated[float | None, typer.Option(help="Fraction of tokens masked.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Validation tokens the result is measured on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the head, the data order, the masking.")] = None,
    data_dir: DataDir = None,
    revision: Revision = None,
    layers: Layers = None,
    config: Config = None,
    device: Device = "auto",
    bf16: Bf16 = False,
    checkpoint_steps: CheckpointSteps = None,
    non_finite: NonFinite = "stop",
    report_to: ReportTo = None,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Give a model without MLM head a good one, and save an ordinary ForMaskedLM folder.

    Example: tickets fit-head builtin:minilm --corpus pydocs --steps 200 --out minilm-mlm
    """
    given = {
        "model": model,
        "revision": revision,
        "layers": layers,
        "corpus": corpus,
        "data_dir": data_dir,
        "steps": steps,
        "train_encoder": train_encoder or None,
        "batch_tokens": batch_tokens,
        "segments": segments,
        "learning_rate": learning_rate,
        "encoder_learning_rate": encoder_learning_rate,
        "warmup_steps": warmup_steps,
        "mlm_probability": mlm_probability,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    settings = settings_of(FitHeadConfig, config, fields_of(config, given))
    trackers = trackers_of(report_to)
    if dry_run:
        from winning_tickets.fit_head import check

        check(settings)
        return plan_of(settings, out, as_json)
    from winning_tickets.fit_head import fit_head as fit

    runtime = Runtime(
        device=device,
        bf16=bf16,
        checkpoint_steps=checkpoint_steps,
        quiet=quiet,
        non_finite=non_finite,
        report_to=trackers,
    )
    result = fit(settings, out, runtime, force) | {"out": str(out)}
    return emit(result, as_json, show.fitted_head(result))
