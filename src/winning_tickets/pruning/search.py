"""Search for tickets: from a pre-trained model, and data where the method needs some, to ticket folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from winning_tickets.config import Runtime, SearchConfig
from winning_tickets.models.structure import count_units
from winning_tickets.pruning import imp, mask_training, movement, one_shot, structured
from winning_tickets.pruning.base import PreparedSearch, prepare_search
from winning_tickets.pruning.checks import check
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory, skipped_steps
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.selection import count_true
from winning_tickets.tickets.ticket import Ticket

METHODS: dict[str, Callable[[PreparedSearch, RunDirectory, Runtime], None]] = {
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
    structured.find_gate_ticket,
}
"""Methods that all ranks run together; the others run on rank 0."""


def search(config: SearchConfig, out: Path | str, runtime: Runtime | None = None, force: bool = False) -> Ticket:
    """Find a ticket of one sparsity and save it in `out`, which is then the ticket's folder.

    A finished search of the same settings is opened again, an unfinished one resumes.

    Args:
        config: settings of the search.
        out: a directory that is absent or empty, or holds this very run.
        runtime: device, precision and checkpoints.
        force: replace another run of ours in `out`.

    Raises:
        UsageError: impossible settings, unknown names, missing model or corpus, a foreign `out`, several sparsities
            (`search_all` takes those).
        ContentError: the model or corpus is not usable.
        TrainingError: NaN loss or full disk while training.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.

    Example:
        >>> config = SearchConfig(model="bert-base-uncased", method="magnitude", sparsity=0.6)
        >>> search(config, "runs/omp").sparsity
        0.6
    """
    (ticket,) = _find_tickets(config, out, runtime, force, single=True).values()
    return ticket


def search_all(
    config: SearchConfig, out: Path | str, runtime: Runtime | None = None, force: bool = False
) -> dict[Any, Ticket]:
    """Find the tickets of all sparsity levels in one search; mask training trains each from the scores of the last.

    Several tickets are saved as `out/sparsity-0.60/` and so on, a single one as `out` itself. Arguments and errors are
    those of `search`.

    Returns:
        The tickets by sparsity, ascending; structured ones by the folder of their level, such as `level-30`.
    """
    return _find_tickets(config, out, runtime, force, single=False)


@distributed.together()
def _find_tickets(
    config: SearchConfig, out: Path | str, runtime: Runtime | None, force: bool, single: bool
) -> dict[Any, Ticket]:
    check(config)
    if single and len(config.rungs) > 1:
        found = f"{len(config.rungs)} {'levels' if config.needs.structured else 'sparsities'}"
        raise UsageError(f"search finds one ticket and was given {found}; use search_all.")
    runtime = runtime or Runtime()
    prepared = prepare_search(config, runtime)
    run = RunDirectory.claim(Path(out), "search", prepared.run_id, prepared.config.model_dump(mode="json"), force=force)
    finished = run.status == "done"
    if not finished:
        find = structured.find_gate_ticket if config.needs.gates else METHODS[config.method]
        if find in _TRAIN:
            find(prepared, run, runtime)
        else:
            distributed.on_main(lambda: find(prepared, run, runtime))
    tickets = {level: Ticket.from_pretrained(prepared.folder(run, level)) for level in prepared.config.rungs}
    if not finished:
        run.finish(summarize(tickets, prepared, run))
    return tickets


def summarize(tickets: dict[Any, Ticket], prepared: PreparedSearch, run: RunDirectory) -> dict[str, Any]:
    """Return the result that is stored and printed."""
    config = prepared.config
    common = {"verb": "search", "run_id": prepared.run_id, "method": config.method, "scope": config.scope}
    if len(tickets) == 1:
        (ticket,) = tickets.values()
        return common | _facts(ticket, prepared) | {"saved_at": list(config.save_at)}
    facts: list[dict[str, Any]] = []
    previous: Ticket | None = None
    for level, ticket in tickets.items():
        inside = None if previous is None else kept_inside(ticket, previous)
        folder = prepared.folder(run, level)
        about = {"folder": folder.name, "kept_inside_previous": inside} | skipped_steps(folder)
        facts.append(_facts(ticket, prepared) | about)
        previous = ticket
    continued = config.needs.mask_training and not config.needs.structured
    return common | {
        "rungs": facts,
        "nested": all(one["kept_inside_previous"] in (None, 1.0) for one in facts),
        # Every structured ticket has a training of its own, whose steps are among its facts.
        "steps": None if config.needs.structured else facts[-1]["steps"],
        "steps_of_separate_searches": config.steps * len(tickets) if continued else None,
        "saved_at": list(config.save_at),
    }


def kept_inside(inner: Ticket, outer: Ticket) -> float:
    """Return the fraction of the weights kept by `inner` that `outer` keeps too; 1 where they are nested."""
    both = sum(count_true(mask & outer.masks[name]) for name, mask in inner.masks.items())
    return both / max(1, inner.total - inner.pruned)


def _facts(ticket: Ticket, prepared: PreparedSearch) -> dict[str, Any]:
    units = {} if ticket.structure is None else {"units": count_units(ticket.gates, ticket.structure)}
    return units | {
        "ticket_id": ticket.id,
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "pruned_share_of_all_parameters": ticket.pruned / prepared.all_parameters,
        "steps": ticket.info.step,
    }
