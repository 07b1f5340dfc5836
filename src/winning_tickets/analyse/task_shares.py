"""How much each task makes of a head or FFN: ticket importance and task share (Super Tickets, section 8, Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from winning_tickets.errors import ContentError, UsageError, unknown
from winning_tickets.importance import DEFINITIONS, IMPORTANCE_FILE, Importance
from winning_tickets.ticket import Ticket

Array = np.ndarray[Any, Any]

UNITS = ("heads", "ffns")
"""What is looked at one by one; neurons are too many."""


def find_importance(ticket: Path | str) -> Path | None:
    """The folder with the importance that a search left: the ticket's own, or around the tickets of several levels."""
    path = Path(ticket)
    return next((folder for folder in (path, path.parent) if (folder / IMPORTANCE_FILE).is_file()), None)


def open_importances(folders: Sequence[str | Path], names: Sequence[str], ticket: Ticket) -> list[Importance]:
    """Open one importance a task, all of the encoder of a ticket.

    Args:
        folders: of searches with `--method importance`.
        names: of the tasks.
        ticket: of one of them.

    Raises:
        UsageError: another number than of tasks, or a folder without.
        ContentError: a damaged one, or one of another encoder.
    """
    if len(folders) != len(names):
        raise UsageError(
            f"--importances must give one folder for each of the {len(names)} tasks ({', '.join(names)}), found "
            f"{len(folders)}."
        )
    opened = []
    for folder, name in zip(folders, names, strict=True):
        where = find_importance(folder)
        if where is None:
            raise UsageError(
                f"{folder} has no {IMPORTANCE_FILE} for {name}; give the --out of a tickets search --method importance "
                "(selections winning and losing leave one)."
            )
        importance = Importance.load(where)
        found = importance.about.get("base_hash", ticket.base.hash)
        if found != ticket.base.hash or importance.structure != ticket.structure:
            raise ContentError(
                f"The importance in {where} belongs to another encoder than the tickets, which are of "
                f"{ticket.base.name}; give that of a model fine-tuned from the same weights."
            )
        opened.append(importance)
    return opened


def task_shares(importances: Sequence[Importance], definition: str = "sample") -> dict[str, tuple[Array, Array]]:
    """Importance of each head and FFN for each task, and over all tasks.

    Tasks are put on one scale first: heads are divided by the l2 norm of their layer (section 3.1), FFNs, of which a
    layer has one, by that of all layers.

    Args:
        importances: one a task.
        definition: which one of `importance.DEFINITIONS`; the paper's is `sample`.

    Returns:
        By unit: normalised importance of each task `(tasks, layers, n)`, and the tasks' shares of each structure,
        likewise, which add up to 1; NaN where no task has any.

    Raises:
        UsageError: an unknown definition.
    """
    if definition not in DEFINITIONS:
        raise unknown("definition", definition, DEFINITIONS)
    found = {}
    for unit in UNITS:
        values = np.stack([_normalised(one, definition, unit) for one in importances])
        total = values.sum(0)
        found[unit] = values, np.divide(values, total, out=np.full(values.shape, np.nan), where=total > 0)
    return found


def _normalised(importance: Importance, definition: str, unit: str) -> Array:
    scores: Array = importance.scores(definition, unit).numpy()
    if unit == "heads":
        return scores
    norm = np.linalg.norm(scores)
    return scores / norm if norm > 0 else scores
