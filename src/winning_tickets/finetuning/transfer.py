"""Fine-tuning of a model or a ticket on a task: one stored run for each seed, and a summary over the seeds."""

from __future__ import annotations

import copy
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from winning_tickets.config import Runtime, TransferConfig
from winning_tickets.data.batches import CorpusBatches
from winning_tickets.data.encode import make_collator
from winning_tickets.data.metrics import class_scores, majority
from winning_tickets.data.mixing import TaskBatches, trainer_order
from winning_tickets.data.records import Task
from winning_tickets.finetuning import seeds
from winning_tickets.finetuning.choice import choose
from winning_tickets.finetuning.evaluation import Evaluations, evaluate_dev_splits, has_confusion
from winning_tickets.finetuning.setup import PreparedTransfer, prepare_transfer
from winning_tickets.models.loading import PLM
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import TrainingError
from winning_tickets.runs.files import build_directory
from winning_tickets.runs.progress import progress
from winning_tickets.tickets.cards import model_facts, results_of, write_card
from winning_tickets.tickets.holding import Held, hold
from winning_tickets.tickets.ticket import Ticket, search_settings_of
from winning_tickets.training.objectives.base import Objective
from winning_tickets.training.objectives.pretraining import PretrainingObjective
from winning_tickets.training.objectives.smart import make_task_objective
from winning_tickets.training.optimizers import decay_groups, make_optimizer
from winning_tickets.training.saved_model import MODEL_FOLDER, save_model
from winning_tickets.training.task_data import train_split
from winning_tickets.training.trainer import (
    Callback,
    Checkpoints,
    StepLog,
    TicketTrainer,
    run_training,
    trainer_arguments,
)

logger = logging.getLogger(__name__)


@distributed.together()
def transfer(
    config: TransferConfig, out: Path | str, runtime: Runtime | None = None, *, force: bool = False
) -> dict[str, Any]:
    """Fine-tune a model or ticket on a task, and return the stored `result.json`; see `api.verbs.transfer`.

    By default AdamW with a linearly decaying learning rate (TAMT, section 4.1.3; Table 1 for the settings of each
    task). Finished seeds are skipped, an unfinished seed resumes from its checkpoint, failed seeds are tried again.
    Of several learning rates, epochs or dropouts, the one with the best mean over the seeds on the part `select_on` of
    the dev set is chosen, the same for all seeds; the scores are those of the rest (see `finetuning.choice`).
    """
    runtime = runtime or Runtime()
    prepared = prepare_transfer(config, runtime)
    config = prepared.config
    marker = config.model_dump(mode="json")
    with RunDirectory.claim(Path(out), "transfer", prepared.identity(config), marker, force=force) as run:
        if run.status == "done":
            return run.result()
        for remark in prepared.remarks:
            logger.warning(remark)
        if config.chosen_fields:
            return choose(prepared, run, partial(_transfer_seeds, runtime=runtime))
        return _transfer_seeds(prepared, run, runtime)


def _transfer_seeds(prepared: PreparedTransfer, run: RunDirectory, runtime: Runtime) -> dict[str, Any]:
    return seeds.run_seeds(
        run,
        prepared.config.seeds,
        lambda seed: transfer_seed(prepared, seed, run.path, runtime),
        lambda results, failed: _summarize(prepared, results, failed),
    )


def transfer_seed(prepared: PreparedTransfer, seed: int, parent: Path, runtime: Runtime) -> dict[str, Any]:
    """Fine-tune with one seed in `parent/seed-N`, or return the stored result of an earlier run."""
    config, plan, ticket = prepared.config, prepared.plan, prepared.target.ticket
    single = config.model_copy(update={"seeds": (seed,)})
    run = seeds.claim_seed(parent, "transfer-seed", seed, prepared.identity(single), config=single)
    if run.status == "done":
        return run.result()
    # The head is initialized from the seed that `claim_seed` has set.
    plm = prepared.load(seed)
    # If a ticket prunes whole units, a model without them learns the same in less time. A saved model has all units.
    whole = plm
    if config.save_model and ticket is not None and ticket.prunes_only_units:
        whole = replace(plm, model=copy.deepcopy(plm.model))
    removed = None if ticket is None else ticket.remove_units_(plm.encoder)
    measure: Callable[[], dict[str, Any]] = partial(evaluate_dev_splits, prepared, plm, bf16=runtime.bf16)
    if prepared.text is not None:
        measure = prepared.text.evaluation(config, prepared, plm, runtime)
    evaluations = Evaluations(run, plan, measure)
    with progress(f"fine-tuning on {prepared.task.name}, seed {seed}", prepared.steps, quiet=runtime.quiet) as advance:
        held = ticket if removed is None else None
        run_training(
            _trainer(prepared, plm, seed, run, runtime=runtime, evaluations=evaluations, advance=advance, ticket=held),
            run,
        )
    if removed is not None and config.save_model:
        removed.write_back_(whole.model, plm.model)
    # If the mask did not hold, this would be the result of another model.
    if ticket is not None and (removed is None or config.save_model):
        _check_pruned(ticket, whole)
    scores = seeds.task_result(plan, evaluations.records, ticket)
    if config.save_model:
        distributed.on_main(lambda: _save_model(prepared, whole, run.path / MODEL_FOLDER, scores))
    confusion = evaluations.confusion
    if confusion is None and has_confusion(prepared.task):  # the run was stopped right after its last checkpoint
        confusion = distributed.on_main(measure).get("confusion")
    result = {
        "verb": "transfer-seed",
        "seed": seed,
        "task": prepared.task.name,
        "labels": list(prepared.task.labels),
        "text_columns": list(prepared.task.text_columns),
        "max_length": prepared.max_length,
        **scores,
        "confusion": confusion,
        "stopped_step": evaluations.records[-1]["step"],
        "stopped_early": evaluations.records[-1]["step"] < prepared.steps,
        "steps": prepared.steps,
        "train_examples": prepared.train_examples,
        **search_settings_of(ticket),
        **prepared.start_facts,
        **seeds.seed_facts(run, prepared.target, prepared.base, saved=config.save_model),
    }
    run.finish(result)
    return run.result()


def _trainer(
    prepared: PreparedTransfer,
    plm: PLM,
    seed: int,
    run: RunDirectory,
    *,
    runtime: Runtime,
    evaluations: Callback,
    advance: Callable[[int, str], None],
    ticket: Ticket | None,
) -> TicketTrainer:
    config = prepared.config

    def build_optimizer(model: Any) -> torch.optim.Optimizer:
        groups = decay_groups(model.parameters(), config.weight_decay)
        return make_optimizer(config.optimizer, groups, prepared.learning_rate)

    batches, objective = _learning(prepared, plm, seed)
    held = [] if ticket is None else [HeldTicket(ticket)]
    return TicketTrainer(
        model=plm.model,
        objective=objective,
        build_optimizer=None if config.optimizer == "adamw" else build_optimizer,
        args=trainer_arguments(
            run.scratch,
            runtime,
            max_steps=prepared.steps,
            learning_rate=prepared.learning_rate,
            warmup_steps=math.ceil(config.warmup_ratio * prepared.steps),
            weight_decay=config.weight_decay,
            max_grad_norm=1.0,
            seed=seed,
        ),
        batches=batches,
        steps_per_epoch=batches.per_epoch if isinstance(batches, TaskBatches) else prepared.steps_per_epoch,
        callbacks=[*held, StepLog(run, advance), evaluations, Checkpoints(runtime)],
    )


def _learning(prepared: PreparedTransfer, plm: PLM, seed: int) -> tuple[TaskBatches | CorpusBatches, Objective]:
    """Return the training batches of a seed, from examples or text, and the loss."""
    config, settings = prepared.config, prepared.plan.config
    if prepared.text is not None:
        batches = prepared.text.batches(config, plm, seed, prepared.max_length)
        return batches, PretrainingObjective({prepared.task.kind: 1.0}, plm.architecture)
    teacher = None if prepared.teacher is None else prepared.teacher.plm
    examples = prepared.encode(plm, train_split(config, prepared.data, seed), teacher)
    pad = make_collator(plm.tokenizer, prepared.max_length if settings.padding == "max-length" else None)
    objective: Objective
    if prepared.teacher is None:
        objective = make_task_objective(prepared.task, config.smart)
    else:
        objective = prepared.teacher.objective(prepared.task, config)
    by_length = settings.group_by_length
    return TaskBatches(examples, pad, prepared.batch_size, seed, order=trainer_order, by_length=by_length), objective


class HeldTicket(Callback):
    """Keeps pruned weights at zero during a training."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._held: Held

    def on_train_begin(self, trainer: TicketTrainer) -> None:
        """Apply the ticket; it was checked against the base weights before, from which those of a checkpoint differ."""
        # Without the optimizer nothing is zeroed after a step: a weight of +0.0 whose gradient is always zero stays
        # +0.0 in each optimizer of a transfer, and to go over all weights once more would double the time of holding.
        self._held = hold(trainer.model, self._ticket, allow_other_weights=True)

    def on_train_end(self, trainer: TicketTrainer) -> None:
        """Remove the hooks from the model."""
        self._held.remove()


def _check_pruned(ticket: Ticket, plm: PLM) -> None:
    """Make sure that every pruned weight is exactly +0.0 after training."""
    parameters = dict(plm.encoder.named_parameters())
    for name, mask in ticket.masks_on(plm.encoder).items():
        bits = parameters[name].detach().cpu().view(torch.int32)
        count = int(torch.count_nonzero(bits.masked_fill(mask, 0)))
        if count:
            raise TrainingError(
                f"{count} pruned weights of {name} are not zero after training, so the mask did not hold; this is a "
                "bug of winning-tickets. Nothing of this seed was kept as a result; please report it."
            )


def _save_model(prepared: PreparedTransfer, plm: PLM, folder: Path, scores: dict[str, Any]) -> None:
    ticket, task = prepared.target.ticket, prepared.task.name
    facts = model_facts("fine-tuned", prepared.target.model, ticket, [task], model_class=type(plm.model).__name__)

    def fill(staging: Path) -> None:
        save_model(plm, prepared.info(ticket), ticket, staging)
        write_card(staging, facts, results_of({"task": task, **scores}))

    shutil.rmtree(folder, ignore_errors=True)  # left by an earlier attempt that stopped before its result was stored
    build_directory(folder, fill)


_SUMMARY = (  # keys of a summary, in the order that the rows of `runs.csv` have, too
    *("verb", "run_id", "task", "metrics", "seeds", "failed_seeds", "primary_metric", "degenerate", "majority"),
    *("constant", "chosen", "candidates"),
    *("labels", "classes", "confusion", "warnings"),
    *("target", "model", "ticket_id", "sparsity", "method", "search", "search_seed", "asked", "start_from"),
    *("start_hash", "from_task", "head", "train_examples", "train_windows", "smart", "teacher"),
    *("corpus", "segments"),
    *(
        "validation_examples",
        "selection_examples",
        "unlabelled_examples",
        "epochs",
        "steps",
        "stopped_early",
        "batch_size",
        "learning_rate",
        "dropout",
    ),
    *("max_length", "doc_stride", "eval_steps", "data_hash", "base_hash", "versions"),
)


def _by_class(task: Task, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the confusion tables of the final evaluations, summed over seeds, and the scores of each class."""
    tables: dict[str, list[list[int]]] = {}
    for result in results:
        for split, table in (result.get("confusion") or {}).items():
            tables[split] = np.add(tables.get(split, 0), table).tolist()
    classes = {split: class_scores(table, task.labels) for split, table in tables.items()}
    return {"labels": list(task.labels), "classes": classes, "confusion": tables}


def _warnings(prepared: PreparedTransfer, results: list[dict[str, Any]]) -> list[str]:
    """Return warnings about data that look like a mistake, and about models that learned nothing."""
    flat = [str(result["seed"]) for result in results if result["degenerate"]]
    if not flat:
        return list(prepared.data.remarks)
    share = majority(prepared.task.kind, prepared.data.validation[prepared.plan.primary_split].labels)
    always = "" if share is None else f" (the most frequent class alone has an accuracy of {share:.1%})"
    return [
        *prepared.data.remarks,
        f"With seed {', '.join(flat)} the final model is no better than one answer for all examples{always}. Train "
        "longer (--epochs, --steps), try another --learning-rate, and check the labels and the text columns.",
    ]


def _summarize(prepared: PreparedTransfer, results: list[dict[str, Any]], failed: list[int]) -> dict[str, Any]:
    task, ticket, plan, config = prepared.task, prepared.target.ticket, prepared.plan, prepared.config
    found = {
        "verb": "transfer",
        "run_id": prepared.identity(config),
        "task": task.name,
        **seeds.summarize_task(prepared, plan, ticket, results),
        "majority": majority(task.kind, prepared.reported[plan.primary_split].labels),
        "target": config.target,
        **_by_class(task, results),
        "warnings": _warnings(prepared, results),
        **search_settings_of(ticket),
        **prepared.start_facts,
        "train_windows": prepared.train_windows,
        "smart": None if config.smart is None else config.smart.model_dump(),
        "teacher": config.teacher,
        "unlabelled_examples": prepared.data.unlabelled,
        **({} if prepared.text is None else {"corpus": config.corpus, "segments": f"packed:{prepared.max_length}"}),
        "epochs": prepared.steps / prepared.steps_per_epoch,
        "steps": prepared.steps,
        "stopped_early": sum(result.get("stopped_early", False) for result in results),
        "learning_rate": prepared.learning_rate,
        "dropout": prepared.dropout,
        "doc_stride": prepared.doc_stride,
        "eval_steps": prepared.eval_steps,
        **seeds.run_facts(results, failed, prepared.target, prepared.base),
    }
    return {key: found[key] for key in (*_SUMMARY, *seeds.EXECUTION) if key in found}
