"""How a ticket was found, as far as tickets of several sparsities and seeds share it: what results are grouped by."""

from __future__ import annotations

from typing import Any

from winning_tickets.config import COUNT_FIELDS, METHOD_NEEDS, SearchConfig
from winning_tickets.tickets.files import TicketInfo
from winning_tickets.tickets.ticket import Ticket

_NO_KIND = {"method", "model", "revision", "layers", "sparsity", "seed", "data_dir", "save_at", "file_sha256"}
_NO_KIND |= {"level", *COUNT_FIELDS.values()}
"""Settings that make no other kind of ticket: where things are, and what varies over a grid."""


def origin(ticket: Ticket | None) -> dict[str, Any]:
    """The method of a ticket and the settings of its search.

    Args:
        ticket: None for a dense model.

    Returns:
        `method`; `search`: settings that are not those of its profile, and the objective of a method that has one,
        without sparsity, seed and places; `search_seed`; `asked`: the level or the counts of units that were to be
        pruned, where units were. All are None for a dense model.
    """
    if ticket is None:
        return {"method": None, "search": None, "search_seed": None, "asked": None}
    info = ticket.info
    usual = _usual(info)
    search = {
        name: value
        for name, value in info.config.items()
        if name not in _NO_KIND and value != usual.get(name) and value not in (None, [], ())
    }
    if info.method in METHOD_NEEDS and METHOD_NEEDS[info.method].objective:
        search["objective"] = info.config["objective"]
    if "like" in search:
        search["like"] = True  # which ticket was matched differs with the sparsity
    asked = {name: info.config[name] for name in ("level", *COUNT_FIELDS.values()) if info.config.get(name)}
    return {"method": info.method, "search": search, "search_seed": info.seed, "asked": asked or None}


def _usual(info: TicketInfo) -> dict[str, Any]:
    """What a search of this method and profile has where nothing else is asked for; nothing for other tickets."""
    if info.method not in METHOD_NEEDS:
        return {}
    # Levels and counts say whether mask training trained gates.
    named = ("method", "profile", "objective", "level", *COUNT_FIELDS.values())
    known = {name: info.config[name] for name in named if name in info.config}
    return SearchConfig(model="", **known).resolved().model_dump(mode="json")
