"""`tickets super`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit, plan_of
from winning_tickets.config import Runtime, SuperConfig, TransferConfig
from winning_tickets.errors import UsageError
from winning_tickets.options import (
    Bf16,
    CheckpointSteps,
    Config,
    DataDir,
    Device,
    DryRun,
    Epochs,
    EvalSteps,
    Force,
    HeadDropout,
    Json,
    Layers,
    MaxLength,
    NonFinite,
    Out,
    Patience,
    Quiet,
    ReportTo,
    Revision,
    Steps,
    TaskFile,
    TrainSize,
    WarmupRatio,
    WeightDecay,
    fields_of,
    settings_of,
    split_floats,
    split_ints,
    split_words,
    trackers_of,
)


@app.command(name="super")
def super_ticket(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder, or builtin:minilm.")],
    out: Out,
    task: Annotated[str | None, typer.Option(help="A task of tickets transfer, such as rte.")] = None,
    task_file: TaskFile = None,
    data_dir: DataDir = None,
    level: Annotated[str | None, typer.Option(help="Percent that tickets lose; by default 10,20 ... 80.")] = None,
    units: Annotated[str | None, typer.Option(help="Of heads, ffns, neurons, layers; by default heads,ffns.")] = None,
    selections: Annotated[
        str | None, typer.Option(help="Of winning, random, losing: what is fine-tuned; by default all.")
    ] = None,
    importance: Annotated[str | None, typer.Option(help="sample (default), token, batch or released.")] = None,
    importance_from: Annotated[
        str | None, typer.Option(help="A transfer with --save-model; else the full model is fine-tuned for it.")
    ] = None,
    importance_train_size: Annotated[
        str | None, typer.Option(help="N examples or P% that importances are taken from; by default all.")
    ] = None,
    min_heads_per_layer: Annotated[int | None, typer.Option(help="Heads that every layer keeps.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", "--seed", help="One run for each; by default 0,1,2.")] = None,
    learning_rates: Annotated[
        str | None, typer.Option("--learning-rates", "--learning-rate", help="Peak rates that are tried.")
    ] = None,
    batch_sizes: Annotated[
        str | None, typer.Option("--batch-sizes", "--batch-size", help="Batch sizes that are tried.")
    ] = None,
    epochs: Epochs = None,
    steps: Steps = None,
    train_size: TrainSize = None,
    max_length: MaxLength = None,
    eval_steps: EvalSteps = None,
    select_on: Annotated[
        float | None, typer.Option(help="Share of the dev set that everything is chosen on; by default 0.1.")
    ] = None,
    patience: Patience = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, adamax, or adamax-mtdnn.")] = None,
    warmup_ratio: WarmupRatio = None,
    weight_decay: WeightDecay = None,
    head_dropout: HeadDropout = None,
    profile: Annotated[
        str | None, typer.Option(help="paper and code also try their grid: 3 rates x 3 batch sizes.")
    ] = None,
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
    """Find a task's super ticket: fine-tune tickets of every level beside the full model, and name the best.

    Example: tickets super builtin:minilm --task rte --data-dir glue --seeds 0,1,2 --out rte-super
    """
    given = {
        "level": split_words(level),
        "units": split_words(units),
        "selections": split_words(selections),
        "importance": importance,
        "importance_from": importance_from,
        "importance_train_size": importance_train_size,
        "min_heads_per_layer": min_heads_per_layer,
        "learning_rates": split_floats("--learning-rates", learning_rates),
        "batch_sizes": split_ints("--batch-sizes", batch_sizes),
        "profile": profile,
    }
    fine_tuning = {
        "target": model,
        "task": task,
        "task_file": task_file,
        "data_dir": data_dir,
        "seeds": split_ints("--seeds", seeds),
        "epochs": epochs,
        "steps": steps,
        "train_size": train_size,
        "max_length": max_length,
        "eval_steps": eval_steps,
        "select_on": select_on,
        "patience": patience,
        "optimizer": optimizer,
        "warmup_ratio": warmup_ratio,
        "weight_decay": weight_decay,
        "head_dropout": head_dropout,
        "profile": profile,
        "revision": revision,
        "layers": layers,
    }
    settings = settings_of(SuperConfig, config, _with_fine_tuning(fields_of(config, given), fine_tuning)).resolved()
    trackers = trackers_of(report_to)
    if dry_run:
        from winning_tickets.super_ticket import check, trainings

        check(settings)
        return plan_of(settings, out, as_json, trainings=trainings(settings))
    from winning_tickets.super_ticket import super_ticket as find

    runtime = Runtime(
        device=device,
        bf16=bf16,
        checkpoint_steps=checkpoint_steps,
        quiet=quiet,
        non_finite=non_finite,
        report_to=trackers,
    )
    result = find(settings, out, runtime, force)
    return emit(result, as_json, show.super_ticket(result))


def _with_fine_tuning(fields: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Fields with those of the fine-tuning, of a file and of options, which win."""
    stored = fields.get("fine_tuning", {})
    if not isinstance(stored, dict):
        raise UsageError(f"fine_tuning must be a mapping of fields such as 'task: rte', found {stored!r}.")
    own = {"seeds": (0, 1, 2)} | stored | {key: value for key, value in given.items() if value is not None}
    return fields | {"fine_tuning": TransferConfig.of(**own)}
