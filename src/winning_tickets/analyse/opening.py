"""Opening the tickets of an analysis and naming them shortly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from winning_tickets.compare import check_scopes
from winning_tickets.errors import UsageError
from winning_tickets.plm import PLM, ModelNotFound, load_plm
from winning_tickets.ticket import Ticket


def open_all(paths: Sequence[str | Path]) -> list[Ticket]:
    """Open tickets of one scope, each once.

    Args:
        paths: ticket folders or hub ids.

    Raises:
        UsageError: there is none, or one is not there.
        ContentError: a damaged ticket, or different scopes.
    """
    if not paths:
        raise UsageError("No ticket was given; give one or more folders made by tickets search.")
    tickets = [Ticket.from_pretrained(path) for path in paths]
    for path, ticket in zip(paths[1:], tickets[1:], strict=True):
        check_scopes(str(paths[0]), tickets[0], str(path), ticket)
    return tickets


def base_model_of(ticket: Ticket, name: str, base: str | None, why: str) -> PLM:
    """The pre-trained model of a ticket.

    Args:
        ticket: what was made for it.
        name: of the ticket, for messages.
        base: where it is now, if not where the ticket says.
        why: what it is needed for, and what to do, for the message where it is not there.

    Raises:
        UsageError: it is not there.
        ContentError: it holds other weights.
    """
    about = ticket.base
    try:
        plm = load_plm(base or about.name, revision=about.revision, layers=about.layers)
    except ModelNotFound as error:
        if base is not None:
            raise
        raise about.not_found(name, error, why) from error
    ticket.check(plm.encoder)
    return plm


def labels_of(paths: Sequence[str | Path], given: Sequence[str] | None = None, option: str = "--labels") -> list[str]:
    """Short names: those given, else the names of the folders, with as many of their parents as tell them apart.

    Args:
        paths: what is named.
        given: one different name for each, or None.
        option: what the names were given with, for the message.

    Raises:
        UsageError: another number of names than of paths, or one twice.
    """
    if given is not None:
        if len(given) != len(paths) or len(set(given)) < len(given):
            raise UsageError(f"{option} must name each of the {len(paths)} paths differently, found: {','.join(given)}")
        return list(given)
    parts = [Path(path).resolve().parts if Path(path).exists() else Path(path).parts for path in paths]
    deepest = max(len(part) for part in parts)
    for depth in range(1, deepest):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
