"""Settings of searches that are made for several methods."""

from __future__ import annotations

from typing import Any

from winning_tickets.config import SearchConfig


def read_by_method(**fields: Any) -> SearchConfig:
    """The settings of a search, without those that its method does not read."""
    read = SearchConfig.kind_of(fields).model_fields
    return SearchConfig.of(**{name: value for name, value in fields.items() if name in read})
