"""How much a loss changes when a head, FFN, neuron or layer is taken away, to first order, summed up over data.

Every definition is a sum of absolute gate gradients; they differ in where the absolute value is taken. All of them come
from one pass, so that another one can be asked for later. Super Tickets (Liang et al. 2021), section 3.1, eq. 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from winning_tickets.errors import ContentError, TrainingError, UsageError
from winning_tickets.files import read_json, write_bytes
from winning_tickets.gates import GateGradients
from winning_tickets.identity import digest
from winning_tickets.masking import modes
from winning_tickets.objectives import Batch, Objective
from winning_tickets.sealed import write_sealed
from winning_tickets.structure import UNITS, Structure

DEFINITIONS = ("sample", "token", "batch", "released")
"""Absolute values of the gradient of each sample (the paper), of each token, of each batch; of each token, divided by
the size of its batch and with gradients that are never set back from batch to batch (the released program)."""
IMPORTANCE_FILE = "importance.json"
TENSOR_FILE = "importance.safetensors"
FORMAT_VERSION = 1
_NORM_FLOOR = 1e-20


@dataclass(frozen=True)
class Importance:
    """Importances of all units of an encoder.

    Attributes:
        values: by definition and unit (keys of `structure.UNITS`), float64 `(layers, n)`, n = 1 for FFNs and layers.
        samples: by unit: the gradients of each sample with their sign, float32 `(samples, layers, n)`; not of neurons.
        tokens: the same for each token `(tokens, layers, n)`, padding included, where it was asked for.
        lengths: tokens of each sample in `tokens`, int64 `(samples,)`.
        structure: of the encoder.
        about: what it was computed from.
    """

    values: Mapping[str, Mapping[str, Tensor]]
    samples: Mapping[str, Tensor]
    structure: Structure
    about: Mapping[str, Any]
    tokens: Mapping[str, Tensor] = field(default_factory=dict)
    lengths: Tensor | None = None

    def scores(self, definition: str, unit: str) -> Tensor:
        """What units are ranked by over all layers, float64 `(layers, n)`.

        Heads and neurons are divided by the l2 norm of their layer (section 3.1); FFNs and layers are one a layer.

        Raises:
            UsageError: units that were not asked for when it was computed.
        """
        known = [one for one in UNITS if one in self.values[definition]]
        if unit not in known:
            raise UsageError(
                f"The importance of {unit} was not computed, only that of {', '.join(known)}; compute it anew from the "
                "fine-tuned model or the corpus."
            )
        values = self.values[definition][unit]
        if values.shape[1] == 1:
            return values
        norm: Tensor = torch.linalg.vector_norm(values, dim=1, keepdim=True)
        return values / (norm + _NORM_FLOOR)

    @property
    def id(self) -> str:
        """A hash of all values and of what they were computed from."""
        return digest([dict(self.about), _sha256(to_bytes(self._tensors()))], 16)

    def save(self, folder: Path) -> None:
        """Write `importance.safetensors`, then `importance.json`.

        Raises:
            TrainingError: the file system refused.
        """
        content = to_bytes(self._tensors())
        write_bytes(folder / TENSOR_FILE, content)
        body = {
            "format_version": FORMAT_VERSION,
            "sha256": _sha256(content),
            "about": dict(self.about),
            "structure": self.structure.model_dump(mode="json"),
            "importance": {
                definition: {unit: value.tolist() for unit, value in units.items() if unit != "neurons"}
                for definition, units in self.values.items()
            },
        }
        write_sealed(folder / IMPORTANCE_FILE, body)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"{name}.{unit}": value for name, units in self.values.items() for unit, value in units.items()}
        tensors |= {f"samples.{unit}": value for unit, value in self.samples.items()}
        tensors |= {f"tokens.{unit}": value for unit, value in self.tokens.items()}
        if self.lengths is not None:
            tensors["lengths"] = self.lengths
        return {name: value.contiguous() for name, value in tensors.items()}

    @classmethod
    def load(cls, folder: Path) -> Importance:
        """Open what `save` wrote.

        Raises:
            UsageError: there is none.
            ContentError: it was cut off or edited.
        """
        body = read_json(folder / IMPORTANCE_FILE, "importance")
        path = folder / TENSOR_FILE
        stated = body.pop("checksum", None) if isinstance(body, dict) else None
        try:
            intact = stated == digest(body, 64) and _sha256(path.read_bytes()) == body["sha256"]
            tensors = load_file(path) if intact else {}
            structure = Structure.model_validate(body["structure"]) if intact else None
            version, about = body["format_version"], body["about"]
        except (OSError, SafetensorError, ValidationError, KeyError, TypeError):
            intact = False
        if not intact or structure is None or version != FORMAT_VERSION or not isinstance(about, dict):
            raise ContentError(
                f"The importance in {folder} does not match its checksums or is of another version; it was cut off or "
                "edited. Compute it anew."
            )
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            group, _, unit = name.partition(".")
            groups.setdefault(group, {})[unit] = value
        lengths = groups.pop("lengths", {}).get("")
        samples, tokens = groups.pop("samples", {}), groups.pop("tokens", {})
        _check_shapes(folder, groups, structure)
        return cls(groups, samples, structure, about, tokens, lengths)


def _check_shapes(folder: Path, values: Mapping[str, Mapping[str, Tensor]], structure: Structure) -> None:
    """Make sure that there is a number for each unit of each layer, by every definition."""
    for definition in DEFINITIONS:
        for unit, value in values.get(definition, {"nothing": torch.empty(0)}).items():
            expected = (len(structure.layers), structure.per_layer(unit)) if unit in UNITS else None
            if value.shape != expected:
                raise ContentError(
                    f"The importance in {folder} has {unit} of shape {tuple(value.shape)} for {definition!r}, expected "
                    f"{expected}; it was edited. Compute it anew."
                )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class ImportanceSums:
    """Adds up gate gradients, batch by batch, in float64.

    The loss that is differentiated is the *sum* over a batch, so that a short last batch weighs what its samples weigh.

    Args:
        structure: of the encoder.
        units: keys of `structure.UNITS`.
        keep_tokens: keep the gradients of every token too.
    """

    def __init__(self, structure: Structure, units: Sequence[str], keep_tokens: bool = False) -> None:
        self.structure = structure
        self.units = tuple(unit for unit in UNITS if unit in units)
        self._kept = tuple(unit for unit in self.units if unit != "neurons")
        shapes = {unit: (len(structure.layers), structure.per_layer(unit)) for unit in self.units}
        self._sums = {
            name: {unit: torch.zeros(shape, dtype=torch.float64) for unit, shape in shapes.items()}
            for name in DEFINITIONS
        }
        self._never_reset = {unit: torch.zeros(shape, dtype=torch.float64) for unit, shape in shapes.items()}
        self._keep_tokens = keep_tokens
        self._samples: dict[str, list[Tensor]] = {unit: [] for unit in self._kept}
        self._tokens: dict[str, list[Tensor]] = {unit: [] for unit in self._kept if keep_tokens}
        self._lengths: list[Tensor] = []
        self._by_sample: dict[tuple[str, int], Tensor] = {}
        self._by_token: dict[tuple[str, int], Tensor] = {}
        self._scored, self._scored_now = 0.0, 1.0
        self._batches = 0

    def receive(self, unit: str, layer: int, gradients: Tensor) -> None:
        """Take the gradients of one unit of one layer `(batch, seq, n)` during the backward pass of a batch."""
        by_sample = gradients.sum(1, dtype=torch.float64)
        sums = {
            "sample": by_sample.abs().sum(0),
            "token": gradients.abs().sum((0, 1), dtype=torch.float64),
            "batch": by_sample.sum(0).abs(),
        }
        for name, value in sums.items():
            self._sums[name][unit][layer] += value.cpu()
        self._never_reset[unit][layer] += sums["token"].cpu() / self._scored_now
        if unit in self._kept:
            self._by_sample[unit, layer] = by_sample.float().cpu()
            if self._keep_tokens:
                self._by_token[unit, layer] = gradients.float().flatten(0, 1).cpu()

    @contextmanager
    def batch(self, scored: float, size: int, length: int) -> Iterator[None]:
        """Forward and backward pass of one batch happen inside this block.

        Args:
            scored: what a mean loss would divide by: examples, words or masked tokens.
            size: samples.
            length: tokens of each, padding included.
        """
        self._scored_now = scored
        yield
        layers = range(len(self.structure.layers))
        for unit in self.units:
            self._sums["released"][unit] += self._never_reset[unit]
        for kept, found in ((self._samples, self._by_sample), (self._tokens, self._by_token)):
            for unit, parts in kept.items():
                parts.append(torch.stack([found[unit, layer] for layer in layers], dim=1))
        self._lengths.append(torch.full((size,), length))
        self._scored += scored
        self._batches += 1

    def finish(self, about: Mapping[str, Any]) -> Importance:
        """The importances: sums divided by what the loss is averaged over, or by the batches for `released`."""
        divisors = dict.fromkeys(DEFINITIONS, self._scored) | {"released": float(self._batches)}
        values = {
            name: {unit: value / divisors[name] for unit, value in units.items()} for name, units in self._sums.items()
        }
        samples = {unit: torch.cat(parts) for unit, parts in self._samples.items()}
        tokens = {unit: torch.cat(parts) for unit, parts in self._tokens.items()}
        lengths = torch.cat(self._lengths) if self._keep_tokens else None
        return Importance(values, samples, self.structure, dict(about), tokens, lengths)


def add_up(
    model: Any,
    structure: Structure,
    objective: Objective,
    batches: Iterable[Batch],
    units: Sequence[str] = ("heads", "ffns"),
    keep_tokens: bool = False,
    bf16: bool = False,
) -> ImportanceSums:
    """One pass over data: gradients with respect to gates alone, weights frozen, no dropout.

    Args:
        model: any Hugging Face model with the encoder, where it computes.
        structure: of its encoder.
        objective: one part; its sum over a batch is differentiated.
        batches: padded batches with an `attention_mask`.
        units: keys of `structure.UNITS`.
        keep_tokens: keep the gradients of every token.
        bf16: bfloat16 autocast.

    Raises:
        TrainingError: the loss is not finite.
    """
    sums = ImportanceSums(structure, units, keep_tokens)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        with modes(model, training=False), GateGradients(model.base_model, structure, sums.units, sums.receive):
            for batch in batches:
                inputs = {name: value.to(model.device) for name, value in batch.items()}
                (scored,) = objective.counts(inputs).values()
                with sums.batch(float(scored), *inputs["attention_mask"].shape):
                    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                        (loss,) = objective(model, inputs).values()
                    if not bool(torch.isfinite(loss)):
                        raise TrainingError(f"The loss is {float(loss.detach())}, so there are no importances.")
                    torch.autograd.backward(loss)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return sums
