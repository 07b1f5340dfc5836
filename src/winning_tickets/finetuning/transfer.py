"""Fine-tuning a model or a ticket on a task: one stored run for each seed, and a summary over the seeds."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from winning_tickets.config import Runtime, TransferConfig
from winning_tickets.data.encode import collate
from winning_tickets.data.metrics import metric_names
from winning_tickets.data.records import Kind, Split
from winning_tickets.finetuning.evaluations import Evaluations
from winning_tickets.finetuning.seeds import ERROR, raise_failures, run_seeds, statistics_of
from winning_tickets.finetuning.setup import Prepared, prepare
from winning_tickets.models.loading import PLM
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory, read_log
from winning_tickets.runs.errors import TrainingError
from winning_tickets.runs.files import build_directory
from winning_tickets.runs.progress import progress
from winning_tickets.runs.provenance import machine, versions
from winning_tickets.tickets.masking import TicketCallback
from winning_tickets.tickets.ticket import Ticket, search_settings_of
from winning_tickets.training.objectives.smart import task_losses
from winning_tickets.training.optimizers import decay_groups, make_optimizer
from winning_tickets.training.predict import MODEL_FOLDER, TaskInfo, encode_for, save_model
from winning_tickets.training.task_data import train_split
from winning_tickets.training.trainer import Checkpoints, StepLog, TicketTrainer, arguments, run_training


@distributed.together()
def transfer(
    config: TransferConfig, out: Path | str, runtime: Runtime | None = None, force: bool = False
) -> dict[str, Any]:
    """Fine-tune a model or ticket on a task, once for each seed, pruned weights held at zero.

    AdamW with a linearly decaying rate (TAMT, section 4.1.3 and Table 1 for the tasks' own settings). Finished seeds
    are kept, an unfinished one goes on from its checkpoint, failed ones are tried again.

    Args:
        config: what to fine-tune on what.
        out: a directory that is absent or empty, or holds this very transfer.
        runtime: device, precision and checkpoints.
        force: replace another transfer of ours in `out`.

    Returns:
        The summary, as stored in `result.json`: for each metric the final and the best value, with mean, standard
        deviation (ddof=1) and the values of the finished `seeds`.

    Raises:
        UsageError: impossible settings, missing files, unknown names, a foreign `out`.
        ContentError: a damaged ticket, one for other weights, unusable data.
        TrainingError: one or more seeds failed; the others are stored.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    runtime = runtime or Runtime()
    prepared = prepare(config, runtime)
    marker = config.model_dump(mode="json")
    run = RunDirectory.claim(Path(out), "transfer", prepared.identity(config), marker, force=force)
    if run.status == "done" and not run.result()["failed_seeds"]:
        return run.result()
    results, failures = run_seeds(config.seeds, run.path, lambda seed: run_seed(prepared, seed, run.path, runtime))
    summary = summarise(prepared, results, list(failures))
    run.finish(summary)
    raise_failures(failures, config.seeds, run.path)
    return summary


def run_seed(prepared: Prepared, seed: int, parent: Path, runtime: Runtime) -> dict[str, Any]:
    """Fine-tune with one seed, or return the stored result of an earlier run.

    Args:
        prepared: what all seeds share.
        seed: of the head, the data order and dropout.
        parent: the transfer's folder; the run is `parent/seed-N`.
        runtime: device, precision and checkpoints.

    Raises:
        TrainingError: the loss or a prediction became NaN or infinite, or the disk is full.
        Interrupted: Ctrl-C or SIGTERM.
    """
    single = prepared.config.model_copy(update={"seeds": (seed,)})
    folder = parent / f"seed-{seed}"
    run = RunDirectory.claim(folder, "transfer-seed", prepared.identity(single), single.model_dump(mode="json"))
    if run.status == "done":
        return run.result()
    distributed.on_main(lambda: (folder / ERROR).unlink(missing_ok=True))
    set_seed(seed)
    plm = prepared.load(seed)
    evaluations = Evaluations(run, prepared, plm, runtime)
    with progress(f"fine-tuning on {prepared.task.name}, seed {seed}", prepared.steps, runtime.quiet) as advance:
        trainer = _trainer(prepared, plm, seed, run, runtime, evaluations, advance)
        run_training(trainer, run)
    ticket = prepared.target.ticket
    if ticket is not None:
        check_pruned(ticket, plm)
    info = TaskInfo.of(prepared.task, prepared.max_length, prepared.doc_stride, _id(ticket), _sparsity(ticket))
    if prepared.config.save_model:
        distributed.on_main(lambda: _save_model(plm, info, ticket, folder / MODEL_FOLDER))
    result = _seed_result(prepared, seed, run, evaluations.records)
    run.finish(result)
    return result


def _trainer(
    prepared: Prepared,
    plm: PLM,
    seed: int,
    run: RunDirectory,
    runtime: Runtime,
    evaluations: TrainerCallback,
    advance: Callable[[int, str], None],
) -> TicketTrainer:
    config, task, ticket = prepared.config, prepared.task, prepared.target.ticket
    examples = train_split(config, prepared.data, seed)
    train = encode_for(plm, examples, prepared.max_length, task.kind, prepared.doc_stride)
    log = StepLog(run, advance)
    # The ticket was checked against the base weights before; those of a checkpoint, even of step 0, are others.
    held = [] if ticket is None else [TicketCallback(ticket, allow_other_weights=True)]
    trainer = TicketTrainer(
        model=plm.model,
        objective=task_losses(task, config.smart),
        build_optimizer=_optimizer(config, prepared.learning_rate),
        args=arguments(
            run.scratch,
            runtime,
            max_steps=prepared.steps,
            per_device_train_batch_size=prepared.batch_size,
            learning_rate=prepared.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=math.ceil(config.warmup_ratio * prepared.steps),
            weight_decay=config.weight_decay,
            max_grad_norm=1.0,
            seed=seed,
        ),
        train_dataset=train,
        data_collator=collate(plm.tokenizer, prepared.pad_to),
        callbacks=[*held, log, evaluations, Checkpoints(runtime)],
    )
    log.trainer = trainer
    return trainer


def _optimizer(config: TransferConfig, rate: float) -> Callable[[Any], torch.optim.Optimizer] | None:
    """The optimiser where it is not the Trainer's AdamW."""
    if config.optimizer == "adamw":
        return None
    return lambda model: make_optimizer(config.optimizer, decay_groups(model.parameters(), config.weight_decay), rate)


def check_pruned(ticket: Ticket, plm: PLM) -> None:
    """Make sure that every pruned weight is exactly +0.0 after training.

    Raises:
        TrainingError: one is not; the result would not be that of the ticket.
    """
    parameters = dict(plm.encoder.named_parameters())
    for name, mask in ticket.masks_on(plm.encoder).items():
        bits = parameters[name].detach().cpu().view(torch.int32)
        count = int(torch.count_nonzero(bits.masked_fill(mask, 0)))
        if count:
            raise TrainingError(
                f"{count} pruned weights of {name} are not zero after training, so the mask did not hold; this is a "
                "bug of winning-tickets. Nothing of this seed was kept as a result; please report it."
            )


def _save_model(plm: PLM, info: TaskInfo, ticket: Ticket | None, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run that was stopped before its result was stored

    def fill(staging: Path) -> None:
        save_model(plm, info, ticket, staging)

    build_directory(folder, fill)


def _seed_result(prepared: Prepared, seed: int, run: RunDirectory, records: list[dict[str, Any]]) -> dict[str, Any]:
    best = prepared.plan.best(records)
    ticket = prepared.target.ticket
    return {
        "verb": "transfer-seed",
        "seed": seed,
        "task": prepared.task.name,
        "labels": list(prepared.task.labels),
        "text_columns": list(prepared.task.text_columns),
        "max_length": prepared.max_length,
        "final": records[-1]["evaluation"],
        "best": best["evaluation"],
        "best_step": best["step"],
        **{f"best_{part}": best[part] for part in ("selection", "rest") if part in best},
        "stopped_step": records[-1]["step"],
        "primary_metric": prepared.plan.primary,
        "degenerate": records[-1]["degenerate"],
        "steps": prepared.steps,
        "train_examples": prepared.train_examples,
        "train_seconds": sum(record.get("seconds", 0.0) for record in read_log(run.path)),
        "model": prepared.target.model,
        "base_hash": prepared.base,
        "ticket_id": _id(ticket),
        "sparsity": _sparsity(ticket),
        **search_settings_of(ticket),
        **prepared.began,
        "model_saved": prepared.config.save_model,
        "versions": versions(),
        "machine": machine(),
    }


def summarise(prepared: Prepared, results: Sequence[dict[str, Any]], failed: list[int]) -> dict[str, Any]:
    """The summary over all finished seeds; failed ones are named and give no number."""
    task, ticket = prepared.task, prepared.target.ticket
    kinds = ("final", "best", *(("best_selection", "best_rest") if prepared.selection else ()))
    metrics = {
        name: {kind: statistics_of([result[kind][name] for result in results]) for kind in kinds}
        for name in metric_names(task)
    }
    return {
        "verb": "transfer",
        "run_id": prepared.identity(prepared.config),
        "task": task.name,
        "metrics": metrics,
        "seeds": [result["seed"] for result in results],
        "failed_seeds": failed,
        "primary_metric": prepared.plan.primary,
        "degenerate": any(result["degenerate"] for result in results),
        "majority": _majority(task.kind, prepared.data.validation[prepared.plan.primary_split]),
        "target": prepared.config.target,
        "model": prepared.target.model,
        "ticket_id": _id(ticket),
        "sparsity": _sparsity(ticket),
        **search_settings_of(ticket),
        **prepared.began,
        "train_examples": prepared.train_examples,
        "train_windows": prepared.train_windows,
        "soft_labels": prepared.data.train.soft is not None,
        "smart": None if prepared.config.smart is None else prepared.config.smart.model_dump(),
        "validation_examples": {name: len(split) for name, split in prepared.data.validation.items()},
        "unlabelled_examples": prepared.data.unlabelled,
        "epochs": prepared.steps / prepared.steps_per_epoch,
        "steps": prepared.steps,
        "batch_size": prepared.batch_size,
        "learning_rate": prepared.learning_rate,
        "max_length": prepared.max_length,
        "doc_stride": prepared.doc_stride,
        "eval_steps": prepared.eval_steps,
        "data_hash": prepared.data.fingerprint,
        "base_hash": prepared.base,
        "versions": versions(),
    }


def _majority(kind: Kind, split: Split) -> float | None:
    """Accuracy of the best constant class on a validation split, of examples or of words; None for other kinds."""
    if kind not in ("classification", "tokens"):
        return None
    labels = split.labels if kind == "classification" else [label for row in split.labels for label in row]
    return max(Counter(labels).values()) / len(labels)


def _id(ticket: Ticket | None) -> str | None:
    return None if ticket is None else ticket.id


def _sparsity(ticket: Ticket | None) -> float:
    return 0.0 if ticket is None else ticket.sparsity
