"""Combine tickets (union, intersection, difference), or perturb one at random at fixed sparsity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from winning_tickets.runs.ambient import neutral
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import ContentError, UsageError, unknown
from winning_tickets.runs.identity import digest
from winning_tickets.tickets.files import TicketInfo
from winning_tickets.tickets.overlap import check_scopes
from winning_tickets.tickets.ticket import Ticket

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "union": torch.logical_or,
    "intersection": torch.logical_and,
    "difference": lambda first, other: first & ~other,
}
"""Operations on the kept entries of two masks; more masks are combined from left to right, as in (A - B) - C."""


@neutral()
def combine(operation: str, tickets: Sequence[Ticket]) -> Ticket:
    """Return the union, intersection or difference of the kept weights of tickets.

    Args:
        operation: `union`, `intersection` or `difference`: kept by the first ticket and by no other.
        tickets: two or more tickets of one model and scope.

    Returns:
        A ticket whose parents are the given ones. It has no MLM head, since each of their heads belongs to one mask.

    Raises:
        UsageError: unknown operation, or fewer than two tickets.
        ContentError: tickets of different weights or scopes, tickets with gates, or no weight is kept.

    Example:
        >>> shared = combine("intersection", [Ticket.from_pretrained(path) for path in ("runs/a", "runs/b")])
    """
    if operation not in OPERATIONS:
        raise unknown("operation", operation, OPERATIONS)
    if len(tickets) < 2:
        raise UsageError(f"There is nothing to combine: {len(tickets)} ticket was given, expected two or more.")
    _check_weights_only(*tickets)
    first = tickets[0]
    for number, ticket in enumerate(tickets[1:], start=2):
        name = f"ticket {number}"
        if ticket.base.hash != first.base.hash:
            raise ContentError(
                f"Ticket 1 was made for the weights of {first.base.name}, {name} for other weights, of "
                f"{ticket.base.name}. Combine tickets of one model, with the same --layers."
            )
        check_scopes("ticket 1", first, name, ticket)
    masks = {name: reduce(OPERATIONS[operation], [ticket.masks[name] for ticket in tickets]) for name in first.masks}
    if not any(bool(mask.any()) for mask in masks.values()):
        raise ContentError(f"The {operation} of these {len(tickets)} tickets keeps no weight, so it is no ticket.")
    info = TicketInfo(
        method=operation,
        scope=first.info.scope,
        config={"of": [ticket.info.method for ticket in tickets]},
        applies_to=first.base,
        parents=tuple(ticket.id for ticket in tickets),
    )
    return Ticket(masks, info)


def _check_weights_only(*tickets: Ticket) -> None:
    for ticket in tickets:
        if ticket.gates:
            raise ContentError(
                f"The ticket {ticket.id} ({ticket.info.method}) prunes whole heads, neurons, FFNs or layers, whose "
                "biases a mask of weights does not cover. Give tickets of single weights."
            )


@neutral()
def perturb(ticket: Ticket, fraction: float, seed: int) -> Ticket:
    """Move kept entries of each matrix to pruned places at random; every count stays exactly the same.

    With the same seed, the entries that a smaller fraction moves are among those that a larger one moves.

    Args:
        ticket: the ticket to start from; its MLM head is kept, so that only the mask changes.
        fraction: fraction of the kept entries of each matrix that move, in [0, 1]; their number is rounded down.
        seed: seed of the random choice.

    Raises:
        UsageError: the fraction is outside [0, 1], or a matrix has too few pruned places.
        ContentError: the ticket has gates.

    Example:
        >>> half = perturb(Ticket.from_pretrained("runs/kd60"), 0.5, seed=0)
    """
    _check_weights_only(ticket)
    if not 0 <= fraction <= 1:
        raise UsageError(f"--fraction {fraction} is outside [0, 1]; it is the share of kept weights that move.")
    exact, generator = Fraction(str(float(fraction))), torch.Generator().manual_seed(seed)
    masks = {name: _moved(name, mask, exact, generator) for name, mask in ticket.masks.items()}
    # The groups of an N:M pattern do not survive the moves, so the ticket no longer has one.
    config = {key: value for key, value in ticket.info.config.items() if key != "pattern"}
    info = ticket.info.model_copy(
        update={
            "method": "perturb",
            "config": config | {"of": ticket.info.method, "fraction": fraction},
            "parents": (ticket.id,),
            "seed": seed,
            "versions": {},
        }
    )
    return Ticket(masks, info, ticket.mlm_head)


def _moved(name: str, mask: Tensor, fraction: Fraction, generator: torch.Generator) -> Tensor:
    flat = mask.reshape(-1).cpu()
    kept, pruned = flat.nonzero().reshape(-1), (~flat).nonzero().reshape(-1)
    count = int(fraction * kept.numel())
    if count > pruned.numel():
        raise UsageError(
            f"--fraction {float(fraction)} is impossible: it would move {count} weights of {name}, "
            f"which has {pruned.numel()} pruned places. Give a smaller fraction."
        )
    result = flat.clone()
    result[kept[torch.randperm(kept.numel(), generator=generator)[:count]]] = False
    result[pruned[torch.randperm(pruned.numel(), generator=generator)[:count]]] = True
    return result.view(mask.shape)


def save_combined(
    operation: str, targets: Sequence[str | Path], out: Path | str, *, force: bool = False
) -> dict[str, Any]:
    """Combine tickets (folders or hub ids) into a ticket folder and return its stored result."""
    if operation not in OPERATIONS:
        raise unknown("operation", operation, OPERATIONS)
    ticket = combine(operation, [Ticket.from_pretrained(target) for target in targets])
    config = {"operation": operation, "targets": [str(target) for target in targets]}
    return _save("combine", ticket, config, out, force=force)


def save_perturbed(
    target: str | Path, fraction: float, seed: int, out: Path | str, *, force: bool = False
) -> dict[str, Any]:
    """Perturb a ticket (folder or hub id) into a ticket folder and return its stored result."""
    ticket = perturb(Ticket.from_pretrained(target), fraction, seed)
    return _save("perturb", ticket, {"target": str(target), "fraction": fraction, "seed": seed}, out, force=force)


def _save(verb: str, ticket: Ticket, config: dict[str, Any], out: Path | str, *, force: bool) -> dict[str, Any]:
    """Save a ticket as a run of its own, unless it is stored already, and return the stored result."""
    info = ticket.info
    identity = f"{info.method}-{digest([info.method, info.parents, info.seed, info.config])}"
    result = {
        "verb": verb,
        "run_id": identity,
        "method": info.method,
        "scope": info.scope,
        "ticket_id": ticket.id,
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "parents": list(info.parents),
    }
    with RunDirectory.claim(out, verb, identity, config, force=force) as run:
        if run.status != "done":
            ticket.save_pretrained(run.path)
            run.finish(result)
        return run.result()
