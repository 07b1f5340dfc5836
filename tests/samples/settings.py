"""Settings of searches that are made for several methods."""

from __future__ import annotations

from typing import Any

from winning_tickets.config import (
    CompareConfig,
    EvaluateConfig,
    ExportConfig,
    FitHeadConfig,
    ImportConfig,
    MeasureConfig,
    SearchConfig,
    Settings,
    ShareConfig,
    ShrinkConfig,
    SuperConfig,
    TransferConfig,
)

VERBS: dict[str, type[Settings]] = {
    "search": SearchConfig,
    "evaluate": EvaluateConfig,
    "fit-head": FitHeadConfig,
    "transfer": TransferConfig,
    "share": ShareConfig,
    "super": SuperConfig,
    "shrink": ShrinkConfig,
}
"""The commands whose options are the fields of settings."""
SMALL_VERBS: dict[str, type[Settings]] = {
    "measure": MeasureConfig,
    "export": ExportConfig,
    "compare": CompareConfig,
    "mask import": ImportConfig,
}
"""Those without `--config`."""


def read_by_method(**fields: Any) -> SearchConfig:
    """The settings of a search, without those that its method does not read."""
    read = SearchConfig.kind_of(fields).model_fields
    return SearchConfig.of(**{name: value for name, value in fields.items() if name in read})
