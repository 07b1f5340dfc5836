"""The stages of the paper around tickets sharing: a ticket for each task before it, fine-tuning on each task after it.

Super tickets, sections 4 and 5: single-task fine-tuning, importance, a super ticket for each task, tickets sharing,
single-task fine-tuning of the shared model. Each stage is a run of its own in the folder of the sharing, which is
reused when it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from winning_tickets.config import Runtime, SearchConfig
from winning_tickets.predict import MODEL_FOLDER
from winning_tickets.search import search
from winning_tickets.sharing_results import KINDS, average_scores, metrics_of
from winning_tickets.sharing_setup import PreparedSharing, single
from winning_tickets.ticket import Ticket
from winning_tickets.transfer import transfer

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
