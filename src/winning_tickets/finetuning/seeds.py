"""One stored run for each seed, and the common parts of the results and summaries of transfers and sharings."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from winning_tickets.config import Settings
from winning_tickets.data.metrics import best_constant, combine_splits, metric_names
from winning_tickets.finetuning.evaluation import EvaluationPlan
from winning_tickets.finetuning.prepared_task import PreparedTask, ticket_facts
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import MARKER, RunDirectory, joint_execution, read_log
from winning_tickets.runs.errors import TrainingError
from winning_tickets.runs.files import write_json
from winning_tickets.runs.provenance import machine, versions
from winning_tickets.runs.statistics import deviation
from winning_tickets.tickets.target import Target
from winning_tickets.tickets.ticket import Ticket

ERROR = "error.json"
KINDS = ("final", "best")  # evaluations of a seed that a summary reports
PARTS = {"selection": "selection", "whole": "evaluation"}
"""Parts of the dev set whose scores results name apart, such as `best_selection`, and their key in an evaluation."""
EXECUTION = ("precision", "compiled")  # keys of results that were not computed in plain float32


def run_seeds(
    run: RunDirectory,
    seeds: Sequence[int],
    run_seed: Callable[[int], dict[str, Any]],
    summarize: Callable[[list[dict[str, Any]], list[int]], dict[str, Any]],
) -> dict[str, Any]:
    """Run all seeds one after the other and store the summary of their results; then raise for failed seeds."""
    # `summarize` takes the results of the seeds that finished, and the seeds that failed.
    results: list[dict[str, Any]] = []
    failures: dict[int, str] = {}
    diverged = True
    for seed in seeds:
        try:
            results.append(run_seed(seed))
        except (TrainingError, torch.OutOfMemoryError) as error:
            if distributed.world_size() > 1 and not getattr(error, "of_all", False):
                raise  # the other processes do not know of the error, and would wait for this process in that seed
            failures[seed] = str(error)
            diverged &= getattr(error, "diverged", False)
            if not (run.path / f"seed-{seed}" / MARKER).exists():
                raise  # the folder could not be written; with an error file alone it would count as foreign
            content = {"seed": seed, "error": str(error)}
            distributed.on_main(partial(write_json, run.path / f"seed-{seed}" / ERROR, content))
    summary = summarize(results, list(failures))
    run.finish(summary)
    if failures:
        seed, message = next(iter(failures.items()))
        failure = TrainingError(
            f"{len(failures)} of {len(seeds)} seeds failed ({', '.join(map(str, failures))}). Seed {seed}: "
            f"{message} Each error is kept in {run.path}/seed-N/{ERROR}; the same command tries these seeds again."
        )
        failure.diverged = diverged
        raise failure
    return summary


def claim_seed(parent: Path, verb: str, seed: int, run_id: str, *, config: Settings) -> RunDirectory:
    """Claim the folder of one seed; unless its run is done, remove its last error and seed all random generators."""
    folder = parent / f"seed-{seed}"
    run = RunDirectory.claim(folder, verb, run_id, config.model_dump(mode="json"))
    if run.status != "done":
        distributed.on_main(lambda: (folder / ERROR).unlink(missing_ok=True))
        set_seed(seed)
    return run


def task_result(plan: EvaluationPlan, records: Sequence[dict[str, Any]], ticket: Ticket | None) -> dict[str, Any]:
    """Return the final and the best evaluation of one seed on one task."""
    found = {"final": records[-1], "best": plan.best(records)}
    last, selects = records[-1], "rest" in records[-1]
    parts = {"": "rest"} | {f"_{part}": key for part, key in PARTS.items()} if selects else {"": "evaluation"}
    return {
        # Without an evaluation that counts, the best one has all metrics 0.
        **{
            f"{kind}{part}": record.get(key, record["evaluation"])
            for part, key in parts.items()
            for kind, record in found.items()
        },
        "best_step": found["best"]["step"],
        "primary_metric": plan.primary,
        "degenerate": last["degenerate"],
        **ticket_facts(ticket),
    }


def seed_facts(run: RunDirectory, target: Target, base: str, *, saved: bool) -> dict[str, Any]:
    """Return time, model and software of one seed's run."""
    return {
        "train_seconds": sum(record.get("seconds", 0.0) for record in read_log(run.path)),
        "model": target.model,
        "base_hash": base,
        "model_saved": saved,
        "versions": versions(),
        "machine": machine(),
    }


def statistics_of(values: Sequence[float | None]) -> dict[str, Any]:
    """Return the values of the seeds with their mean (None without measured values) and std (ddof=1; None for one)."""
    measured = [value for value in values if value is not None]
    return {"mean": statistics.fmean(measured) if measured else None, "std": deviation(measured), "values": values}


def summarize_metrics(
    names: Sequence[str], results: Sequence[Mapping[str, Any]], kinds: Sequence[str] = KINDS
) -> dict[str, Any]:
    """Return statistics over seeds of each metric, for each kind of evaluation (`final`, `best` ...)."""
    return {name: {kind: statistics_of([result[kind][name] for result in results]) for kind in kinds} for name in names}


def summarize_task(
    task: PreparedTask, plan: EvaluationPlan, ticket: Ticket | None, results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the summary of one task over the finished seeds."""
    kinds = (*KINDS, *(f"{kind}_{part}" for part in PARTS for kind in KINDS)) if task.selection else KINDS
    chosen_on = {name: len(chosen.split) for name, (chosen, _) in task.selection.items()}
    constant = {
        name: {
            metric: best_constant(task.task, metric, split.labels)
            for metric in task.task.metrics
            if not metric.endswith("loss")
        }
        for name, split in task.reported.items()
    }
    return {
        "metrics": summarize_metrics(metric_names(task.task), results, kinds),
        "constant": combine_splits(task.task, constant),
        "primary_metric": plan.primary,
        "degenerate": any(result["degenerate"] for result in results),
        **ticket_facts(ticket),
        "train_examples": task.train_examples,
        "validation_examples": {name: len(split) for name, split in task.reported.items()},
        **({"selection_examples": chosen_on} if chosen_on else {}),
        "batch_size": task.batch_size,
        "max_length": task.max_length,
        "data_hash": task.data.fingerprint,
    }


def run_facts(results: Sequence[Mapping[str, Any]], failed: list[int], target: Target, base: str) -> dict[str, Any]:
    """Return seeds, model and software of a summary; failed seeds are listed and contribute no number."""
    return {
        "seeds": [result["seed"] for result in results],
        "failed_seeds": failed,
        "model": target.model,
        "base_hash": base,
        "versions": versions(),
    } | joint_execution(results)
