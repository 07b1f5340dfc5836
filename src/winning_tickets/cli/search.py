"""`tickets search`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit, plan_of
from winning_tickets.config import Runtime, SearchConfig
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
    Out,
    Quiet,
    Revision,
    fields_of,
    split_floats,
    split_ints,
)


@app.command()
def search(
    model: Annotated[str, typer.Argument(help="Hub id, local folder or builtin:minilm.")],
    out: Out,
    method: Annotated[str | None, typer.Option(help="random, magnitude or mask-training.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="Of mask training: kd, mlm, attention, contrastive, logits, or a sum such as mlm:1,kd:2."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the contrastive objective.")] = None,
    sparsity: Annotated[
        str | None,
        typer.Option("--sparsity", "--sparsities", help="Fraction removed, in [0, 1); several, with commas, a ladder."),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="wikitext-103, wikitext-2, pydocs, task:NAME, a text file or a folder.")
    ] = None,
    segments: Annotated[str | None, typer.Option(help="packed:L, lines, mixed or sections:L.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; of a ladder's first rung.")] = None,
    rung_steps: Annotated[int | None, typer.Option(help="Steps of a ladder's other rungs; by default half.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens an optimiser step sees.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the scores.")] = None,
    ranking: Annotated[str | None, typer.Option(help="matrix or global.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="encoder+embeddings, encoder, encoder+embeddings+pooler or encoder+pooler.")
    ] = None,
    score_init: Annotated[str | None, typer.Option(help="activation, rank, plateau or random.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Upper plateau in units of phi.")] = None,
    phi: Annotated[float | None, typer.Option(help="Initial threshold.")] = None,
    profile: Annotated[str | None, typer.Option(help="paper, code or tuned.")] = None,
    save_at: Annotated[str | None, typer.Option(help="Steps whose tickets are saved too, such as 100,500.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of random masks, data order, MLM masking.")] = None,
    data_dir: DataDir = None,
    revision: Revision = None,
    layers: Layers = None,
    config: Config = None,
    device: Device = "auto",
    bf16: Bf16 = False,
    checkpoint_steps: CheckpointSteps = None,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find a ticket and save it in --out.

    Example: tickets search builtin:minilm --method mask-training --objective kd --sparsity 0.6 --corpus pydocs
    --steps 60 --out my-ticket
    """
    given = {
        "model": model,
        "revision": revision,
        "layers": layers,
        "method": method,
        "sparsity": split_floats("--sparsity", sparsity),
        "scope": scope,
        "ranking": ranking,
        "profile": profile,
        "seed": seed,
        "objective": objective,
        "temperature": temperature,
        "corpus": corpus,
        "data_dir": data_dir,
        "steps": steps,
        "rung_steps": rung_steps,
        "batch_tokens": batch_tokens,
        "segments": segments,
        "learning_rate": learning_rate,
        "score_init": score_init,
        "alpha": alpha,
        "phi": phi,
        "save_at": split_ints("--save-at", save_at),
    }
    settings = SearchConfig.of(**fields_of(config, given))
    if dry_run:
        from winning_tickets.search.checks import check

        check(settings)
        return plan_of(settings.resolved(), out, as_json)
    from winning_tickets.search import search_all

    runtime = Runtime(device=device, bf16=bf16, checkpoint_steps=checkpoint_steps, quiet=quiet)
    tickets = search_all(settings, out, runtime, force)
    result = json.loads((out / "result.json").read_text(encoding="utf-8")) | {"out": str(out)}
    return emit(result, as_json, show.search(result, list(map(str, tickets.values()))))
