"""`tickets share`."""

from __future__ import annotations

from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit, plan_of
from winning_tickets.config import Runtime, ShareConfig
from winning_tickets.options import (
    BatchSize,
    Bf16,
    CheckpointSteps,
    Config,
    DataDir,
    Device,
    DryRun,
    Force,
    Json,
    Layers,
    MaxLength,
    NonFinite,
    OtherWeights,
    Out,
    Quiet,
    ReportTo,
    Revision,
    SmartWeight,
    Steps,
    WarmupRatio,
    fields_of,
    settings_of,
    split_ints,
    trackers_of,
    with_smart,
)


@app.command()
def share(
    out: Out,
    tasks: Annotated[str | None, typer.Option(help="Tasks that share a model, such as rte,mrpc,cola.")] = None,
    model: Annotated[str | None, typer.Option(help="By default the base model of the tickets.")] = None,
    tickets: Annotated[
        str | None, typer.Option(help="auto, none, a folder for each task in their order, or task=DIR,task=DIR.")
    ] = None,
    level: Annotated[str | None, typer.Option(help="Of auto: 30% of heads and FFNs go, or task=10%,task=30%.")] = None,
    task_file: Annotated[str | None, typer.Option(help="YAML that defines --tasks, in MT-DNN's form.")] = None,
    data_dir: DataDir = None,
    seeds: Annotated[str | None, typer.Option("--seeds", "--seed", help="One run for each, such as 0,1,2.")] = None,
    train_size: Annotated[str | None, typer.Option(help="N examples or P% of each training set.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training sets.")] = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, adamax or adamax-mtdnn.")] = None,
    warmup_ratio: WarmupRatio = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of matrices.")] = None,
    dropout_p: Annotated[str | None, typer.Option(help="Dropout before the heads: 0.1, or task=0.05.")] = None,
    mixing: Annotated[str | None, typer.Option(help="proportional, annealed, ratio or round-robin.")] = None,
    main_task: Annotated[str | None, typer.Option(help="Of ratio: by default the first task.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Batches of the others for each of the main task.")] = None,
    max_length: MaxLength = None,
    smart: SmartWeight = None,
    single_epochs: Annotated[
        float | None, typer.Option(help="Passes of the single-task fine-tunings of auto and --fine-tune.")
    ] = None,
    single_learning_rate: Annotated[float | None, typer.Option(help="Their peak rate; by default the same.")] = None,
    fine_tune: Annotated[
        bool | None, typer.Option("--fine-tune", help="Then fine-tune the shared model on each task alone.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="paper, code or tuned: optimiser and update.")] = None,
    no_save_model: Annotated[
        bool, typer.Option("--no-save-model", help="Keep results only, and no shared models.")
    ] = False,
    revision: Revision = None,
    layers: Layers = None,
    allow_other_weights: OtherWeights = False,
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
    """Train one encoder for several tasks, each with its ticket; without tickets that is MT-DNN.

    Example: tickets share --model builtin:minilm --tasks rte,mrpc --tickets auto --data-dir glue --out shared
    Example: tickets share --tasks rte,mrpc --tickets rte-ticket,mrpc-ticket --data-dir glue --out shared --json
    """
    given = {
        "tasks": tasks,
        "model": model,
        "revision": revision,
        "layers": layers,
        "tickets": tickets,
        "level": level,
        "task_file": task_file,
        "data_dir": data_dir,
        "seeds": split_ints("--seeds", seeds),
        "train_size": train_size,
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "warmup_ratio": warmup_ratio,
        "weight_decay": weight_decay,
        "dropout_p": dropout_p,
        "mixing": mixing,
        "main_task": main_task,
        "ratio": ratio,
        "max_length": max_length,
        "single_epochs": single_epochs,
        "single_learning_rate": single_learning_rate,
        "fine_tune": fine_tune,
        "profile": profile,
        "save_model": False if no_save_model else None,
        "allow_other_weights": allow_other_weights or None,
    }
    settings = settings_of(ShareConfig, config, {"tasks": ()} | with_smart(fields_of(config, given), smart))
    trackers = trackers_of(report_to)
    if dry_run:
        from winning_tickets.sharing_setup import check

        check(settings)
        return plan_of(settings, out, as_json)
    from winning_tickets.sharing import share as share_model

    runtime = Runtime(
        device=device,
        bf16=bf16,
        checkpoint_steps=checkpoint_steps,
        quiet=quiet,
        non_finite=non_finite,
        report_to=trackers,
    )
    result = share_model(settings, out, runtime, force)
    return emit(result, as_json, show.sharing(result))
