"""The files of a ticket: description, provenance, and masks at one bit per weight."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from winning_tickets.models.loading import base_hash, weight_hashes
from winning_tickets.models.structure import Structure
from winning_tickets.runs import hub, memory
from winning_tickets.runs.directory import MARKER, missing, refuse_unfinished, stored_run
from winning_tickets.runs.errors import ContentError, UsageError, explain
from winning_tickets.runs.files import sha256
from winning_tickets.runs.identity import read_checked


class BaseModelInfo(BaseModel):
    """The weights that a ticket was made for: a name to find them, hashes to recognize them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    revision: str | None = None
    layers: int | None = None
    model_type: str
    hash: str
    tensors: dict[str, str]

    @classmethod
    def of(cls, encoder: nn.Module, name: str, model_type: str, revision: str | None, *, layers: int | None) -> Self:
        """Describe the weights that an encoder holds now."""
        tensors = weight_hashes(encoder)
        return cls(
            name=name, revision=revision, layers=layers, model_type=model_type, hash=base_hash(tensors), tensors=tensors
        )


class TicketInfo(BaseModel):
    """Provenance of a ticket."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    scope: str
    config: dict[str, Any]  # the resolved settings of the search
    applies_to: BaseModelInfo
    scores_from: str | None = None  # the weights or training state its scores came from, if not the base model
    parents: tuple[str, ...] = ()  # ids of the tickets it was derived from
    seed: int | None = None
    step: int | None = None  # training step of the ticket, if it was trained
    versions: dict[str, str] = {}


FORMAT_VERSION = 1
MASK_FILE = "ticket.safetensors"
INFO_FILE = "ticket.json"
HEAD_FILE = "mlm_head.safetensors"
IN_MEMORY = f"{memory.PREFIX}ticket-"
"""Prefix of the name of a ticket in memory; the id of the ticket follows."""
FILES = (MASK_FILE, INFO_FILE, HEAD_FILE)


def is_ticket(path: Path | str) -> bool:
    """Return whether a path is a folder of one or more tickets, or the name of a ticket in memory."""
    if str(path).startswith(IN_MEMORY):
        return True
    path = Path(path)
    return (path / INFO_FILE).is_file() or (bool(children(path)) and not is_run_of(path, "super", "shrink"))


def is_run_of(path: Path | str, *verbs: str) -> bool:
    """Return whether a folder is a run of one of the verbs; runs of `super` and `shrink` also hold models."""
    found = stored_run(Path(path) / MARKER)
    return found is not None and found.verb in verbs


def children(path: Path | str) -> list[str]:
    """Return the names of the tickets inside a folder (`sparsity-0.60`, `step-000100`, ...)."""
    path = Path(path)
    return sorted(entry.parent.name for entry in path.glob(f"*/{INFO_FILE}")) if path.is_dir() else []


def find_ticket(
    name: Path | str, revision: str | None = None, token: str | None = None, cache_dir: Path | str | None = None
) -> Path:
    """Return the folder of a ticket, which is fetched from the hub if needed; refuse a folder of several tickets."""
    path = Path(name)
    if (path / INFO_FILE).is_file():
        return path
    if path.exists():
        inside = children(path)
        if inside:
            raise UsageError(
                f"{path} holds several tickets, give one of them: {', '.join(str(path / i) for i in inside)}"
            )
        refuse_unfinished(path)
        raise UsageError(f"{path} is not a ticket: it has no {INFO_FILE}. Make one with tickets search.")
    if isinstance(name, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UsageError(f"There is no ticket {name}; give a folder made by tickets search, or a hub id.")
    if (problem := missing(name)) is not None:
        raise UsageError(problem)
    what = f"There is no ticket folder {name}, and the hub did not have it"
    return hub.fetch(name, FILES, what, revision=revision, token=token, cache_dir=cache_dir)


def read_info(directory: Path) -> dict[str, Any]:
    """Read the description of a ticket, and check it and all files against their checksums."""
    body = read_checked(
        directory / INFO_FILE,
        "ticket description",
        FORMAT_VERSION,
        anew="make the ticket again",
        mend="Copy the ticket again, or make it again with tickets search.",
    )
    try:
        Description.model_validate(body)
    except ValidationError as error:
        raise ContentError(
            f"{directory / INFO_FILE} is not the description of a ticket: {explain(error)} It was edited. Copy the "
            "ticket again, or make it again with tickets search."
        ) from error
    for file, expected in body["files"].items():
        path = directory / file
        if not path.is_file():
            raise ContentError(
                f"The ticket {directory} lacks {file}; copy the whole folder again, or search again with --force."
            )
        if sha256(path) != expected:
            raise ContentError(
                f"{path} does not match its checksum in {INFO_FILE}: the file was cut off or edited. "
                "Copy the ticket again, or make it again with tickets search."
            )
    return body


class Description(BaseModel):
    """The required part of `ticket.json`: sha256 of the files, shapes of the masks, names of the gates, provenance."""

    id: str
    files: dict[Literal["ticket.safetensors", "mlm_head.safetensors"], str]
    shapes: dict[str, list[Annotated[int, Field(ge=1)]]]
    gates: list[str] = []
    structure: Structure | None = None
    info: TicketInfo

    @model_validator(mode="after")
    def _whole(self) -> Description:
        if MASK_FILE not in self.files:
            raise ValueError(f"{MASK_FILE} is not among its files")
        if self.gates and self.structure is None:
            raise ValueError("there are gates, and no structure")
        return self


def pack(mask: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pack eight entries per byte, the first in the highest bit; the last byte is filled with zeros."""
    return np.packbits(mask.detach().cpu().reshape(-1).numpy())


def unpack(packed: np.ndarray[Any, np.dtype[np.uint8]], shape: list[int]) -> Tensor:
    """Return the mask that `pack` packed; raise a ValueError if the bytes cannot hold that shape."""
    count = math.prod(shape)  # exact, however large the claimed shape is
    if packed.dtype != np.uint8 or packed.size != (count + 7) // 8:
        raise ValueError(f"{packed.size} bytes of {packed.dtype} cannot hold a mask of shape {shape}")
    return torch.from_numpy(np.unpackbits(packed, count=count).view(np.bool_).reshape(shape))
