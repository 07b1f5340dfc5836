"""Weights of an encoder: states on disk for rewinding, and transformed weights for control experiments.

A state is a file with all parameters of an encoder, under the encoder's own names whatever the head class.
Every function here returns copies: a reference would change with the training that a rewind has to undo.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from winning_tickets.config import Start
from winning_tickets.models.architectures import matrices_of
from winning_tickets.models.loading import PLM, base_hash, load_plm, prunable_names, tensor_hash
from winning_tickets.runs.errors import ContentError, UsageError, listed
from winning_tickets.runs.files import parse_json, write_bytes
from winning_tickets.runs.identity import canonical_json

FORMAT_VERSION = 1
_METADATA = "winning_tickets_state"
_HEAD = "head."


class StateInfo(BaseModel):
    """Metadata of a state file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_hash: str  # of the pre-trained weights that it descends from
    what: str  # description in words
    step: int | None = None  # optimizer steps since the pre-trained weights
    seed: int | None = None


@dataclass(frozen=True)
class State:
    """A loaded state."""

    tensors: dict[str, Tensor]  # the encoder's parameters by its own names
    heads: dict[str, Tensor]  # parameters outside the encoder, by the names they were saved under
    info: StateInfo


def save_state(
    path: Path | str,
    encoder: nn.Module,
    *,
    info: StateInfo,
    heads: Mapping[str, Tensor] | None = None,
    pooler: bool = True,
) -> None:
    """Write the parameters of an encoder, and those of heads, to a safetensors file, atomically.

    Without `pooler`, that of the encoder is left out: if the checkpoint has none, it is random.
    """
    named: dict[str, Tensor] = {
        name: value for name, value in encoder.named_parameters() if pooler or not name.startswith("pooler.")
    }
    named |= {f"{_HEAD}{name}": value for name, value in (heads or {}).items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in named.items()}
    # One metadata entry: safetensors writes several in no fixed order, and equal states must be equal files.
    metadata = {"format_version": FORMAT_VERSION, "content": content_hash(tensors), **info.model_dump()}
    write_bytes(Path(path), to_bytes(tensors, metadata={_METADATA: canonical_json(metadata)}))


def load_state(path: Path | str) -> State:
    """Load a state to the CPU, and check its format and checksum."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no state {path}; give a file such as states/step-000100.safetensors.")
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = (handle.metadata() or {}).get(_METADATA)
            tensors = {} if metadata is None else {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        raise ContentError(f"The state {path} cannot be read ({error}); it is truncated or not a state.") from error
    if metadata is None:
        raise ContentError(
            f"{path} is a safetensors file, but not a state of this tool; give a file of DIR/states/ of an imp search, "
            "or the folder of a Hugging Face model."
        )
    # Check format and checksum before use: a truncated or edited state must not be trained.
    try:
        fields = parse_json(metadata, finite=True)
        version, content = fields.pop("format_version"), fields.pop("content")
        if version != FORMAT_VERSION:
            raise ContentError(
                f"The state {path} has format version {version}, this version reads {FORMAT_VERSION}; "
                "upgrade winning-tickets, or run the search again."
            )
        info = StateInfo.model_validate(fields)
    except (ValueError, KeyError, AttributeError, ValidationError) as error:
        raise ContentError(f"The description of the state {path} cannot be read: {error}") from error
    if content_hash(tensors) != content:
        raise ContentError(f"The state {path} does not match its own checksum: it was changed. Copy it again.")
    heads = {name.removeprefix(_HEAD): value for name, value in tensors.items() if name.startswith(_HEAD)}
    return State({name: value for name, value in tensors.items() if not name.startswith(_HEAD)}, heads, info)


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return one hash for all values, shapes, types and names."""
    return base_hash({name: tensor_hash(value) for name, value in tensors.items()})


@torch.no_grad()
def write_state_(encoder: nn.Module, tensors: Mapping[str, Tensor], names: Sequence[str] | None = None) -> None:
    """Copy weights into an encoder, in place; nothing is written if a name or a shape does not fit."""
    # `names` limits this to some matrices. Without it both sides must have the same parameters, except for the pooler,
    # which not every head class has: a pooler that `tensors` lacks is not changed.
    parameters = dict(encoder.named_parameters())
    if names is None:
        _check_same_names(parameters, tensors)
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


def _check_same_names(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    differing = sorted(name for name in parameters.keys() ^ tensors.keys() if not name.startswith("pooler."))
    missing = [name for name in differing if name in parameters]
    surplus = [name for name in differing if name in tensors]
    found = [f"{listed(missing)} of the model are missing there"] if missing else []
    found += [f"{listed(surplus)} there are unknown to the model"] if surplus else []
    if found:
        raise ContentError(
            f"The weights to start from do not fit: {', and '.join(found)}; is it another architecture, or another "
            "number of layers (--layers)?"
        )


def copy_encoder_weights(plm: PLM) -> dict[str, Tensor]:
    """Copy all parameters of an encoder to the CPU."""
    return {name: value.detach().cpu().clone() for name, value in plm.encoder.named_parameters()}


def add_noise(plm: PLM, seed: int, scale: float) -> dict[str, Tensor]:
    """Return the weights plus Gaussian noise on every matrix of the default scope."""
    # The noise has `scale` times the standard deviation of the matrix. The released code of BERT-tickets adds k *
    # 0.0387 to all matrices, about k times the deviation of BERT's prunable weights.
    generator = torch.Generator().manual_seed(seed)
    tensors = copy_encoder_weights(plm)
    for view in matrices_of(tensors, prunable_names(plm)).values():
        deviation = float(view.std(correction=0))
        view.add_(torch.randn(view.shape, generator=generator, dtype=view.dtype), alpha=scale * deviation)
    return tensors


def reinitialize(plm: PLM, seed: int) -> dict[str, Tensor]:
    """Return a random initialization of the encoder by its architecture; the global generator is not changed."""
    encoder = plm.encoder
    with torch.random.fork_rng(devices=[]):  # an architecture's initialization takes no generator
        torch.default_generator.manual_seed(seed)
        fresh = type(encoder)(
            copy.deepcopy(encoder.config)
        )  # always with the pooler, so that equal seeds draw equal weights
    drawn = dict(fresh.named_parameters())
    return {name: drawn[name].detach().to(value.dtype).clone() for name, value in encoder.named_parameters()}


def shuffle_within(plm: PLM, seed: int, scope: str = "encoder+embeddings") -> dict[str, Tensor]:
    """Return the weights with the entries of every matrix of a scope permuted within the matrix."""
    generator = torch.Generator().manual_seed(seed)
    tensors = copy_encoder_weights(plm)
    for view in matrices_of(tensors, prunable_names(plm, scope)).values():
        order = torch.randperm(view.numel(), generator=generator)
        view.copy_(view.reshape(-1)[order].view(view.shape))
    return tensors


def shuffle_layers(plm: PLM, seed: int) -> dict[str, Tensor]:
    """Return the weights with the layers in another order: all matrices of a layer move together."""
    # Biases and norms do not move, as in the released code of BERT-tickets. The order always differs from the old one.
    layers = [
        [name for matrices in layer.values() for name in matrices]
        for layer in plm.architecture.layer_matrices(plm.encoder)
    ]
    if plm.architecture.shared_layers:
        raise UsageError(f"The layers of {plm.name} share their weights, so they have no order to shuffle.")
    if len(layers) == 1:
        raise UsageError(f"{plm.name} has one layer, and shuffle-layers needs two or more.")
    tensors = copy_encoder_weights(plm)
    views = [list(matrices_of(tensors, names).values()) for names in layers]
    if len({tuple(view.shape for view in matrices) for matrices in views}) > 1:
        raise UsageError(f"The layers of {plm.name} differ in shape, so they cannot change places.")
    copies = [[view.clone() for view in matrices] for matrices in views]
    generator = torch.Generator().manual_seed(seed)
    order = list(range(len(layers)))
    while order == sorted(order):
        order = torch.randperm(len(layers), generator=generator).tolist()
    for matrices, source in zip(views, order, strict=True):
        for view, value in zip(matrices, copies[source], strict=True):
            view.copy_(value)
    return tensors


def load_start_weights(start: Start, plm: PLM, seed: int, base: str | None = None) -> dict[str, Tensor]:
    """Return the weights that training starts from, as new tensors on the CPU."""
    # `base` is the hash of the pre-trained weights that a state must descend from; None accepts any.
    if start.path is not None:
        return _state_of(start.path, base) if start.path.is_file() else _encoder_of(start.path, plm)
    if start.kind == "noise":
        return add_noise(plm, seed, start.scale)
    transforms: dict[str, Callable[[PLM, int], dict[str, Tensor]]] = {
        "reinit": reinitialize,
        "shuffle-within": shuffle_within,
        "shuffle-encoder": partial(shuffle_within, scope="encoder"),
        "shuffle-layers": shuffle_layers,
    }
    return transforms[start.kind](plm, seed) if start.kind in transforms else copy_encoder_weights(plm)


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
    """Load the encoder of a Hugging Face folder, without a pooler that the folder lacks and that would be random."""
    try:
        with torch.random.fork_rng(devices=[]):  # loading initializes parameters that a checkpoint lacks
            found = load_plm(str(folder), layers=plm.layers, with_tokenizer=False)
    except UsageError as error:
        raise UsageError(
            f"{error} Weights to start from are a state file, or the folder of a model, such as RUN/seed-0/model of a "
            "transfer with --save-model."
        ) from error
    expected, kind = plm.model.config.model_type, found.model.config.model_type
    if kind != expected:
        raise ContentError(f"{folder} is a {kind}, and {plm.name} a {expected}; give weights of the same architecture.")
    return {
        name: value
        for name, value in copy_encoder_weights(found).items()
        if found.has_pooler or not name.startswith("pooler.")
    }
