"""The results of verbs as types: one writer and one reader of `result.json`, and the source of their description.

`RunDirectory.finish` writes what the class of its verb describes, `read_result` reads it, and docs/reference/json.md
and results.schema.json are made from the classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from winning_tickets.runs.files import read_json
from winning_tickets.runs.results.base import Stored, StoredResult, problem
from winning_tickets.runs.results.models import EvaluateResult, ShrinkResult
from winning_tickets.runs.results.tickets import DerivedTicketResult, FoundTicket, ImportedTicketResult, SearchResult
from winning_tickets.runs.results.trainings import (
    AverageResult,
    FineTuning,
    FitHeadResult,
    OneSeed,
    ShareResult,
    ShareSeedResult,
    SuperResult,
    TransferResult,
    TransferSeedResult,
)

RESULT = "result.json"
AnyResult = TypeVar("AnyResult", bound=StoredResult)

__all__ = [
    "RESULT",
    "AverageResult",
    "DerivedTicketResult",
    "EvaluateResult",
    "FineTuning",
    "FitHeadResult",
    "FoundTicket",
    "ImportedTicketResult",
    "OneSeed",
    "SearchResult",
    "ShareResult",
    "ShareSeedResult",
    "ShrinkResult",
    "Stored",
    "StoredResult",
    "SuperResult",
    "TransferResult",
    "TransferSeedResult",
    "find_result",
    "problem",
    "read_result",
]


def find_result(folder: Path, kind: type[AnyResult]) -> AnyResult | None:
    """Return the result in a folder; None if there is none, or one of another class."""
    found = read_result(folder, StoredResult) if (folder / RESULT).is_file() else None
    return found if isinstance(found, kind) else None


def read_result(path: Path, kind: type[AnyResult]) -> AnyResult:
    """Return the result in a folder, or in a JSON file.

    Raises:
        UsageError: there is none.
        ContentError: it is of another verb, or it was edited.

    Example:
        >>> read_result(Path("runs/rte"), TransferResult).seeds
    """
    file = path / RESULT if path.is_dir() else path
    return kind.parse(read_json(file, "result"), file)
