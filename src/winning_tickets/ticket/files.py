"""A ticket's files: finding them, checking them, one bit a weight."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from winning_tickets.errors import ContentError, UsageError
from winning_tickets.sealed import read_sealed

FORMAT_VERSION = 1
MASK_FILE = "ticket.safetensors"
INFO_FILE = "ticket.json"
HEAD_FILE = "mlm_head.safetensors"


def is_ticket(path: Path | str) -> bool:
    """Whether a folder is, or holds, tickets."""
    path = Path(path)
    return (path / INFO_FILE).is_file() or bool(children(path))


def children(path: Path | str) -> list[str]:
    """Names of the tickets inside a folder (`sparsity-0.60`, `step-000100`, ...)."""
    path = Path(path)
    return sorted(entry.parent.name for entry in path.glob(f"*/{INFO_FILE}")) if path.is_dir() else []


def find(name: Path | str, revision: str | None) -> Path:
    """The folder of a ticket, here or in the hub's cache.

    Raises:
        UsageError: there is no ticket; a folder that holds several is answered with their list.
    """
    path = Path(name)
    if (path / INFO_FILE).is_file():
        return path
    if path.exists():
        inside = children(path)
        if inside:
            raise UsageError(
                f"{path} holds several tickets, give one of them: {', '.join(str(path / i) for i in inside)}"
            )
        raise UsageError(f"{path} is not a ticket: it has no {INFO_FILE}. Make one with tickets search.")
    if isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UsageError(f"There is no ticket {name}; give a folder made by tickets search, or a hub id.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[MASK_FILE, INFO_FILE, HEAD_FILE]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(f"There is no ticket folder {name}, and the hub did not have it: {error}") from error


def read_info(directory: Path) -> dict[str, Any]:
    """The description of a ticket, and all its files as they were written.

    Raises:
        ContentError: another format, or something was cut off or edited.
    """
    body = read_sealed(
        directory / INFO_FILE,
        "ticket description",
        FORMAT_VERSION,
        anew="make the ticket anew",
        mend="Copy the ticket again, or make it anew with tickets search.",
    )
    for file, expected in body["files"].items():
        _check_file(directory / file, expected)
    return body


def _check_file(path: Path, expected: str) -> None:
    if not path.is_file():
        raise ContentError(f"The ticket {path.parent} lacks {path.name}; copy the whole folder again.")
    if sha256(path) != expected:
        raise ContentError(
            f"{path} does not match its checksum in {INFO_FILE}: the file was cut off or edited. "
            "Copy the ticket again, or make it anew with tickets search."
        )


def pack(mask: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Eight entries a byte, the first in the highest bit; the last byte is filled with zeros."""
    return np.packbits(mask.detach().cpu().reshape(-1).numpy())


def unpack(packed: np.ndarray[Any, np.dtype[np.uint8]], shape: list[int]) -> Tensor:
    """The mask that `pack` packed.

    Raises:
        ValueError: the bytes cannot hold a mask of that shape.
    """
    count = int(np.prod(shape))
    if packed.dtype != np.uint8 or packed.size != (count + 7) // 8:
        raise ValueError(f"{packed.size} bytes of {packed.dtype} cannot hold a mask of shape {shape}")
    return torch.from_numpy(np.unpackbits(packed, count=count).astype(np.bool_).reshape(shape))


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
