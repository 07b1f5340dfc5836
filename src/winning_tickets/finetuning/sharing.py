"""Tickets sharing: several tasks on one encoder, each with its ticket; one stored run for each seed, and a summary."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from winning_tickets.config import Runtime, SearchConfig, ShareConfig
from winning_tickets.data.metrics import averages, metric_names
from winning_tickets.finetuning.seeds import ERROR, raise_failures, run_seeds, statistics_of
from winning_tickets.finetuning.sharing_optimizer import union_of
from winning_tickets.finetuning.sharing_setup import PreparedSharing, prepare, single
from winning_tickets.finetuning.sharing_trainer import SharedEvaluations, Sharing, TaskTickets, trainer_of
from winning_tickets.finetuning.transfer import transfer
from winning_tickets.pruning.search import search
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory, read_log
from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.progress import progress
from winning_tickets.runs.provenance import machine, versions
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.predict import MODEL_FOLDER, TaskInfo
from winning_tickets.training.shared_model import save_shared
from winning_tickets.training.trainer import run_training

KINDS = ("final", "best")


def weight_remaining(encoder: nn.Module, tickets: TaskTickets, tasks: Sequence[str]) -> tuple[float, dict[str, float]]:
    """The share of all of the encoder's parameters that at least one task keeps, and that each task keeps.

    Args:
        encoder: the encoder that the tasks share; embeddings, norms, biases and a pooler count.
        tickets: on it.
        tasks: all that share it; those without a ticket keep everything.
    """
    total = sum(parameter.numel() for parameter in encoder.parameters())
    closed = {
        task: sum(int(torch.count_nonzero(~mask)) for mask in tickets.selections.get(task, {}).values())
        for task in tasks
    }
    gone = 0
    for name, _ in encoder.named_parameters():
        union = union_of(tasks, {task: masks[name] for task, masks in tickets.selections.items() if name in masks})
        gone += 0 if union is None else int(torch.count_nonzero(~union))
    return 1 - gone / total, {task: 1 - count / total for task, count in closed.items()}


def seed_result(
    prepared: PreparedSharing, seed: int, run: RunDirectory, evaluations: SharedEvaluations, sharing: Sharing
) -> dict[str, Any]:
    """The result of one seed, with the final and the best evaluation of each task."""
    remaining, of_each = weight_remaining(sharing.model.base_model, sharing.tickets, list(prepared.tasks))
    tasks = {}
    for name in prepared.tasks:
        records, plan, ticket = evaluations.of(name), prepared.plan(name), (prepared.tickets or {}).get(name)
        best = plan.best(records)
        tasks[name] = {
            "final": records[-1]["evaluation"],
            "best": best["evaluation"],
            "best_step": best["step"],
            "primary_metric": plan.primary,
            "degenerate": records[-1]["degenerate"],
            "ticket_id": None if ticket is None else ticket.id,
            "sparsity": 0.0 if ticket is None else ticket.sparsity,
            "weight_remaining": of_each[name],
        }
    return {
        "verb": "share-seed",
        "seed": seed,
        "tasks": tasks,
        "weight_remaining": remaining,
        "steps": prepared.steps,
        "train_seconds": sum(record.get("seconds", 0.0) for record in read_log(run.path)),
        "model": prepared.target.model,
        "base_hash": prepared.base,
        "model_saved": prepared.config.save_model,
        "versions": versions(),
        "machine": machine(),
    }


def summarise(
    prepared: PreparedSharing, config: ShareConfig, run_id: str, results: Sequence[dict[str, Any]], failed: list[int]
) -> dict[str, Any]:
    """The summary over all finished seeds; failed ones are named and give no number."""
    settings = prepared.settings
    return {
        "verb": "share",
        "run_id": run_id,
        "tasks": {name: _task(prepared, name, results) for name in prepared.tasks},
        **average_scores({name: [result["tasks"][name] for result in results] for name in prepared.tasks}),
        "weight_remaining": results[0]["weight_remaining"] if results else None,
        "seeds": [result["seed"] for result in results],
        "failed_seeds": failed,
        "model": prepared.target.model,
        "base_hash": prepared.base,
        "tickets": "auto" if config.tickets == "auto" else "given" if prepared.tickets else "none",
        "epochs": prepared.steps / prepared.steps_per_epoch,
        "steps": prepared.steps,
        "steps_per_epoch": prepared.steps_per_epoch,
        **settings.model_dump(mode="json", include=_SHOWN),
        "versions": versions(),
    }


_SHOWN = {
    "mixing",
    "main_task",
    "ratio",
    "optimizer",
    "learning_rate",
    "warmup_ratio",
    "weight_decay",
    "strict",
    "smart",
}
"""Settings that a summary repeats."""


def _task(prepared: PreparedSharing, name: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    task, ticket = prepared.tasks[name], (prepared.tickets or {}).get(name)
    found = [result["tasks"][name] for result in results]
    return {
        "metrics": metrics_of(metric_names(task.task), found),
        "primary_metric": prepared.plan(name).primary,
        "degenerate": any(result["degenerate"] for result in found),
        "ticket_id": None if ticket is None else ticket.id,
        "sparsity": 0.0 if ticket is None else ticket.sparsity,
        "weight_remaining": found[0]["weight_remaining"] if found else None,
        "train_examples": task.train_examples,
        "validation_examples": {split: len(examples) for split, examples in task.data.validation.items()},
        "batch_size": task.batch_size,
        "batches": task.per_epoch,
        "max_length": task.max_length,
        "dropout_p": task.task.head_dropout,
        "data_hash": task.data.fingerprint,
    }


def metrics_of(names: Sequence[str], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The final and the best value of each metric over seeds.

    Args:
        names: of the metrics.
        results: of each seed `final` and `best`, the metrics by name.
    """
    return {name: {kind: statistics_of([result[kind][name] for result in results]) for kind in KINDS} for name in names}


def average_scores(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The averages over tasks by both rules of the paper, seed by seed.

    Args:
        results: by task, of each seed `final` and `best`, the metrics by name.

    Returns:
        `averages` (by rule, `final` and `best` over the seeds), `missing_tasks` (of the paper's) and `other_tasks` (not
        of the paper's). `averages` is None where a task lacks a metric that the paper averages (a task file may give a
        task of the paper fewer).
    """
    count = min(map(len, results.values()))
    try:
        by_kind = {
            kind: [averages({task: found[seed][kind] for task, found in results.items()}) for seed in range(count)]
            for kind in KINDS
        }
    except ContentError:
        return {"averages": None, "missing_tasks": [], "other_tasks": list(results)}
    if not count:
        return {"averages": None, "missing_tasks": [], "other_tasks": []}
    example = by_kind["final"][0]
    return {
        "averages": {
            rule: {kind: statistics_of([found[rule].value for found in by_kind[kind]]) for kind in KINDS}
            for rule in example
        },
        "missing_tasks": list(example["task_average"].missing),
        "other_tasks": list(example["task_average"].beyond),
    }


STAGES = "stages"
FINE_TUNED = "fine-tuned"
TICKET = "ticket"


def find_tickets(prepared: PreparedSharing, path: Path, runtime: Runtime) -> dict[str, Ticket]:
    """A ticket of heads and FFNs for each task, by their importance to the pre-trained model fine-tuned on it.

    Tasks at level 0 get none and use the whole encoder.

    Args:
        prepared: of the sharing.
        path: its folder; the stages are `stages/TASK/fine-tuned` and `stages/TASK/ticket`.
        runtime: device, precision and checkpoints.

    Raises:
        TrainingError: a fine-tuning failed.
        Interrupted: Ctrl-C or SIGTERM.
    """
    settings, target, tickets = prepared.settings, prepared.target, {}
    for name, task in prepared.tasks.items():
        level, folder = settings.level_of(name), path / STAGES / name
        if level == 0:
            continue
        alone = single(settings, target.model, name, task.task.head_dropout)
        base = {"revision": target.revision, "layers": target.layers, "seeds": settings.seeds[:1]}
        transfer(alone.model_copy(update=base), folder / FINE_TUNED, runtime)
        wanted = SearchConfig(
            model=target.model,
            revision=target.revision,
            layers=target.layers,
            method="importance",
            importance_from=str(folder / FINE_TUNED),
            level=(level,),
            profile=settings.profile,
            seed=settings.seeds[0],
        )
        tickets[name] = search(wanted, folder / TICKET, runtime)
    return tickets


def fine_tune(prepared: PreparedSharing, seeds: Sequence[int], path: Path, runtime: Runtime) -> dict[str, Any]:
    """Fine-tune the shared model of each seed on each task alone, with the task's ticket held.

    Args:
        prepared: of the sharing.
        seeds: those that finished.
        path: the folder of the sharing; the stages are `fine-tuned/seed-N/TASK`.
        runtime: device, precision and checkpoints.

    Returns:
        `tasks`, with `metrics` of each; `averages`, `missing_tasks` and `other_tasks`, as of the sharing itself.

    Raises:
        TrainingError: a fine-tuning failed.
        Interrupted: Ctrl-C or SIGTERM.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in prepared.tasks}
    for seed in seeds:
        for name, task in prepared.tasks.items():
            model = path / f"seed-{seed}" / MODEL_FOLDER
            alone = single(prepared.settings, str(model), name, task.task.head_dropout)
            alone = alone.model_copy(update={"seeds": (seed,)})
            metrics = transfer(alone, path / FINE_TUNED / f"seed-{seed}" / name, runtime)["metrics"]
            found[name].append({kind: {key: metrics[key][kind]["mean"] for key in metrics} for kind in KINDS})
    tasks = {name: {"metrics": metrics_of(list(results[0]["final"]), results)} for name, results in found.items()}
    return {"tasks": tasks, **average_scores(found)}


@distributed.together()
def share(config: ShareConfig, out: Path | str, runtime: Runtime | None = None, force: bool = False) -> dict[str, Any]:
    """Train one encoder for several tasks, each with its ticket (Super Tickets, section 4, Algorithm 1).

    A batch of a task computes with the task's ticket and moves what that selected, and nothing else. Without tickets
    this is plain multi-task fine-tuning (MT-DNN). Finished stages and seeds are kept, an unfinished one goes on from
    its checkpoint, failed seeds are tried again.

    Args:
        config: what shares what.
        out: a directory that is absent or empty, or holds this very run.
        runtime: device, precision and checkpoints.
        force: replace another run of ours in `out`.

    Returns:
        The summary, as stored in `result.json`: of each task and metric the final and the best value over the finished
        `seeds`, `averages` by the rules of the paper, `weight_remaining`.

    Raises:
        UsageError: impossible settings, missing files, unknown names, a foreign `out`.
        ContentError: a damaged ticket, one for other weights, unusable data.
        TrainingError: one or more seeds failed; the others are stored.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    runtime = runtime or Runtime()
    prepared = prepare(config, runtime)
    identity = prepared.identity(config)
    run = RunDirectory.claim(Path(out), "share", identity, config.model_dump(mode="json"), force=force)
    if run.status == "done" and not run.result()["failed_seeds"]:
        return run.result()
    if prepared.tickets is None:
        prepared = dataclasses.replace(prepared, tickets=find_tickets(prepared, run.path, runtime))
    results, failures = run_seeds(config.seeds, run.path, lambda seed: run_seed(prepared, seed, run.path, runtime))
    summary = summarise(prepared, config, identity, results, list(failures))
    if config.fine_tune and results:
        summary["fine_tuned"] = fine_tune(prepared, summary["seeds"], run.path, runtime)
    run.finish(summary)
    raise_failures(failures, config.seeds, run.path)
    return summary


def run_seed(prepared: PreparedSharing, seed: int, parent: Path, runtime: Runtime) -> dict[str, Any]:
    """Train with one seed, or return the stored result of an earlier run.

    Args:
        prepared: what all seeds share; its tickets are known.
        seed: of heads, order and dropout.
        parent: the folder of the whole run; this one is `parent/seed-N`.
        runtime: device, precision and checkpoints.

    Raises:
        TrainingError: the loss or a prediction became NaN or infinite, or the disk is full.
        Interrupted: Ctrl-C or SIGTERM.
    """
    one = {"seeds": (seed,), "fine_tune": False, "single_epochs": None, "single_learning_rate": None}
    config = prepared.config.model_copy(update=one)
    folder = parent / f"seed-{seed}"
    run = RunDirectory.claim(folder, "share-seed", prepared.identity(config), config.model_dump(mode="json"))
    if run.status == "done":
        return run.result()
    distributed.on_main(lambda: (folder / ERROR).unlink(missing_ok=True))
    set_seed(seed)
    sharing = Sharing(prepared, seed, runtime)
    evaluations = SharedEvaluations(run, prepared, sharing, runtime)
    with progress(f"sharing {', '.join(prepared.tasks)}, seed {seed}", prepared.steps, runtime.quiet) as advance:
        run_training(trainer_of(prepared, sharing, seed, run, runtime, evaluations, advance), run)
    if prepared.config.save_model:
        distributed.on_main(lambda: _save_model(prepared, sharing, folder / MODEL_FOLDER))
    result = seed_result(prepared, seed, run, evaluations, sharing)
    run.finish(result)
    return result


def _save_model(prepared: PreparedSharing, sharing: Sharing, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run that was stopped before its result was stored
    tickets = prepared.tickets or {}
    infos = {}
    for name, task in prepared.tasks.items():
        ticket = tickets.get(name)
        about = (None, 0.0) if ticket is None else (ticket.id, ticket.sparsity)
        infos[name] = TaskInfo.of(task.task, task.max_length, task.doc_stride, *about)
    tokenizer = next(iter(sharing.plms.values())).tokenizer
    save_shared(folder, sharing.model, tokenizer, infos, tickets, prepared.base)
