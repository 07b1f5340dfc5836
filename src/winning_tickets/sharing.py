"""Tickets sharing: several tasks on one encoder, each with its ticket; one stored run for each seed, and a summary."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from transformers import set_seed

from winning_tickets import processes
from winning_tickets.config import Runtime, ShareConfig
from winning_tickets.predict import MODEL_FOLDER, TaskInfo
from winning_tickets.progress import progress
from winning_tickets.rundir import RunDirectory
from winning_tickets.seed_runs import ERROR, raise_failures, run_seeds
from winning_tickets.shared_model import save_shared
from winning_tickets.sharing_results import seed_result, summarise
from winning_tickets.sharing_setup import PreparedSharing, prepare
from winning_tickets.sharing_stages import find_tickets, fine_tune
from winning_tickets.sharing_trainer import SharedEvaluations, Sharing, trainer_of
from winning_tickets.train import run_training


@processes.together()
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
    processes.on_main(lambda: (folder / ERROR).unlink(missing_ok=True))
    set_seed(seed)
    sharing = Sharing(prepared, seed, runtime)
    evaluations = SharedEvaluations(run, prepared, sharing, runtime)
    with progress(f"sharing {', '.join(prepared.tasks)}, seed {seed}", prepared.steps, runtime.quiet) as advance:
        run_training(trainer_of(prepared, sharing, seed, run, runtime, evaluations, advance), run)
    if prepared.config.save_model:
        processes.on_main(lambda: _save_model(prepared, sharing, folder / MODEL_FOLDER))
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
