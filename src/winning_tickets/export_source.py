"""What the formats of `export` get, and what they give back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """What is exported: a ticket on its base model, or a fine-tuned model.

    Attributes:
        name: as the user gave it.
        base: where a ticket's base model is now, if not where it was.
        allow_other_weights: put the ticket on weights it was not made for.
        seed: which model of a run; None takes the first one saved.
        task: of a shared model: which of its tasks.
        convention: of a format that has several, how masks are named and stored.
    """

    name: str
    base: str | None
    allow_other_weights: bool
    seed: int | None
    task: str | None = None
    convention: str | None = None


@dataclass(frozen=True)
class Export:
    """What is about to be written.

    Attributes:
        facts: provenance; together with the format they are the identity of the export.
        fill: writes the model into an empty folder; returns facts that are known only then, which are stored too but
            are no part of the identity.
        note: what to expect of its size and speed, for people.
    """

    facts: dict[str, Any]
    fill: Callable[[Path], dict[str, Any]]
    note: str
