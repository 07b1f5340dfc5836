"""The weights of a checkpoint as its files store them: their bytes and types, and conversion back to these types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from winning_tickets.config.settings import WeightType
from winning_tickets.models.loading import ONNX_FILE, resolve_model
from winning_tickets.runs import memory
from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.files import read_object

TYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(WeightType)}
"""The types of weights that an export may have, by name."""
_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""The files with the weights of a model or with the list of its shards, in the order in which transformers looks."""
_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}  # of types in safetensors files


@dataclass(frozen=True)
class StoredWeights:
    """Size and types of the weights of a checkpoint."""

    size: int | None  # in bytes; None where the files are not on this machine
    types: tuple[str, ...]  # names of the types of its floats, the shortest first
    main_type: str | None = None  # the type that its configuration names

    @classmethod
    def of(cls, name: str, revision: str | None = None) -> Self:
        """Read the headers of the weights of a model: a hub id, a folder, `builtin:minilm` or a model in memory."""
        if (given := memory.find(name)) is not None:
            tensors = dict(_stored_tensors(given.model)).values()
            size = sum(one.numel() * one.element_size() for one in tensors)
            return cls(size, _sorted(_name(one.dtype) for one in tensors if one.is_floating_point()))
        return cls.in_folder(folder_of(name, revision))

    @classmethod
    def in_folder(cls, folder: Path | None) -> Self:
        """Read the headers of the weights in a folder."""
        files = weight_files(folder)
        if folder is None or not files:
            return cls(None, ("float32",))
        config = folder / "config.json"
        content = read_object(config, "model configuration") if config.is_file() else {}
        main_type = content.get("dtype") or content.get("torch_dtype")
        types = _sorted(chain.from_iterable(_types_in(file) for file in files))
        return cls(size_of(folder), types, main_type if main_type in types else None)

    def chosen(self, dtype: WeightType | None) -> StoredWeights:
        """Return these weights with the types of an export: those that they have, or `dtype` alone."""
        if dtype is not None:
            return StoredWeights(self.size, (dtype,))
        # Types such as float64, in which no model is loaded, become float32.
        types = _sorted(name if name in TYPES else "float32" for name in self.types)
        return StoredWeights(self.size, types, self.main_type)

    @property
    def facts(self) -> dict[str, Any]:
        """The entry `dtype` of an export; empty for plain float32, which is the rule."""
        return {} if self.types == ("float32",) else {"dtype": " and ".join(self.types)}

    def convert_(self, model: Any, extra: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Convert the floats of a model to these types, in place, and `extra` tensors, which are returned.

        With several types each tensor gets the shortest one that changes none of its values.
        """
        for name, tensor in _stored_tensors(model):
            if tensor.is_floating_point():
                tensor.data = self._converted(name, tensor.data)
        return {name: self._converted(name, tensor) for name, tensor in (extra or {}).items()}

    def _converted(self, name: str, tensor: Tensor) -> Tensor:
        for type_name in self.types:
            found = tensor.to(TYPES[type_name])
            if len(self.types) == 1 and not bool(found.isfinite().all()) and bool(tensor.isfinite().all()):
                raise ContentError(
                    f"{name} has values up to {float(tensor.abs().max()):.3g}, which {type_name} cannot hold; use "
                    "--dtype bfloat16 or float32."
                )
            if len(self.types) == 1 or torch.equal(found.to(tensor.dtype), tensor):
                return found
        return tensor.to(torch.float32)


def _stored_tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a model's files hold; other buffers are made anew when it is loaded."""
    yield from model.named_parameters()
    saved = set(model.state_dict())
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names), key=lambda name: (getattr(torch, name).itemsize, name))) or ("float32",)


def size_of(folder: Path | None) -> int:
    """Return the bytes of the files of weights in a folder; 0 if there are none."""
    return sum(file.stat().st_size for file in weight_files(folder))


def weight_files(folder: Path | None) -> list[Path]:
    """Return the files of weights in a folder: `model.onnx`, or those that transformers loads; none without weights."""
    if folder is not None and (folder / ONNX_FILE).is_file():
        return sorted(folder.glob(f"{ONNX_FILE}*"))  # the weights of a large model are in a file of their own
    found = next((folder / name for name in _FILES if (folder / name).is_file()), None) if folder is not None else None
    if found is None or found.suffix != ".json":
        return [] if found is None else [found]
    shards = read_object(found, "list of shards").get("weight_map")
    if not isinstance(shards, dict) or not all((found.parent / str(name)).is_file() for name in shards.values()):
        raise ContentError(f"{found} does not name files that are there; copy the whole model again.")
    return sorted({found.parent / str(name) for name in shards.values()})


def _types_in(file: Path) -> list[str]:
    """Return the types of the floats in a file of weights, from its header alone."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="numpy") as handle:
                found = [handle.get_slice(name).get_dtype() for name in handle.keys()]  # noqa: SIM118 - no dict
            return [_NAMES[name] for name in found if name in _NAMES]
        state = torch.load(file, map_location="meta", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise ContentError(f"The weights in {file} cannot be read: {str(error).splitlines()[0]}") from error
    return [_name(one.dtype) for one in state.values() if isinstance(one, Tensor) and one.is_floating_point()]


def folder_of(name: str, revision: str | None = None) -> Path | None:
    """Return the local folder of the weights of a model that was just loaded; None if there is none."""
    if memory.find(name) is not None:
        return None
    where = resolve_model(name)
    if Path(where).is_dir():
        return Path(where)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(where, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def shown_size(size: int) -> str:
    """Return a number of bytes in words: exact below a megabyte."""
    return f"{size:,} bytes" if size < 1e6 else f"{size / 1e6:,.1f} MB"


def compare_sizes(folder: Path, types: str, dense: StoredWeights, name: str) -> tuple[dict[str, Any], str]:
    """Return the facts and the sentence about the weights of an export and of the checkpoint `name`, both measured."""
    size = size_of(folder)
    facts = {"bytes": size, "dtype": types}
    facts |= {"checkpoint": {"bytes": dense.size, "dtype": " and ".join(dense.types)}}
    if dense.size is None:
        return facts, f"Its weights take {shown_size(size)} ({types})."
    return facts, (
        f"Its weights take {shown_size(size)} ({types}); those of {name} take {shown_size(dense.size)} "
        f"({' and '.join(dense.types)})."
    )
