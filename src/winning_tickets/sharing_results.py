"""What a sharing gives: the result of a seed, and the summary over seeds with the average scores of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from winning_tickets.config import ShareConfig
from winning_tickets.data.averages import averages
from winning_tickets.data.metrics import metric_names
from winning_tickets.errors import ContentError
from winning_tickets.membership import union_of
from winning_tickets.provenance import machine, versions
from winning_tickets.rundir import RunDirectory, read_log
from winning_tickets.seed_runs import statistics_of
from winning_tickets.sharing_setup import PreparedSharing
from winning_tickets.sharing_trainer import SharedEvaluations, Sharing
from winning_tickets.task_tickets import TaskTickets

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
