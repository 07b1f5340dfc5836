"""Source and result of a format of `export`, and copying of files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winning_tickets.deploy.stored_weights import StoredWeights
from winning_tickets.runs.errors import ContentError


@dataclass(frozen=True)
class Export:
    """An export that is about to be written."""

    facts: dict[str, Any]  # provenance; with the format, the identity of the export
    fill: Callable[[Path], dict[str, Any]]  # writes the model; returns facts that are no part of the identity
    note: str  # what to expect of size and speed, for users
    card: dict[str, Any]  # facts for its model card, without the kind
    checkpoint: StoredWeights | None = None  # what it was made from, with its name; None for masks alone
    checkpoint_name: str = ""
    dtypes: str = "float32"  # the types of the exported weights
    loading: str = ""  # how to load it, for users


def files_in(folder: Path) -> list[str]:
    """List the files of a folder, relative to it; links to folders are listed and not followed."""
    there = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in there)


def copy_files(folder: Path, names: Iterable[str], target: Path) -> None:
    """Copy files of a folder that others may have made, and refuse links that lead out of it."""
    root = Path(os.path.realpath(folder))
    # Files in the hub's cache are links to its blobs.
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
