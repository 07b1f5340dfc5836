"""How far a search has moved from one-shot magnitude pruning (TAMT, section 4.2.5 and Figure 8, left)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from winning_tickets.analyse.opening import base_model_of, labels_of
from winning_tickets.analyse.places import KINDS, places
from winning_tickets.compare import check_scopes, overlap_by_matrix, pool
from winning_tickets.config import Pattern
from winning_tickets.errors import ContentError, UsageError
from winning_tickets.parts import prunable_views
from winning_tickets.selection import keep_top
from winning_tickets.ticket import INFO_FILE, Ticket, children


def distance(
    paths: Sequence[str | Path],
    *,
    reference: str | Path | None = None,
    base: str | None = None,
    labels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Distance (1 - Jaccard similarity of kept weights) of the tickets saved along searches.

    It is taken to the one-shot magnitude (OMP) ticket of the same weights, sparsity, ranking and rounding, and to the
    first and the previous ticket of the search that has the same sparsity.

    Args:
        paths: folders of searches; the tickets of `--save-at` and the final ones are read, by their step.
        reference: a ticket that takes the place of the OMP ticket; without it that one is computed.
        base: where the base model is now, if not where the tickets say.
        labels: a name for each search; by default those of the folders.

    Returns:
        `searches`: a record for each path and sparsity, with its `checkpoints`.

    Raises:
        UsageError: no search, one without tickets, or a base model that is not there.
        ContentError: a damaged ticket, other base weights, different scopes, or a ticket without the settings that
            its OMP ticket needs.
    """
    if not paths:
        raise UsageError("No search was given; give one or more folders made by tickets search.")
    names = labels_of(paths, labels)
    given = None if reference is None else Ticket.from_pretrained(reference)
    found = _References(given, base)
    searches = [
        _search(name, path, sparsity, tickets, found)
        for name, path in zip(names, paths, strict=True)
        for sparsity, tickets in _by_sparsity(Path(path)).items()
    ]
    return {"kind": "distance", "reference": None if reference is None else str(reference), "searches": searches}


def _by_sparsity(path: Path) -> dict[float, list[Path]]:
    """Folders of the tickets of a search by sparsity, in the order of their steps, each step once."""
    folders = ([path] if (path / INFO_FILE).is_file() else []) + [path / name for name in children(path)]
    if not folders:
        raise UsageError(f"{path} holds no ticket; give folders made by tickets search (with --save-at for the way).")
    found: dict[float, dict[int, Path]] = {}
    for folder in reversed(folders):  # the final ticket is the last to claim its step
        ticket = Ticket.from_pretrained(folder)
        found.setdefault(round(ticket.sparsity, 3), {})[ticket.info.step or 0] = folder
    return {sparsity: [steps[step] for step in sorted(steps)] for sparsity, steps in sorted(found.items())}


def _search(
    label: str, path: str | Path, sparsity: float, folders: Sequence[Path], references: _References
) -> dict[str, Any]:
    checkpoints: list[dict[str, Any]] = []
    first: Ticket | None = None
    previous: Ticket | None = None
    for folder in folders:
        ticket = Ticket.from_pretrained(folder)
        first = first or ticket
        checkpoints.append(_checkpoint(folder, ticket, references.of(ticket, folder), first, previous))
        previous = ticket
    assert first is not None
    return {
        "label": label,
        "path": str(path),
        "method": first.info.method,
        "objective": first.info.config.get("objective") if first.info.method == "mask-training" else None,
        "sparsity": sparsity,
        "checkpoints": checkpoints,
    }


def _checkpoint(folder: Path, ticket: Ticket, omp: Ticket, first: Ticket, previous: Ticket | None) -> dict[str, Any]:
    parts = overlap_by_matrix(ticket, omp)
    where = places(ticket)
    kinds = {
        kind: {name: part for name, part in parts.items() if where[name][1] == kind}
        for kind in KINDS
        if any(place[1] == kind for place in where.values())
    }
    whole = pool(parts)
    return {
        "step": ticket.info.step or 0,
        "folder": str(folder),
        "ticket_id": ticket.id,
        "to_reference": 1 - whole.kept,
        "to_first": 1 - pool(overlap_by_matrix(ticket, first)).kept,
        "to_previous": None if previous is None else 1 - pool(overlap_by_matrix(ticket, previous)).kept,
        "by_kind": {kind: 1 - pool(own).kept for kind, own in kinds.items()},
        "chance": 1 - whole.chance_kept,
    }


class _References:
    """The tickets that distances are taken to; computed once for each base and choice of counts."""

    def __init__(self, given: Ticket | None, base: str | None) -> None:
        self._given = given
        self._base = base
        self._made: dict[tuple[Any, ...], Ticket] = {}

    def of(self, ticket: Ticket, folder: Path) -> Ticket:
        """The reference of a ticket."""
        if self._given is not None:
            check_scopes(str(folder), ticket, "the reference", self._given)
            return self._given
        key = (ticket.base.hash, tuple(ticket.masks), *_settings(ticket, folder))
        if key not in self._made:
            self._made[key] = omp_ticket(ticket, folder, self._base)
        return self._made[key]


def _settings(ticket: Ticket, folder: Path) -> tuple[Any, Any, Any, str | None]:
    """Sparsity, ranking, rounding and N:M pattern that a ticket was made with."""
    config = ticket.info.config
    sparsity = config.get("sparsity")
    if not isinstance(sparsity, float | int) or isinstance(sparsity, bool) or "ranking" not in config:
        raise ContentError(
            f"The ticket {folder} does not say the sparsity and ranking it was made with, so its OMP ticket is "
            "unknown; give one with --reference."
        )
    return sparsity, config["ranking"], config.get("count_rounding") or "floor", config.get("pattern")


def omp_ticket(ticket: Ticket, folder: Path, base: str | None = None) -> Ticket:
    """The one-shot magnitude ticket of the same weights, matrices, sparsity, ranking, rounding and pattern.

    Args:
        ticket: what it goes with.
        folder: its name in messages.
        base: where the base model is now, if not where the ticket says.

    Raises:
        UsageError: the base model is not there.
        ContentError: the model holds other weights, or the ticket does not say how it was made.
    """
    sparsity, ranking, rounding, pattern = _settings(ticket, folder)
    why = (
        "The base model is needed for the OMP ticket; say where it is with --base, or give that ticket with "
        "--reference."
    )
    plm = base_model_of(ticket, str(folder), base, why)
    magnitudes = {name: weight.abs() for name, weight in prunable_views(plm.encoder, ticket.masks).items()}
    n_of_m = None if pattern is None else Pattern.parse(pattern)
    masks = keep_top(magnitudes, sparsity, ranking, rounding=rounding, pattern=n_of_m)
    info = ticket.info.model_copy(update={"method": "magnitude", "step": None, "seed": None})
    return Ticket(masks, info)
