"""Transfer runs in groups: tickets of one method and search, at whatever sparsity, of whatever seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from winning_tickets.analyse.results import SETTINGS, Cell
from winning_tickets.identity import canonical_json

UNKNOWN = "tickets"
"""What tickets are called whose runs do not say how they were found, as those of earlier versions."""
COMPARED = (*SETTINGS, "start_from")
"""What should be the same in runs that are compared, or averaged, without being told apart by it."""


def group_key(cell: Cell) -> str:
    """Equal for runs of tickets that were found alike and fine-tuned from the same weights."""
    return canonical_json([cell.method, cell.search, _start(cell)])


def grid_sparsities(cells: Sequence[Cell]) -> list[float]:
    """Where each cell stands on the grid of its group: its sparsity to three decimals, as exact counts differ a little.

    Units overlap, such as a head in a pruned layer, so that tickets of one level differ in sparsity with the seed of
    their search; those of one group that were to lose the same units stand at the mean of their sparsities.
    """
    places = [(group_key(cell), canonical_json(cell.asked or round(cell.sparsity, 3))) for cell in cells]
    tickets: dict[tuple[str, str], dict[str | None, float]] = {}
    for place, cell in zip(places, cells, strict=True):
        tickets.setdefault(place, {})[cell.ticket_id] = cell.sparsity
    return [round(statistics.fmean(tickets[place].values()), 3) for place in places]


def group_labels(cells: Sequence[Cell]) -> dict[str, str]:
    """A short name for each group: method and objective, with settings only where these leave groups alike.

    Args:
        cells: of tickets, not of dense models.

    Returns:
        By `group_key`, in the order in which they are met first.
    """
    first = {group_key(cell): cell for cell in reversed(cells)}
    first = {key: first[key] for key in dict.fromkeys(group_key(cell) for cell in cells)}
    names = {key: _name(cell) for key, cell in first.items()}
    labels = {}
    for key, cell in first.items():
        alike = [_settings(first[other]) for other, name in names.items() if name == names[key]]
        differing = [
            f"{setting}={value}"
            for setting, value in _settings(cell).items()
            if any(other.get(setting) != value for other in alike)
        ]
        labels[key] = names[key] + (f" ({', '.join(differing)})" if differing else "")
    return labels


def objective_of(cell: Cell) -> str | None:
    """The objective of a search, tasks by name: `kd`, `mlm`, `task:mrpc,rte`; None where there was none."""
    search = cell.search or {}
    objective = search.get("objective")
    tasks = search.get("tasks")
    return f"{objective}:{','.join(tasks)}" if objective and tasks else objective


def compared(cell: Cell) -> dict[str, Any]:
    """Those of `COMPARED` that a run tells."""
    return cell.settings | {"start_from": _start(cell)}


def _name(cell: Cell) -> str:
    return " ".join(filter(None, (cell.method or UNKNOWN, objective_of(cell))))


def _settings(cell: Cell) -> Mapping[str, Any]:
    own = {key: value for key, value in (cell.search or {}).items() if key not in ("objective", "tasks")}
    return own | ({} if cell.start_from == "pretrained" else {"start_from": _start(cell)})


def _start(cell: Cell) -> str:
    """The weights that fine-tuning started from; of a file its name, as each sparsity has one in its own folder."""
    return Path(cell.start_from).name
