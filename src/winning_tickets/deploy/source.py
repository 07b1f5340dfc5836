"""What the formats of `export` get, and what they give back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winning_tickets.runs.errors import ContentError


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


def files_in(folder: Path) -> list[str]:
    """The files of a folder, relative to it; links to folders are among them and are not followed."""
    there = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in there)


def copy_files(folder: Path, names: Iterable[str], target: Path) -> None:
    """Copy files of a folder that others may have made; what an export holds must come from there.

    Args:
        folder: of a model.
        names: of files, relative to it.
        target: where they go under the same names.

    Raises:
        ContentError: a link leads out of the folder, or to a folder; those of the hub's cache may lead to its files.
    """
    root = Path(os.path.realpath(folder))
    blobs = [
        place.parent / "blobs"
        for place in root.parents
        if place.name == "snapshots" and place.parent.name.startswith("models--")
    ]
    for name in names:
        real = Path(os.path.realpath(folder / name))
        if not real.is_file() or not any(real.is_relative_to(place) for place in (root, *blobs)):
            raise ContentError(
                f"{folder / name} is a link out of {folder}, or no file, so nothing was exported. Put the file itself "
                "there, or remove the link."
            )
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real, target / name)
