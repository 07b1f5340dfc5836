"""Tickets: masks by parameter name with their provenance, in a small file that cannot be half-right."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from winning_tickets.architectures import ARCHITECTURES
from winning_tickets.errors import ContentError, UsageError
from winning_tickets.files import read_json, write_bytes, write_json
from winning_tickets.identity import digest
from winning_tickets.parts import join_parts, present_in, split_name
from winning_tickets.plm import base_hash, tensor_hash, weight_hashes
from winning_tickets.provenance import versions

FORMAT_VERSION = 1
MASK_FILE = "ticket.safetensors"
INFO_FILE = "ticket.json"
HEAD_FILE = "mlm_head.safetensors"


class BaseModelInfo(BaseModel):
    """Which weights a ticket was made for: a name to find them again, hashes to recognise them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    revision: str | None = None
    layers: int | None = None
    model_type: str
    hash: str
    tensors: dict[str, str]

    @classmethod
    def of(cls, encoder: nn.Module, name: str, model_type: str, revision: str | None, layers: int | None) -> Self:
        """Describe the weights that an encoder holds now."""
        hashes = weight_hashes(encoder)
        return cls(
            name=name,
            revision=revision,
            layers=layers,
            model_type=model_type,
            hash=base_hash(hashes),
            tensors=hashes,
        )


class TicketInfo(BaseModel):
    """Provenance of a ticket.

    Attributes:
        method: how the masks arose.
        scope: which matrices they cover.
        config: the whole configuration of the search.
        applies_to: the weights the ticket belongs to.
        scores_from: the weights or training state its scores came from, where that is another one.
        parents: ids of the tickets it was derived from.
        step: training step at which it was taken, where there was training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    scope: str
    config: dict[str, Any]
    applies_to: BaseModelInfo
    scores_from: str | None = None
    parents: tuple[str, ...] = ()
    seed: int | None = None
    step: int | None = None
    versions: dict[str, str] = {}


class Ticket:
    """A subnetwork of a pre-trained encoder.

    Args:
        masks: bool tensors by the encoder's own parameter names, or parts of them (`parts`), True = kept.
        info: where they came from.
        mlm_head: the trained MLM head (without decoder matrix), where the search trained one.

    Raises:
        ContentError: a mask is not a bool tensor, or there is none.
    """

    def __init__(
        self, masks: Mapping[str, Tensor], info: TicketInfo, mlm_head: Mapping[str, Tensor] | None = None
    ) -> None:
        if not masks:
            raise ContentError("A ticket needs at least one mask, found none.")
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise ContentError(f"The mask of {name} has type {mask.dtype}, expected torch.bool (True = kept).")
        self.masks: dict[str, Tensor] = dict(masks)
        self.info = info
        self.mlm_head = dict(mlm_head) if mlm_head else None

    def __repr__(self) -> str:
        return (
            f"Ticket({self.info.method}, sparsity={self.sparsity:.4f}, {len(self.masks)} matrices of {self.base.name})"
        )

    @property
    def base(self) -> BaseModelInfo:
        """The weights that the ticket belongs to."""
        return self.info.applies_to

    @property
    def total(self) -> int:
        """Number of weights in scope."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def pruned(self) -> int:
        """Number of weights removed."""
        return sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in self.masks.values())

    @property
    def sparsity(self) -> float:
        """Fraction of the weights in scope that is removed, in [0, 1)."""
        return self.pruned / self.total

    def sparsity_by_matrix(self) -> dict[str, float]:
        """Fraction removed of each matrix."""
        return {name: 1 - int(torch.count_nonzero(mask)) / mask.numel() for name, mask in self.masks.items()}

    @property
    def id(self) -> str:
        """A hash of the masks and of the weights they belong to."""
        state = hashlib.sha256(self.base.hash.encode())
        for name in sorted(self.masks):
            state.update(name.encode())
            state.update(_pack(self.masks[name]).tobytes())
        return state.hexdigest()[:16]

    def __iter__(self) -> Iterator[str]:
        return iter(self.masks)

    def masks_on(self, encoder: nn.Module) -> dict[str, Tensor]:
        """One mask for each parameter of an encoder that the ticket concerns, parts of fused parameters joined.

        That is all of them, but for a pooler, which many head classes do not load.
        """
        return join_parts({name: self.masks[name] for name in self._concerned(encoder)})

    def _concerned(self, encoder: nn.Module) -> list[str]:
        present = set(present_in(encoder, self.masks))
        return [name for name in self.masks if name in present or not name.startswith("pooler.")]

    def check(self, encoder: nn.Module, allow_other_weights: bool = False) -> None:
        """Make sure that the ticket fits an encoder: names, shapes and, unless told otherwise, the very weights.

        Raises:
            ContentError: a matrix is missing, has another shape, or (without `allow_other_weights`) other values.
        """
        parameters = dict(encoder.named_parameters())
        for name in self._concerned(encoder):
            part, mask = split_name(name), self.masks[name]
            if part.parameter not in parameters:
                raise ContentError(
                    f"The ticket masks {name}, which this model does not have; is it another architecture?"
                )
            weight = part.of(parameters[part.parameter])
            if weight.shape != mask.shape:
                raise ContentError(
                    f"The ticket's mask of {name} has shape {tuple(mask.shape)}, "
                    f"the model's weight has {tuple(weight.shape)}."
                )
        if allow_other_weights:
            return
        for name, expected in self.base.tensors.items():
            if name in parameters and tensor_hash(parameters[name].detach()) != expected:
                raise ContentError(
                    f"The ticket was made for the weights of {self.base.name}; here {name} holds other values. "
                    "Load that model, or pass --allow-other-weights (allow_other_weights=True) if you mean it."
                )

    def apply_(self, model: Any, allow_other_weights: bool = False) -> Any:
        """Set the pruned weights of a model to exactly +0.0, in place, and return the model.

        Args:
            model: any Hugging Face model with this encoder (AutoModel, ForMaskedLM, ForSequenceClassification ...).
            allow_other_weights: also onto weights that the ticket was not made for.

        Raises:
            ContentError: see `check`.
        """
        encoder = model.base_model
        self.check(encoder, allow_other_weights)
        parameters = dict(encoder.named_parameters())
        with torch.no_grad():
            for name, mask in self.masks_on(encoder).items():
                parameters[name].masked_fill_(~mask.to(parameters[name].device), 0.0)
        return model

    def save_pretrained(self, directory: Path | str) -> None:
        """Write `ticket.safetensors`, `ticket.json` and, where there is one, `mlm_head.safetensors`.

        The masks take one bit a weight. The description is written last, so a folder with one is complete.

        Raises:
            TrainingError: the file system refused; no incomplete ticket is left.
        """
        directory = Path(directory)
        packed = {name: torch.from_numpy(_pack(mask)) for name, mask in self.masks.items()}
        write_bytes(directory / MASK_FILE, to_bytes(packed))
        files = {MASK_FILE: _sha256(directory / MASK_FILE)}
        if self.mlm_head:
            head = {name: value.detach().cpu().contiguous() for name, value in self.mlm_head.items()}
            write_bytes(directory / HEAD_FILE, to_bytes(head))
            files[HEAD_FILE] = _sha256(directory / HEAD_FILE)
        info = self.info if self.info.versions else self.info.model_copy(update={"versions": versions()})
        body = {
            "format_version": FORMAT_VERSION,
            "id": self.id,
            "sparsity": self.sparsity,
            "pruned": self.pruned,
            "total": self.total,
            "shapes": {name: list(mask.shape) for name, mask in self.masks.items()},
            "sparsity_by_matrix": self.sparsity_by_matrix(),
            "files": files,
            "info": info.model_dump(mode="json"),
        }
        write_json(directory / INFO_FILE, body | {"checksum": digest(body, 64)})

    @classmethod
    def from_pretrained(cls, name: Path | str, revision: str | None = None) -> Self:
        """Open a ticket from a folder or from the hub.

        Raises:
            UsageError: there is no ticket there; a folder that holds several is answered with their list.
            ContentError: the ticket was cut off or edited.
        """
        directory = _find(name, revision)
        body = _read_info(directory)
        for file, expected in body["files"].items():
            path = directory / file
            if not path.is_file():
                raise ContentError(f"The ticket {directory} lacks {file}; copy the whole folder again.")
            if _sha256(path) != expected:
                raise ContentError(
                    f"{path} does not match its checksum in {INFO_FILE}: the file was cut off or edited. "
                    "Copy the ticket again, or make it anew with tickets search."
                )
        try:
            info = TicketInfo.model_validate(body["info"])
            with safe_open(directory / MASK_FILE, framework="numpy") as handle:
                masks = {key: _unpack(handle.get_tensor(key), body["shapes"][key]) for key in body["shapes"]}
            head = load_file(directory / HEAD_FILE) if HEAD_FILE in body["files"] else None
        except (SafetensorError, ValidationError, KeyError, ValueError, struct.error) as error:
            raise ContentError(f"The ticket {directory} cannot be read: {error}") from error
        return cls(masks, info, head)


def is_ticket(path: Path | str) -> bool:
    """Whether a folder is, or holds, tickets."""
    path = Path(path)
    return (path / INFO_FILE).is_file() or bool(children(path))


def children(path: Path | str) -> list[str]:
    """Names of the tickets inside a folder (`sparsity-0.60`, `step-000100`, ...)."""
    path = Path(path)
    return sorted(entry.parent.name for entry in path.glob(f"*/{INFO_FILE}")) if path.is_dir() else []


def _find(name: Path | str, revision: str | None) -> Path:
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


def _read_info(directory: Path) -> dict[str, Any]:
    body = read_json(directory / INFO_FILE, "ticket description")
    if not isinstance(body, dict) or body.get("format_version") != FORMAT_VERSION:
        found = body.get("format_version") if isinstance(body, dict) else type(body).__name__
        raise ContentError(
            f"{directory / INFO_FILE} has format version {found}, this version reads {FORMAT_VERSION}; "
            "upgrade winning-tickets, or make the ticket anew."
        )
    stated = body.pop("checksum", None)
    if stated != digest(body, 64):
        raise ContentError(
            f"{directory / INFO_FILE} does not match its own checksum: it was edited or cut off. "
            "Copy the ticket again, or make it anew with tickets search."
        )
    return body


def _pack(mask: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.packbits(mask.detach().cpu().reshape(-1).numpy())


def _unpack(packed: np.ndarray[Any, np.dtype[np.uint8]], shape: list[int]) -> Tensor:
    count = int(np.prod(shape))
    if packed.dtype != np.uint8 or packed.size != (count + 7) // 8:
        raise ValueError(f"{packed.size} bytes of {packed.dtype} cannot hold a mask of shape {shape}")
    return torch.from_numpy(np.unpackbits(packed, count=count).astype(np.bool_).reshape(shape))


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def describe(ticket: Ticket) -> dict[str, Any]:
    """The facts about a ticket that `tickets inspect` prints: exact sparsity, counts, by matrix, provenance."""
    info = ticket.info
    architecture = ARCHITECTURES.get(ticket.base.model_type)
    return {
        "id": ticket.id,
        "method": info.method,
        "scope": info.scope,
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "by_matrix": ticket.sparsity_by_matrix(),
        "base": {"name": ticket.base.name, "revision": ticket.base.revision, "hash": ticket.base.hash},
        "layers": ticket.base.layers,
        "shared_layers": architecture is not None and architecture.shared_layers,
        "seed": info.seed,
        "step": info.step,
        "mlm_head": ticket.mlm_head is not None,
        "scores_from": info.scores_from,
        "parents": list(info.parents),
        "config": json.loads(json.dumps(info.config)),
        "versions": info.versions,
    }
