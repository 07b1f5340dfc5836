"""`tickets evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit, plan_of
from winning_tickets.config import EvaluateConfig, Runtime
from winning_tickets.options import (
    Base,
    Bf16,
    DataDir,
    Device,
    DryRun,
    Json,
    Layers,
    OtherWeights,
    Quiet,
    Revision,
    split_words,
)


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(metavar="MODEL_OR_TICKET", help="A ticket folder, or a model.")],
    objective: Annotated[
        str, typer.Option(help="kd, mlm, attention, contrastive, logits, similarity, or several with commas.")
    ] = "kd",
    temperature: Annotated[float, typer.Option(help="Of the contrastive loss.")] = 0.05,
    corpus: Annotated[
        str | None, typer.Option(help="Text for all but similarity; validation part of a folder.")
    ] = None,
    segments: Annotated[str, typer.Option(help="packed:L, lines or sections:L.")] = "packed:128",
    max_tokens: Annotated[int | None, typer.Option(help="Stop after so many tokens.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens a forward pass sees.")] = 4096,
    task: Annotated[str | None, typer.Option(help="Scored pairs for similarity: stsb.")] = None,
    pairs_file: Annotated[str | None, typer.Option(help="Your own scored pairs: csv, tsv or jsonl.")] = None,
    data_dir: DataDir = None,
    kd_loss: Annotated[str, typer.Option(help="cosine, or mse of the hidden states.")] = "cosine",
    kd_padding: Annotated[str, typer.Option(help="ignored, or counted in the KD loss.")] = "ignored",
    kd_masked_tokens: Annotated[int, typer.Option(help="Tokens masked in each segment for the KD loss.")] = 0,
    mlm_head: Annotated[str | None, typer.Option(help="base or ticket.")] = None,
    seed: Annotated[int, typer.Option(help="Of the MLM masking.")] = 42,
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
    """Measure what a model or ticket preserves, without fine-tuning.

    Example: tickets evaluate my-ticket --objective kd --corpus pydocs --json
    """
    settings = EvaluateConfig.of(
        target=target,
        base=base,
        revision=revision,
        layers=layers,
        objectives=split_words(objective) or (),
        temperature=temperature,
        corpus=corpus,
        segments=segments,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        task=task,
        pairs_file=pairs_file,
        data_dir=data_dir,
        kd_loss=kd_loss,
        kd_padding=kd_padding,
        kd_masked_tokens=kd_masked_tokens,
        mlm_head=mlm_head,
        seed=seed,
        allow_other_weights=allow_other_weights,
    )
    if dry_run:
        from winning_tickets.evaluate import check

        check(settings)
        return plan_of(settings, None, as_json)
    from winning_tickets.evaluate import evaluate as measure

    result = measure(settings, Runtime(device=device, bf16=bf16, quiet=quiet))
    return emit(result, as_json, show.evaluation(result))
