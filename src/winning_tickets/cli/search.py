"""`tickets search`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit, plan_of
from winning_tickets.config import METHOD_NAMES, Runtime, SearchConfig
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
    split_floats,
    split_ints,
    split_words,
    trackers_of,
)


@app.command()
def search(
    model: Annotated[str, typer.Argument(help="Hub id, local folder or builtin:minilm.")],
    out: Out,
    method: Annotated[str | None, typer.Option(help=f"One of {', '.join(METHOD_NAMES)}.")] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Of mask training: kd, mlm, attention, contrastive, logits, or a sum such as mlm:1,kd:2. "
            "Of imp, snip, movement: mlm, task or mlm+task. Of importance: kd, mlm, or task with --importance-from."
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the contrastive objective.")] = None,
    sparsity: Annotated[
        str | None,
        typer.Option("--sparsity", "--sparsities", help="Fraction removed, in [0, 1); several, with commas, a ladder."),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="wikitext-103, wikitext-2, pydocs, task:NAME, a text file or a folder.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Tasks of the objective, such as rte,mrpc.")] = None,
    train_file: Annotated[str | None, typer.Option(help="Your own training file, as a task.")] = None,
    text_columns: Annotated[str | None, typer.Option(help="Its text columns, such as premise,hypothesis.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Its label column.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="classification, regression, multilabel, tokens or span; else found out.")
    ] = None,
    train_size: Annotated[str | None, typer.Option(help="N examples, or P% of each task's training set.")] = None,
    segments: Annotated[str | None, typer.Option(help="packed:L, lines, mixed or sections:L.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; of a ladder's first rung.")] = None,
    rung_steps: Annotated[int | None, typer.Option(help="Steps of a ladder's other rungs; by default half.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens an optimiser step sees.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples of a task a step.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens a task's example is cut to.")] = None,
    mixing: Annotated[str | None, typer.Option(help="Of several sources: sum or proportional.")] = None,
    round_steps: Annotated[int | None, typer.Option(help="Optimiser steps of a round of imp.")] = None,
    round_epochs: Annotated[float | None, typer.Option(help="The same in passes over the largest source.")] = None,
    round_examples: Annotated[int | None, typer.Option(help="The same in examples of all sources.")] = None,
    rewind: Annotated[
        str | None,
        typer.Option(help="What a round of imp goes back to: pretrained, step:K, percent:P, none, noise, reinit."),
    ] = None,
    rewind_scope: Annotated[str | None, typer.Option(help="What goes back: all, encoder or prunable.")] = None,
    prune_first: Annotated[bool | None, typer.Option("--prune-first", help="Prune before the first round.")] = None,
    rate_horizon: Annotated[
        str | None, typer.Option(help="The learning rate decays over each round, or in total.")
    ] = None,
    keep_optimizer: Annotated[
        bool, typer.Option("--keep-optimizer", help="Keep the optimiser's moments from round to round.")
    ] = False,
    save_trained: Annotated[
        bool | None, typer.Option("--save-trained", help="Keep the weights at the end of each round.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the scores, or of the weights.")] = None,
    ranking: Annotated[str | None, typer.Option(help="matrix, row or global.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="N:M, such as 2:4: of every M consecutive weights of a row N are kept.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="Of random: a ticket whose counts of each matrix are matched.")
    ] = None,
    weights_from: Annotated[
        str | None,
        typer.Option(help="Of magnitude: rank pretrained, reinit, shuffle-within, shuffle-layers, noise:0.1, a path."),
    ] = None,
    calibration_batches: Annotated[
        int | None, typer.Option(help="Batches over which wanda takes the norms of inputs.")
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="Percent of the heads and FFNs that go, such as 30% or 10,20,30.")
    ] = None,
    units: Annotated[
        str | None, typer.Option(help="What a level prunes, of heads, ffns, neurons, layers; by default heads,ffns.")
    ] = None,
    heads: Annotated[str | None, typer.Option(help="Heads that go, instead of a level; several, with commas.")] = None,
    ffns: Annotated[str | None, typer.Option(help="The same for FFNs.")] = None,
    neurons: Annotated[str | None, typer.Option(help="The same for neurons of FFNs.")] = None,
    whole_layers: Annotated[str | None, typer.Option(help="The same for whole layers.")] = None,
    selection: Annotated[str | None, typer.Option(help="Of importance: winning, losing or random tickets.")] = None,
    importance: Annotated[
        str | None, typer.Option(help="Absolute gradients of each sample, token or batch, or released.")
    ] = None,
    min_heads_per_layer: Annotated[int | None, typer.Option(help="Heads that every layer keeps.")] = None,
    importance_from: Annotated[
        str | None,
        typer.Option(
            help="A transfer with --save-model, or an earlier search by importance; else --objective on text."
        ),
    ] = None,
    keep_token_importance: Annotated[
        bool | None, typer.Option("--keep-token-importance", help="Save the gradients of every token too.")
    ] = None,
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
    non_finite: NonFinite = "stop",
    report_to: ReportTo = None,
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
        "pattern": pattern,
        "like": like,
        "weights_from": weights_from,
        "calibration_batches": calibration_batches,
        "level": split_words(level),
        "units": split_words(units),
        "prune_heads": split_ints("--heads", heads),
        "prune_ffns": split_ints("--ffns", ffns),
        "prune_neurons": split_ints("--neurons", neurons),
        "prune_layers": split_ints("--whole-layers", whole_layers),
        "selection": selection,
        "importance": importance,
        "min_heads_per_layer": min_heads_per_layer,
        "importance_from": importance_from,
        "keep_token_importance": keep_token_importance,
        "profile": profile,
        "seed": seed,
        "objective": objective,
        "temperature": temperature,
        "corpus": corpus,
        "data_dir": data_dir,
        "tasks": split_words(task),
        "train_file": train_file,
        "text_columns": split_words(text_columns),
        "label_column": label_column,
        "kind": kind,
        "train_size": train_size,
        "batch_size": batch_size,
        "max_length": max_length,
        "mixing": mixing,
        "round_steps": round_steps,
        "round_epochs": round_epochs,
        "round_examples": round_examples,
        "rewind": rewind,
        "rewind_scope": rewind_scope,
        "prune_first": prune_first,
        "rate_horizon": rate_horizon,
        "reset_optimizer": False if keep_optimizer else None,
        "save_trained": save_trained,
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
    settings = settings_of(SearchConfig, config, fields_of(config, given))
    trackers = trackers_of(report_to)
    if dry_run:
        from winning_tickets.search.checks import check

        check(settings)
        return plan_of(settings.resolved(), out, as_json)
    from winning_tickets.search import search_all

    runtime = Runtime(
        device=device,
        bf16=bf16,
        checkpoint_steps=checkpoint_steps,
        quiet=quiet,
        non_finite=non_finite,
        report_to=trackers,
    )
    tickets = search_all(settings, out, runtime, force)
    result = json.loads((out / "result.json").read_text(encoding="utf-8")) | {"out": str(out)}
    return emit(result, as_json, show.search(result, list(map(str, tickets.values()))))
