"""`tickets search`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from winning_tickets.cli import show
from winning_tickets.cli.app import app, emit, plan_of
from winning_tickets.cli.options import (
    Base,
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
    OtherWeights,
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
from winning_tickets.config import METHOD_NAMES, EvaluateConfig, FitHeadConfig, Runtime, SearchConfig


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
        from winning_tickets.pruning.checks import check

        check(settings)
        return plan_of(settings.resolved(), out, as_json)
    from winning_tickets.pruning.search import search_all

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
        from winning_tickets.analysis.evaluate import check

        check(settings)
        return plan_of(settings, None, as_json)
    from winning_tickets.analysis.evaluate import evaluate as measure

    result = measure(settings, Runtime(device=device, bf16=bf16, quiet=quiet))
    return emit(result, as_json, show.evaluation(result))


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
        from winning_tickets.finetuning.fit_head import check

        check(settings)
        return plan_of(settings, out, as_json)
    from winning_tickets.finetuning.fit_head import fit_head as fit

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
