"""`tickets transfer` and `tickets predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from winning_tickets.cli import show
from winning_tickets.cli.app import app, emit, plan_of
from winning_tickets.cli.options import (
    Base,
    BatchSize,
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
    OtherWeights,
    Out,
    Patience,
    Quiet,
    ReportTo,
    Revision,
    SmartWeight,
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
    with_smart,
)
from winning_tickets.config import Runtime, ShareConfig, SuperConfig, TransferConfig
from winning_tickets.runs.errors import UsageError


@app.command()
def transfer(
    target: Annotated[
        str, typer.Argument(metavar="MODEL_OR_TICKET_OR_RUN", help="A ticket, a model, or a run with its model.")
    ],
    out: Out,
    start_from: Annotated[
        str | None,
        typer.Option(help="pretrained, reinit, shuffle-within, shuffle-layers, noise:0.1, a state, a model's folder."),
    ] = None,
    from_task: Annotated[
        str | None, typer.Option(help="Of a shared model: the task whose head and ticket are used.")
    ] = None,
    fresh_head: Annotated[
        bool | None, typer.Option("--fresh-head", help="A new head, also where the labels are those of the RUN.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="cola sst2 mrpc stsb qqp mnli qnli rte wnli snli scitail squad or pydocs.")
    ] = None,
    task_file: TaskFile = None,
    data_dir: DataDir = None,
    train_file: Annotated[str | None, typer.Option(help="Your own csv, tsv, jsonl, conll or SQuAD json.")] = None,
    validation_file: Annotated[str | None, typer.Option(help="Another file of that format.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="Of your files: classification regression multilabel tokens span.")
    ] = None,
    text_columns: Annotated[str | None, typer.Option(help="One or two columns of your files, such as a,b.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Label column of your files.")] = None,
    metric: Annotated[str | None, typer.Option(help="Primary metric of your files, such as f1.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", "--seed", help="One run for each, such as 0,1,2.")] = None,
    train_size: TrainSize = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate, decaying linearly.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, adamax, or adamax-mtdnn of the super tickets.")] = None,
    warmup_ratio: WarmupRatio = None,
    weight_decay: WeightDecay = None,
    head_dropout: HeadDropout = None,
    max_length: MaxLength = None,
    doc_stride: Annotated[int | None, typer.Option(help="squad: tokens from one window of a text to the next.")] = None,
    eval_steps: EvalSteps = None,
    select_on: Annotated[
        float | None, typer.Option(help="Share of the dev set that the best evaluation is chosen on, such as 0.1.")
    ] = None,
    patience: Patience = None,
    smart: SmartWeight = None,
    profile: Annotated[str | None, typer.Option(help="paper, code or tuned: which evaluations count.")] = None,
    save_model: Annotated[bool | None, typer.Option("--save-model", help="Keep the fine-tuned models.")] = None,
    base: Base = None,
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
    """Fine-tune a model or ticket on a task, once for each seed, and store the metrics.

    Example: tickets transfer my-ticket --task pydocs --seeds 0,1 --out my-transfer --json
    Example: tickets transfer my-transfer --train-file F --validation-file F --train-size 10% --out adapted
    """
    given = {
        "target": target,
        "base": base,
        "revision": revision,
        "layers": layers,
        "start_from": start_from,
        "from_task": from_task,
        "fresh_head": fresh_head or None,
        "task": task,
        "task_file": task_file,
        "data_dir": data_dir,
        "train_file": train_file,
        "validation_file": validation_file,
        "text_columns": split_words(text_columns),
        "label_column": label_column,
        "metric": metric,
        "kind": kind,
        "seeds": split_ints("--seeds", seeds),
        "train_size": train_size,
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "warmup_ratio": warmup_ratio,
        "weight_decay": weight_decay,
        "head_dropout": head_dropout,
        "select_on": select_on,
        "patience": patience,
        "max_length": max_length,
        "doc_stride": doc_stride,
        "eval_steps": eval_steps,
        "profile": profile,
        "save_model": save_model or None,
        "allow_other_weights": allow_other_weights or None,
    }
    settings = settings_of(TransferConfig, config, with_smart(fields_of(config, given), smart))
    trackers = trackers_of(report_to)
    if dry_run:
        from winning_tickets.finetuning.setup import check

        check(settings)
        return plan_of(settings, out, as_json)
    from winning_tickets.finetuning.transfer import transfer as fine_tune

    runtime = Runtime(
        device=device,
        bf16=bf16,
        checkpoint_steps=checkpoint_steps,
        quiet=quiet,
        non_finite=non_finite,
        report_to=trackers,
    )
    result = fine_tune(settings, out, runtime, force)
    return emit(result, as_json, show.transfer(result))


@app.command()
def predict(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="A transfer made with --save-model.")],
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A text; repeat it. For pairs: first TAB second.")
    ] = None,
    text_pair: Annotated[
        list[str] | None, typer.Option("--text-pair", help="The second text of each pair, in the order of --text.")
    ] = None,
    glue_submission: Annotated[
        Path | None, typer.Option("--glue-submission", help="Folder for files of the GLUE server, one RUN a task.")
    ] = None,
    data_dir: DataDir = None,
    seed: Annotated[int | None, typer.Option(help="Which seed's model; by default the first one saved.")] = None,
    force: Force = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Label texts with a fine-tuned ticket, or write the files that the GLUE server takes.

    Example: tickets predict my-transfer --text "Return a list of the words in the string." --json
    Example: tickets predict my-cola my-rte --glue-submission submission --data-dir glue
    """
    runtime = Runtime(device=device, quiet=True)
    if glue_submission is not None:
        from winning_tickets.finetuning.glue_submission import glue_submission as submit

        if text or text_pair:
            raise UsageError("--glue-submission labels the test sets of GLUE; leave --text and --text-pair out.")
        if data_dir is None:
            raise UsageError("--glue-submission needs --data-dir, a GLUE download with the test files.")
        written = submit(runs, data_dir, glue_submission, seed=seed, runtime=runtime, force=force)
        return emit(written, as_json, show.submission(written))
    from winning_tickets.training.predict import predict as label

    if data_dir is not None or force:
        raise UsageError("--data-dir and --force go with --glue-submission.")
    if len(runs) > 1:
        raise UsageError(f"--text is labelled by one run, found {len(runs)}; several go with --glue-submission.")
    if not text:
        raise UsageError("There is nothing to label: give --text, or --glue-submission DIR.")
    if text_pair is not None and len(text_pair) != len(text):
        raise UsageError(f"{len(text)} --text and {len(text_pair)} --text-pair were given; they go in pairs.")
    texts = [tuple(item.split("\t")) for item in text]
    if text_pair is not None:
        texts = list(zip(text, text_pair, strict=True))
    result = label(runs[0], texts, seed=seed, runtime=runtime)
    return emit(result, as_json, show.predictions(result))


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
        from winning_tickets.finetuning.sharing_setup import check

        check(settings)
        return plan_of(settings, out, as_json)
    from winning_tickets.finetuning.sharing import share as share_model

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
        from winning_tickets.finetuning.super_ticket import check, trainings

        check(settings)
        return plan_of(settings, out, as_json, trainings=trainings(settings))
    from winning_tickets.finetuning.super_ticket import super_ticket as find

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
