"""METHODS and `search`: a pre-trained model (and a corpus) -> a ticket in a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from winning_tickets.config import Runtime, SearchConfig
from winning_tickets.rundir import RunDirectory
from winning_tickets.search import magnitude, mask_training, random
from winning_tickets.search.base import Prepared, prepare
from winning_tickets.search.checks import check
from winning_tickets.ticket import Ticket

METHODS: dict[str, Callable[[Prepared, RunDirectory, Runtime], Ticket]] = {
    "random": random.find,
    "magnitude": magnitude.find,
    "mask-training": mask_training.find,
}


def search(config: SearchConfig, out: Path | str, runtime: Runtime | None = None, force: bool = False) -> Ticket:
    """Find a ticket and save it in `out`, which is then the ticket's folder.

    A finished search of the same settings is opened again, an unfinished one goes on where it was.

    Args:
        config: what to search for.
        out: a directory that is absent or empty, or holds this very run.
        runtime: device, precision and checkpoints.
        force: replace another run of ours in `out`.

    Raises:
        UsageError: impossible settings, unknown names, missing model or corpus, a foreign `out`.
        ContentError: the model or corpus is not usable.
        TrainingError: NaN loss or full disk while training.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    runtime = runtime or Runtime()
    check(config)
    prepared = prepare(config, runtime)
    run = RunDirectory.claim(Path(out), "search", prepared.run_id, prepared.config.model_dump(mode="json"), force=force)
    if run.status == "done":
        return Ticket.from_pretrained(run.path)
    ticket = METHODS[config.method](prepared, run, runtime)
    ticket.save_pretrained(run.path)
    run.finish(summary(ticket, prepared))
    return ticket


def summary(ticket: Ticket, prepared: Prepared) -> dict[str, Any]:
    """The result that is stored and printed."""
    share = ticket.pruned / prepared.all_parameters
    return {
        "verb": "search",
        "run_id": prepared.run_id,
        "ticket_id": ticket.id,
        "method": ticket.info.method,
        "scope": ticket.info.scope,
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "pruned_share_of_all_parameters": share,
        "steps": ticket.info.step,
        "saved_at": list(prepared.config.save_at),
    }
