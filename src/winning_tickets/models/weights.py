"""States of weights: saving and opening them, and what an encoder's weights can be exchanged for.

A state is all of an encoder's parameters under the encoder's own names, whatever head class they were trained with.
Every function here gives copies: a reference to live weights would follow the training it is meant to undo.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from winning_tickets.config import Start
from winning_tickets.models.architectures import matrices_of
from winning_tickets.models.loading import PLM, base_hash, load_plm, prunable_names, tensor_hash
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import parse_json, write_bytes
from winning_tickets.runs.identity import canonical_json

FORMAT_VERSION = 1
_METADATA = "winning_tickets_state"
_HEAD = "head."


class StateInfo(BaseModel):
    """What a state is.

    Attributes:
        base_hash: of the pre-trained weights that it descends from (`plm.base_hash`).
        what: in words.
        step: optimiser steps behind it, where there were any.
        seed: of the run that made it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_hash: str
    what: str
    step: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class State:
    """An opened state.

    Attributes:
        tensors: the encoder's parameters by its own names.
        heads: parameters outside the encoder, by the names they were saved under.
        info: what it is.
    """

    tensors: dict[str, Tensor]
    heads: dict[str, Tensor]
    info: StateInfo


def save_state(
    path: Path | str, encoder: nn.Module, *, info: StateInfo, heads: Mapping[str, Tensor] | None = None
) -> None:
    """Write the present weights of an encoder to a safetensors file, in one step.

    Args:
        path: the file.
        encoder: the encoder inside a model; buffers are left out.
        info: what is saved.
        heads: parameters outside the encoder that are kept beside it.

    Raises:
        TrainingError: the file system refused; nothing is left half-written.
    """
    named = dict(encoder.named_parameters()) | {f"{_HEAD}{name}": value for name, value in (heads or {}).items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in named.items()}
    # One entry, since safetensors writes several in no fixed order: equal states are equal files.
    about = {"format_version": FORMAT_VERSION, "content": content_hash(tensors), **info.model_dump()}
    write_bytes(Path(path), to_bytes(tensors, metadata={_METADATA: canonical_json(about)}))


def load_state(path: Path | str) -> State:
    """Open a state on the CPU.

    Raises:
        UsageError: there is no such file.
        ContentError: it is no state, one of another format, or it was cut off or changed.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no state {path}; give a file such as states/step-000100.safetensors.")
    try:
        with safe_open(path, framework="pt") as handle:
            about = (handle.metadata() or {}).get(_METADATA)
            tensors = {} if about is None else {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ContentError(
            f"The state {path} cannot be read ({error}); it was cut off, or is another kind of file."
        ) from error
    if about is None:
        raise ContentError(
            f"{path} is a safetensors file, but no state of this tool; give a file of DIR/states/ of an imp search, or "
            "the folder of a Hugging Face model."
        )
    try:
        fields = parse_json(about, finite=True)
        version, content = fields.pop("format_version"), fields.pop("content")
        if version != FORMAT_VERSION:
            raise ContentError(
                f"The state {path} has format version {version}, this version reads {FORMAT_VERSION}; "
                "upgrade winning-tickets, or make the state anew."
            )
        info = StateInfo.model_validate(fields)
    except (ValueError, KeyError, AttributeError, ValidationError) as error:
        raise ContentError(f"The description of the state {path} cannot be read: {error}") from error
    if content_hash(tensors) != content:
        raise ContentError(f"The state {path} does not match its own checksum: it was changed. Copy it again.")
    heads = {name.removeprefix(_HEAD): value for name, value in tensors.items() if name.startswith(_HEAD)}
    return State({name: value for name, value in tensors.items() if not name.startswith(_HEAD)}, heads, info)


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """One hash for all values, shapes, types and names."""
    return base_hash({name: tensor_hash(value) for name, value in tensors.items()})


@torch.no_grad()
def write_state_(encoder: nn.Module, tensors: Mapping[str, Tensor], names: Sequence[str] | None = None) -> None:
    """Put weights into an encoder, in place.

    Args:
        encoder: the encoder inside a model.
        tensors: by the encoder's own names; they must be the same on both sides, but for a pooler, which not every
            head class has: one that the state lacks is left as it is.
        names: only these matrices, whole parameters or parts (`plm.prunable_names`); None means everything.

    Raises:
        ContentError: a name is missing on one side, or a shape differs; nothing was written.
    """
    parameters = dict(encoder.named_parameters())
    if names is None:
        differing = [name for name in parameters.keys() ^ tensors.keys() if not name.startswith("pooler.")]
        _same_names(sorted(differing), parameters, tensors)
        names = [name for name in parameters if name in tensors]
    targets, sources = matrices_of(parameters, names), matrices_of(tensors, names)
    for name, target in targets.items():
        if target.shape != sources[name].shape:
            raise ContentError(
                f"The weights to start from do not fit: {name} has shape {tuple(sources[name].shape)} there and "
                f"{tuple(target.shape)} in the model; is it another architecture or vocabulary?"
            )
    for name, target in targets.items():
        target.copy_(sources[name])


def _same_names(differing: list[str], parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    missing = [name for name in differing if name in parameters]
    surplus = [name for name in differing if name in tensors]
    found = [f"{_some(missing)} of the model are missing there"] if missing else []
    found += [f"{_some(surplus)} there are unknown to the model"] if surplus else []
    if found:
        raise ContentError(
            f"The weights to start from do not fit: {', and '.join(found)}; is it another architecture, or another "
            "number of layers (--layers)?"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def pretrained(plm: PLM) -> dict[str, Tensor]:
    """Copies of all parameters of an encoder, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in plm.encoder.named_parameters()}


def noisy(plm: PLM, seed: int, scale: float) -> dict[str, Tensor]:
    """The weights plus Gaussian noise on every matrix of the default scope.

    The BERT-tickets program adds k * 0.0387 to all matrices, about k times the deviation of BERT's prunable weights.

    Args:
        plm: the model.
        seed: of the noise.
        scale: standard deviation of the noise, in units of each matrix's own.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = pretrained(plm)
    for view in matrices_of(tensors, prunable_names(plm)).values():
        deviation = float(view.std(correction=0))
        view.add_(torch.randn(view.shape, generator=generator, dtype=view.dtype), alpha=scale * deviation)
    return tensors


def reinitialised(plm: PLM, seed: int) -> dict[str, Tensor]:
    """A random initialisation of the whole encoder, as its architecture prescribes it; global generators stay as is."""
    encoder = plm.encoder
    with torch.random.fork_rng(devices=[]):  # an architecture's own initialisation takes no generator
        torch.default_generator.manual_seed(seed)
        fresh = type(encoder)(copy.deepcopy(encoder.config))  # with a pooler, if the class knows one: equal draws
    drawn = dict(fresh.named_parameters())
    return {name: drawn[name].detach().to(value.dtype).clone() for name, value in encoder.named_parameters()}


def shuffled_within(plm: PLM, seed: int) -> dict[str, Tensor]:
    """The weights with the entries of every matrix of the default scope permuted inside that matrix."""
    generator = torch.Generator().manual_seed(seed)
    tensors = pretrained(plm)
    for view in matrices_of(tensors, prunable_names(plm)).values():
        order = torch.randperm(view.numel(), generator=generator)
        view.copy_(view.reshape(-1)[order].view(view.shape))
    return tensors


def shuffled_layers(plm: PLM, seed: int) -> dict[str, Tensor]:
    """The weights with the layers in another order: all matrices of a layer move together, to one other place.

    Biases and normalisations stay, as in the BERT-tickets program. The order is never the old one.

    Raises:
        UsageError: layers that share their weights or differ in shape, or only one layer.
    """
    layers = [
        [name for matrices in layer.values() for name in matrices]
        for layer in plm.architecture.layer_matrices(plm.encoder)
    ]
    if plm.architecture.shared_layers:
        raise UsageError(f"The layers of {plm.name} share their weights, so they have no order to shuffle.")
    if len(layers) == 1:
        raise UsageError(f"{plm.name} has one layer, and shuffle-layers needs two or more.")
    tensors = pretrained(plm)
    views = [list(matrices_of(tensors, names).values()) for names in layers]
    if len({tuple(view.shape for view in matrices) for matrices in views}) > 1:
        raise UsageError(f"The layers of {plm.name} differ in shape, so they cannot change places.")
    copies = [[view.clone() for view in matrices] for matrices in views]
    for matrices, source in zip(views, _other_order(len(layers), seed), strict=True):
        for view, value in zip(matrices, copies[source], strict=True):
            view.copy_(value)
    return tensors


def _other_order(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    order = list(range(count))
    while order == sorted(order):
        order = torch.randperm(count, generator=generator).tolist()
    return order


def start_weights(start: Start, plm: PLM, seed: int, base: str | None = None) -> dict[str, Tensor]:
    """The weights that a start stands for, as new tensors on the CPU.

    Args:
        start: as parsed by `config.parse_start`.
        plm: the pre-trained model, untouched.
        seed: of the transforms that draw at random.
        base: hash of the pre-trained weights that a state must descend from; None takes any.

    Raises:
        UsageError: the model cannot be transformed so, or there is no model in a folder.
        ContentError: an unreadable or foreign state, weights of another architecture.
    """
    if start.path is not None:
        return _state_of(start.path, base) if start.path.is_file() else _encoder_of(start.path, plm)
    if start.kind == "noise":
        return noisy(plm, seed, start.scale)
    transforms = {"reinit": reinitialised, "shuffle-within": shuffled_within, "shuffle-layers": shuffled_layers}
    return transforms[start.kind](plm, seed) if start.kind in transforms else pretrained(plm)


def _state_of(path: Path, base: str | None) -> dict[str, Tensor]:
    state = load_state(path)
    if base is not None and state.info.base_hash != base:
        raise ContentError(
            f"The state {path} ({state.info.what}) descends from other pre-trained weights ({state.info.base_hash}) "
            f"than those of the model ({base}). Give a state of the same model, or pass --allow-other-weights "
            "(allow_other_weights=True) if you mean it."
        )
    return state.tensors


def _encoder_of(folder: Path, plm: PLM) -> dict[str, Tensor]:
    """The encoder of a Hugging Face folder; without the pooler, where the folder has none and it would be random."""
    try:
        with torch.random.fork_rng(devices=[]):  # loading draws what a checkpoint lacks
            found = load_plm(str(folder), layers=plm.layers)
    except UsageError as error:
        raise UsageError(
            f"{error} Weights to start from are a state file, or the folder of a model, such as RUN/seed-0/model of a "
            "transfer with --save-model."
        ) from error
    expected, kind = plm.model.config.model_type, found.model.config.model_type
    if kind != expected:
        raise ContentError(f"{folder} is a {kind}, and {plm.name} a {expected}; give weights of the same architecture.")
    return {
        name: value for name, value in pretrained(found).items() if found.has_pooler or not name.startswith("pooler.")
    }
