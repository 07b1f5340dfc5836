"""Tickets sharing: several tasks on one encoder, each with its own ticket; a stored run per seed, and a summary."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from winning_tickets.config import AUTO, Runtime, ShareConfig
from winning_tickets.config.levels import written_levels
from winning_tickets.config.structured import ImportanceSearch
from winning_tickets.data.metrics import averages
from winning_tickets.finetuning import seeds
from winning_tickets.finetuning.sharing_optimizer import union_of
from winning_tickets.finetuning.sharing_setup import PreparedSharing, prepare_sharing
from winning_tickets.finetuning.sharing_trainer import SharedEvaluations, Sharing, TaskTickets, make_sharing_trainer
from winning_tickets.finetuning.transfer import transfer
from winning_tickets.pruning.search import search
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.progress import progress
from winning_tickets.tickets.cards import model_facts, results_of, write_card
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.saved_model import MODEL_FOLDER
from winning_tickets.training.shared_model import save_shared
from winning_tickets.training.trainer import run_training

logger = logging.getLogger(__name__)

STAGES = "stages"
FINE_TUNED = "fine-tuned"
TICKET = "ticket"
_SHOWN = {"mixing", "main_task", "ratio", "optimizer", "dropout"}
_SHOWN |= {"warmup_ratio", "weight_decay", "strict", "best_by", "smart"}  # settings that a summary repeats
_TASK = (  # keys of the summary of a task, in the order that the rows of `runs.csv` have, too
    *(
        "metrics",
        "constant",
        "primary_metric",
        "degenerate",
        "ticket_id",
        "sparsity",
        "weight_remaining",
        "train_examples",
    ),
    *("validation_examples", "batch_size", "batches", "max_length", "dropout_p", "data_hash"),
)


@distributed.together()
def share(
    config: ShareConfig, out: Path | str, runtime: Runtime | None = None, *, force: bool = False
) -> dict[str, Any]:
    """Train one encoder for several tasks (Super Tickets, section 4, Algorithm 1); see `api.verbs.share`.

    A batch of a task computes with the task's ticket, and its step updates only the weights that the ticket keeps.
    Without tickets this is plain multi-task fine-tuning (MT-DNN). Finished stages and seeds are skipped, an unfinished
    one resumes from its checkpoint, failed seeds are tried again. The result has `averages` over tasks by the rules of
    the paper.
    """
    runtime = runtime or Runtime()
    prepared = prepare_sharing(config, runtime)
    identity = prepared.identity(config)
    with RunDirectory.claim(Path(out), "share", identity, config.model_dump(mode="json"), force=force) as run:
        if run.status == "done":
            return run.result()
        for name, task in prepared.tasks.items():
            for remark in task.data.remarks:
                logger.warning("%s: %s", name, remark)
        # With `auto`, the tickets come from runs of their own, so they are found once for all seeds.
        if prepared.tickets is None:
            prepared = dataclasses.replace(prepared, tickets=_find_tickets(prepared, run.path, runtime))

        def summarize(results: list[dict[str, Any]], failed: list[int]) -> dict[str, Any]:
            summary = _summarize(prepared, identity, results, failed)
            if config.fine_tune and results:
                summary["fine_tuned"] = _fine_tune(prepared, summary["seeds"], run.path, runtime)
            return summary

        return seeds.run_seeds(run, config.seeds, lambda seed: share_seed(prepared, seed, run.path, runtime), summarize)


def share_seed(prepared: PreparedSharing, seed: int, parent: Path, runtime: Runtime) -> dict[str, Any]:
    """Train with one seed in `parent/seed-N`, or return the stored result of an earlier run."""
    # Settings of later stages are not part of a seed's run id.
    one = {"seeds": (seed,), "fine_tune": False, "single_epochs": None, "single_learning_rate": None}
    config = prepared.config.model_copy(update=one)
    run = seeds.claim_seed(parent, "share-seed", seed, prepared.identity(config), config=config)
    if run.status == "done":
        return run.result()
    # One loop over the batches of all tasks; each task is evaluated with its own ticket.
    sharing = Sharing(prepared, seed, runtime)
    evaluations = SharedEvaluations(run, prepared, sharing, runtime)
    with progress(f"sharing {', '.join(prepared.tasks)}, seed {seed}", prepared.steps, quiet=runtime.quiet) as advance:
        run_training(
            make_sharing_trainer(
                prepared, sharing, seed, run, runtime=runtime, evaluations=evaluations, advance=advance
            ),
            run,
        )
    remaining, of_each = weight_remaining(sharing.model.base_model, sharing.tickets, list(prepared.tasks))
    tasks = {
        name: seeds.task_result(prepared.plan(name), evaluations.of(name), prepared.ticket_of(name))
        | {"weight_remaining": of_each[name]}
        for name in prepared.tasks
    }
    if config.save_model:
        distributed.on_main(lambda: _save_model(prepared, sharing, run.path / MODEL_FOLDER, tasks))
    result = {
        "verb": "share-seed",
        "seed": seed,
        "tasks": tasks,
        "weight_remaining": remaining,
        "steps": prepared.steps,
        "stopped_early": evaluations.records[-1]["step"] < prepared.steps,
        **seeds.seed_facts(run, prepared.target, prepared.base, saved=config.save_model),
    }
    run.finish(result)
    return run.result()


def _save_model(prepared: PreparedSharing, sharing: Sharing, folder: Path, results: dict[str, Any]) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # left by an earlier attempt that stopped before its result was stored
    infos = {name: task.info(prepared.ticket_of(name)) for name, task in prepared.tasks.items()}
    tokenizer = next(iter(sharing.plms.values())).tokenizer
    save_shared(folder, sharing.model, tokenizer, infos, tickets=prepared.tickets or {}, base_hash=prepared.base)
    write_card(folder, model_facts("shared", prepared.target.model, None, infos), results_of({"tasks": results}))


def weight_remaining(encoder: nn.Module, tickets: TaskTickets, tasks: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Return the fraction of the encoder's parameters that any task keeps, and the fraction that each task keeps."""
    # Embeddings, norms, biases and a pooler count; tasks without a ticket keep everything.
    total = sum(parameter.numel() for parameter in encoder.parameters())
    closed = {
        task: sum(int(torch.count_nonzero(~mask)) for mask in tickets.selections.get(task, {}).values())
        for task in tasks
    }
    removed = 0
    for name, _ in encoder.named_parameters():
        union = union_of(tasks, {task: masks[name] for task, masks in tickets.selections.items() if name in masks})
        removed += 0 if union is None else int(torch.count_nonzero(~union))
    return 1 - removed / total, {task: 1 - count / total for task, count in closed.items()}


def _summarize(
    prepared: PreparedSharing, run_id: str, results: list[dict[str, Any]], failed: list[int]
) -> dict[str, Any]:
    by_task = {name: [result["tasks"][name] for result in results] for name in prepared.tasks}
    tasks = {}
    for name, task in prepared.tasks.items():
        found = seeds.summarize_task(task, prepared.plan(name), prepared.ticket_of(name), by_task[name])
        found["weight_remaining"] = by_task[name][0]["weight_remaining"] if results else None
        found |= {"batches": task.steps_per_epoch, "dropout_p": task.task.head_dropout}
        tasks[name] = {key: found[key] for key in _TASK}
    return {
        "verb": "share",
        "run_id": run_id,
        "tasks": tasks,
        **_average_scores(by_task),
        "weight_remaining": results[0]["weight_remaining"] if results else None,
        **seeds.run_facts(results, failed, prepared.target, prepared.base),
        "tickets": "auto" if prepared.config.tickets == AUTO else "given" if prepared.tickets else "none",
        "epochs": prepared.steps / prepared.steps_per_epoch,
        "steps": prepared.steps,
        "stopped_early": sum(result.get("stopped_early", False) for result in results),
        "steps_per_epoch": prepared.steps_per_epoch,
        "learning_rate": prepared.learning_rate,
        **prepared.settings.model_dump(mode="json", include=_SHOWN),
    }


def _average_scores(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return averages over tasks by both rules of the paper, and the tasks that are missing or not in the paper."""
    # `averages` is None if a task lacks a metric that the paper averages: a task file may define fewer metrics.
    count = min(map(len, results.values()))
    try:
        by_kind = {
            kind: [averages({task: found[seed][kind] for task, found in results.items()}) for seed in range(count)]
            for kind in seeds.KINDS
        }
    except ContentError:
        return {"averages": None, "missing_tasks": [], "other_tasks": list(results)}
    if not count:
        return {"averages": None, "missing_tasks": [], "other_tasks": []}
    example = by_kind["final"][0]
    return {
        "averages": {
            rule: {kind: seeds.statistics_of([found[rule].value for found in by_kind[kind]]) for kind in seeds.KINDS}
            for rule in example
        },
        "missing_tasks": list(example["task_average"].missing),
        "other_tasks": list(example["task_average"].beyond),
    }


def _find_tickets(prepared: PreparedSharing, path: Path, runtime: Runtime) -> dict[str, Ticket]:
    """Return a ticket of heads and FFNs for each task, by importance to the pre-trained model fine-tuned on it."""
    # The stages are `stages/TASK/fine-tuned` and `stages/TASK/ticket`. Tasks at level 0 use the whole encoder.
    settings, target, tickets = prepared.settings, prepared.target, {}
    for name, task in prepared.tasks.items():
        level, folder = settings.level_of(name), path / STAGES / name
        if level == 0:
            continue
        alone = settings.alone(target.model, name, task.task.head_dropout)
        base = {"revision": target.revision, "layers": target.layers, "seeds": settings.seeds[:1]}
        transfer(alone.model_copy(update=base), folder / FINE_TUNED, runtime)
        # The importances come from the fine-tuned model, but the ticket is of the pre-trained model.
        wanted = ImportanceSearch.of(
            model=target.model,
            revision=target.revision,
            layers=target.layers,
            importance_from=str(folder / FINE_TUNED),
            level=written_levels([level]),
            profile=settings.profile,
            seed=settings.seeds[0],
        )
        tickets[name] = search(wanted, folder / TICKET, runtime)
    return tickets


def _fine_tune(prepared: PreparedSharing, finished: Sequence[int], path: Path, runtime: Runtime) -> dict[str, Any]:
    """Fine-tune the shared model of each finished seed on each task alone, with the task's ticket applied."""
    # The stages are `fine-tuned/seed-N/TASK`; the result has the metrics of each task and the averages over tasks.
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in prepared.tasks}
    for seed in finished:
        for name, task in prepared.tasks.items():
            model = path / f"seed-{seed}" / MODEL_FOLDER
            alone = prepared.settings.alone(str(model), name, task.task.head_dropout)
            alone = alone.model_copy(update={"seeds": (seed,)})
            metrics = transfer(alone, path / FINE_TUNED / f"seed-{seed}" / name, runtime)["metrics"]
            found[name].append({kind: {key: metrics[key][kind]["mean"] for key in metrics} for kind in seeds.KINDS})
    summarize = seeds.summarize_metrics
    tasks = {name: {"metrics": summarize(list(results[0]["final"]), results)} for name, results in found.items()}
    return {"tasks": tasks, **_average_scores(found)}
