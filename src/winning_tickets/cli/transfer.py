"""`tickets transfer` and `tickets predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from winning_tickets import show
from winning_tickets.cli.app import app, emit, plan_of
from winning_tickets.config import Runtime, TransferConfig
from winning_tickets.errors import UsageError
from winning_tickets.options import (
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
    split_ints,
    split_words,
    trackers_of,
    with_smart,
)


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
        from winning_tickets.transfer_setup import check

        check(settings)
        return plan_of(settings, out, as_json)
    from winning_tickets.transfer import transfer as fine_tune

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
        from winning_tickets.glue_submission import glue_submission as submit

        if text or text_pair:
            raise UsageError("--glue-submission labels the test sets of GLUE; leave --text and --text-pair out.")
        if data_dir is None:
            raise UsageError("--glue-submission needs --data-dir, a GLUE download with the test files.")
        written = submit(runs, data_dir, glue_submission, seed=seed, runtime=runtime, force=force)
        return emit(written, as_json, show.submission(written))
    from winning_tickets.predict import predict as label

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
