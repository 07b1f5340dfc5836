"""METHODS and `search`: a pre-trained model (and a corpus) -> a ticket in a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from winning_tickets.config import Runtime, SearchConfig
from winning_tickets.models.structure import count_units
from winning_tickets.pruning import gate_training, imp, mask_training, movement, one_shot, structured
from winning_tickets.pruning.base import Prepared, prepare
from winning_tickets.pruning.checks import check
from winning_tickets.pruning.schedule import kept_inside
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory, skipped_steps
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.ticket import Ticket

METHODS: dict[str, Callable[[Prepared, RunDirectory, Runtime], None]] = {
    "random": one_shot.find_random_ticket,
    "magnitude": one_shot.find_magnitude_ticket,
    "wanda": one_shot.find_wanda_ticket,
    "mask-training": mask_training.find_trained_mask,
    "imp": imp.find_imp_ticket,
    "snip": one_shot.find_snip_ticket,
    "movement": movement.find_movement_ticket,
    "importance": structured.find_structured_ticket,
}
_TRAIN = {
    mask_training.find_trained_mask,
    imp.find_imp_ticket,
    movement.find_movement_ticket,
    gate_training.find_gate_ticket,
}
"""What several processes do together; the rest is done by the main process, for all."""


def search(config: SearchConfig, out: Path | str, runtime: Runtime | None = None, force: bool = False) -> Ticket:
    """Find a ticket of one sparsity and save it in `out`, which is then the ticket's folder.

    A finished search of the same settings is opened again, an unfinished one goes on where it was.

    Args:
        config: what to search for.
        out: a directory that is absent or empty, or holds this very run.
        runtime: device, precision and checkpoints.
        force: replace another run of ours in `out`.

    Raises:
        UsageError: impossible settings, unknown names, missing model or corpus, a foreign `out`, several sparsities
            (`search_all` takes those).
        ContentError: the model or corpus is not usable.
        TrainingError: NaN loss or full disk while training.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    check(config)
    if len(config.rungs) > 1:
        what = "levels" if config.needs.structured else "sparsities"
        raise UsageError(f"search finds one ticket and was given {len(config.rungs)} {what}; use search_all.")
    (ticket,) = search_all(config, out, runtime, force).values()
    return ticket


@distributed.together()
def search_all(
    config: SearchConfig, out: Path | str, runtime: Runtime | None = None, force: bool = False
) -> dict[Any, Ticket]:
    """Find the tickets of all sparsities of a configuration, in one search: mask training climbs them as a ladder.

    Several tickets are saved as `out/sparsity-0.60/` and so on, a single one as `out` itself; `search` says the rest.

    Returns:
        The tickets by sparsity, ascending; those of heads and FFNs by the folders of their levels, such as `level-30`.
    """
    runtime = runtime or Runtime()
    check(config)
    prepared = prepare(config, runtime)
    run = RunDirectory.claim(Path(out), "search", prepared.run_id, prepared.config.model_dump(mode="json"), force=force)
    if run.status != "done":
        find = gate_training.find_gate_ticket if config.needs.gates else METHODS[config.method]
        if find in _TRAIN:
            find(prepared, run, runtime)
        else:
            distributed.on_main(lambda: find(prepared, run, runtime))
    tickets = {rung: Ticket.from_pretrained(prepared.folder(run, rung)) for rung in prepared.config.rungs}
    if run.status != "done":
        run.finish(summary(tickets, prepared, run))
    return tickets


def summary(tickets: dict[Any, Ticket], prepared: Prepared, run: RunDirectory) -> dict[str, Any]:
    """The result that is stored and printed."""
    config = prepared.config
    common = {"verb": "search", "run_id": prepared.run_id, "method": config.method, "scope": config.scope}
    if len(tickets) == 1:
        (ticket,) = tickets.values()
        return common | _facts(ticket, prepared) | {"saved_at": list(config.save_at)}
    rungs: list[dict[str, Any]] = []
    below: Ticket | None = None
    climbs = config.needs.mask_training and not config.needs.structured
    for rung, ticket in tickets.items():
        inside = None if below is None else kept_inside(ticket, below)
        folder = prepared.folder(run, rung)
        about = {"folder": folder.name, "kept_inside_previous": inside} | skipped_steps(folder)
        rungs.append(_facts(ticket, prepared) | about)
        below = ticket
    return common | {
        "rungs": rungs,
        "nested": all(rung["kept_inside_previous"] in (None, 1.0) for rung in rungs),
        # Levels are no ladder: each ticket has a training of its own, whose steps stand beside it.
        "steps": None if config.needs.structured else rungs[-1]["steps"],
        "steps_of_separate_searches": config.steps * len(tickets) if climbs else None,
        "saved_at": list(config.save_at),
    }


def _facts(ticket: Ticket, prepared: Prepared) -> dict[str, Any]:
    units = {} if ticket.structure is None else {"units": count_units(ticket.gates, ticket.structure)}
    return units | {
        "ticket_id": ticket.id,
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "pruned_share_of_all_parameters": ticket.pruned / prepared.all_parameters,
        "steps": ticket.info.step,
    }
