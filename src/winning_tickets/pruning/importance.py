"""Importance of heads, FFNs, neurons and layers (Super Tickets, section 3.1, eq. 3), and the gates that follow from it.

The importance of a unit is the first-order change of a loss when the unit is removed, summed over data. Every
definition is a sum of absolute gate gradients; the definitions differ in where the absolute value is taken. One pass
over the data computes all of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.utils.data import DataLoader

from winning_tickets.config import UNIT_NAMES, Level, TransferConfig
from winning_tickets.config.levels import Unit
from winning_tickets.config.structured import ImportanceSearch, UnitSearch
from winning_tickets.data.encode import EncodedSplit, make_collator, train_subset
from winning_tickets.data.records import TaskData
from winning_tickets.models.loading import PLM, base_hash, weight_hashes
from winning_tickets.models.structure import UNITS, GateGradients, Structure
from winning_tickets.runs.directory import MARKER
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError
from winning_tickets.runs.files import read_json, write_bytes
from winning_tickets.runs.identity import digest, write_checked
from winning_tickets.runs.results import RESULT, TransferSeedResult, read_result
from winning_tickets.tickets.masking import modes
from winning_tickets.training.execution import attention_for_training
from winning_tickets.training.objectives.base import Batch, Objective
from winning_tickets.training.predict import encode_split
from winning_tickets.training.saved_model import TaskInfo, find_model, load_fine_tuned
from winning_tickets.training.task_data import load_data, train_split

DEFINITIONS = ("sample", "token", "batch", "released")
"""Where absolute values of gradients are taken: per sample (the paper), per token, or per batch. `released` takes them
per token, divides the sum of a batch by the divisor of its mean loss (such as the batch size), and never resets the
gradients between batches, as the released code does."""
IMPORTANCE_FILE = "importance.json"
TENSOR_FILE = "importance.safetensors"
FORMAT_VERSION = 1
_NORM_FLOOR = 1e-20


@dataclass(frozen=True)
class Importance:
    """Importances of all units of an encoder."""

    values: Mapping[str, Mapping[str, Tensor]]  # by definition and unit, float64 `(layers, n)`; n = 1 for FFNs, layers
    samples: Mapping[str, Tensor]  # signed gradients by unit, float32 `(samples, layers, n)`; without neurons
    structure: Structure
    about: Mapping[str, Any]  # the model and data it was computed from
    tokens: Mapping[str, Tensor] = field(default_factory=dict)  # likewise, `(tokens, layers, n)` with padding
    lengths: Tensor | None = None  # number of tokens of each sample in `tokens`, int64 `(samples,)`

    def scores(self, definition: str, unit: str) -> Tensor:
        """Return the scores that rank units over all layers, float64 `(layers, n)`."""
        known = [one for one in UNITS if one in self.values[definition]]
        if unit not in known:
            raise UsageError(
                f"The importance of {unit} was not computed, only that of {', '.join(known)}; compute it "
                "again from the fine-tuned model or the corpus."
            )
        values = self.values[definition][unit]
        if values.shape[1] == 1:
            return values
        # Heads and neurons are divided by the l2 norm of their layer (section 3.1).
        norm: Tensor = torch.linalg.vector_norm(values, dim=1, keepdim=True)
        return values / (norm + _NORM_FLOOR)

    @property
    def id(self) -> str:
        """A hash of all values and of their description."""
        return digest([dict(self.about), _sha256(to_bytes(self._tensors()))], 16)

    def save(self, folder: Path) -> None:
        """Write `importance.safetensors`, then `importance.json`."""
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
        write_checked(folder / IMPORTANCE_FILE, body)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"{name}.{unit}": value for name, units in self.values.items() for unit, value in units.items()}
        tensors |= {f"samples.{unit}": value for unit, value in self.samples.items()}
        tensors |= {f"tokens.{unit}": value for unit, value in self.tokens.items()}
        if self.lengths is not None:
            tensors["lengths"] = self.lengths
        return {name: value.contiguous() for name, value in tensors.items()}

    @classmethod
    def load(cls, folder: Path) -> Importance:
        """Read the files that `save` wrote, and check them."""
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
                "edited. Compute it again."
            )
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            group, _, unit = name.partition(".")
            groups.setdefault(group, {})[unit] = value
        lengths = groups.pop("lengths", {}).get("")
        samples, tokens = groups.pop("samples", {}), groups.pop("tokens", {})
        # Every definition has a number for each unit of each layer.
        for definition in DEFINITIONS:
            for unit, value in groups.get(definition, {"nothing": torch.empty(0)}).items():
                expected = (len(structure.layers), structure.per_layer(unit)) if unit in UNITS else None
                if value.shape != expected:
                    raise ContentError(
                        f"The importance in {folder} has {unit} of shape {tuple(value.shape)} for {definition!r}, "
                        f"expected {expected}; it was edited. Compute it again."
                    )
        return cls(groups, samples, structure, about, tokens, lengths)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class ImportanceSums:
    """Adds up gate gradients, batch by batch, in float64, on the device where they are computed.

    The loss that is differentiated is the *sum* over a batch, so that samples of a short last batch weigh no more.
    """

    # Nothing is read back before `finish`, so that the device never waits for the host; only the gradients of tokens
    # are moved to the CPU after each batch, because they would fill the memory of the device.

    def __init__(self, structure: Structure, units: Sequence[str], *, keep_tokens: bool = False) -> None:
        self.structure = structure
        self.units = tuple(unit for unit in UNITS if unit in units)
        self._kept = tuple(unit for unit in self.units if unit != "neurons")
        self._sums: dict[str, dict[str, Tensor]] = {name: {} for name in DEFINITIONS}
        self._never_reset: dict[str, Tensor] = {}
        self._keep_tokens = keep_tokens
        self._samples: dict[str, list[Tensor]] = {unit: [] for unit in self._kept}
        self._tokens: dict[str, list[Tensor]] = {unit: [] for unit in self._kept if keep_tokens}
        self._lengths: list[Tensor] = []
        self._by_sample: dict[tuple[str, int], Tensor] = {}
        self._by_token: dict[tuple[str, int], Tensor] = {}
        self._token_sums: dict[tuple[str, int], Tensor] = {}
        self._scored: float | Tensor = 0.0
        self._batches = 0

    def receive(self, unit: str, layer: int, gradients: Tensor) -> None:
        """Receive the gradients of one kind of unit in one layer, `(batch, seq, n)`, during a backward pass."""
        self._by_sample[unit, layer] = gradients.sum(1, dtype=torch.float64)
        self._token_sums[unit, layer] = gradients.abs().sum((0, 1), dtype=torch.float64)
        if self._keep_tokens and unit in self._kept:
            self._by_token[unit, layer] = gradients.float().flatten(0, 1)

    @contextmanager
    def batch(self, scored: float | Tensor, size: int, length: int) -> Iterator[None]:
        """Wrap the forward and backward pass of a batch `(size, length)`; `scored` is the divisor of its mean loss."""
        yield
        divisor = torch.as_tensor(scored).clamp(min=1)  # a batch without masked tokens has no gradients
        for unit in self.units:
            # The three definitions of the paper's sum differ only in where the absolute value is taken.
            by_sample = self._of_layers(self._by_sample, unit, dim=1)
            found = {"sample": by_sample.abs().sum(0), "batch": by_sample.sum(0).abs()}
            found["token"] = self._of_layers(self._token_sums, unit, dim=0)
            # The released code never resets its gradients: every batch adds the sum of all earlier batches once more.
            self._never_reset[unit] = self._never_reset.get(unit, 0.0) + found["token"] / divisor
            found["released"] = self._never_reset[unit]
            for name, value in found.items():
                self._sums[name][unit] = self._sums[name].get(unit, 0.0) + value
            if unit in self._kept:
                self._samples[unit].append(by_sample.float())
            if unit in self._tokens:
                self._tokens[unit].append(self._of_layers(self._by_token, unit, dim=1).cpu())
        self._lengths.append(torch.full((size,), length))
        self._scored = self._scored + scored
        self._batches += 1

    def _of_layers(self, found: Mapping[tuple[str, int], Tensor], unit: str, dim: int) -> Tensor:
        """Stack the values that a batch gave for one kind of unit in each layer."""
        return torch.stack([found[unit, layer] for layer in range(len(self.structure.layers))], dim)

    def finish(self, about: Mapping[str, Any]) -> Importance:
        """Return the importances: sums over the divisor of the mean loss; `released` is over the number of batches."""
        divisors = dict.fromkeys(DEFINITIONS, float(self._scored)) | {"released": float(self._batches)}
        values = {
            name: {unit: value.cpu() / divisors[name] for unit, value in units.items()}
            for name, units in self._sums.items()
        }
        samples = {unit: torch.cat(parts).cpu() for unit, parts in self._samples.items()}
        tokens = {unit: torch.cat(parts) for unit, parts in self._tokens.items()}
        lengths = torch.cat(self._lengths) if self._keep_tokens else None
        return Importance(values, samples, self.structure, dict(about), tokens, lengths)


def add_up(
    model: Any,
    structure: Structure,
    objective: Objective,
    batches: Iterable[Batch],
    *,
    units: Sequence[str] = ("heads", "ffns"),
    keep_tokens: bool = False,
    bf16: bool = False,
) -> ImportanceSums:
    """Sum gate gradients in one pass over data, with frozen weights and no dropout.

    Args:
        model: any Hugging Face model with the encoder, on its device.
        objective: an objective of one part, whose sum over a batch is differentiated.
        batches: with `input_ids`, and an `attention_mask` where rows are padded.
        units: keys of `structure.UNITS`.
        keep_tokens: keep the gradients of every token.
        bf16: use bfloat16 autocast.

    Raises:
        TrainingError: the loss is not finite.
    """
    # Frozen weights save their half of the backward pass: only the gates get gradients.
    sums = ImportanceSums(structure, units, keep_tokens=keep_tokens)
    losses: list[Tensor] = []
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        with (
            modes(model, training=False),
            attention_for_training(model, model.device, bf16=bf16),
            GateGradients(model.base_model, structure, sums.units, sums.receive),
        ):
            for batch in batches:
                inputs = {name: value.to(model.device, non_blocking=True) for name, value in batch.items()}
                # The divisor is only recorded: the sums are divided once, at the end.
                (scored,) = objective.counts(inputs).values()
                with sums.batch(scored, *inputs["input_ids"].shape):
                    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                        (loss,) = objective(model, inputs).values()
                    torch.autograd.backward(loss)
                losses.append(loss.detach())
                if len(losses) == _LOSSES_AT_A_TIME:
                    _check_finite(losses)
            _check_finite(losses)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return sums


_LOSSES_AT_A_TIME = 16  # number of losses that are read together: each read waits for the device


def _check_finite(losses: list[Tensor]) -> None:
    """Read the losses of some batches, refuse those that are not finite, and empty the list."""
    for value in torch.stack(losses).tolist() if losses else ():
        if not math.isfinite(value):
            raise TrainingError(f"The loss is {value}, so there are no importances.")
    losses.clear()


BATCH_SIZE = 32
"""Examples per batch, as in the released code; the definitions `batch` and `released` depend on it."""


@dataclass(frozen=True)
class ImportanceModel:
    """A model that a transfer saved, and the data it was trained on."""

    folder: Path
    info: TaskInfo
    transfer: TransferConfig  # its settings, with the seed of this model only
    data: TaskData
    base: str  # hash of the pre-trained weights it was fine-tuned from
    degenerate: bool = False  # whether it is no better than one answer for all examples

    @classmethod
    def find(cls, path: Path, data_dir: str | None) -> ImportanceModel:
        """Find the model and the data of a transfer, or of one of its folders `seed-N`."""
        folder = find_model(path)
        run = folder.parent
        if not (run / RESULT).is_file() or not (run / MARKER).is_file():
            raise UsageError(
                f"{path} is a model without its run, so its training data is unknown; give the --out of a tickets "
                "transfer with --save-model."
            )
        try:
            transfer = TransferConfig.model_validate(read_json(run / MARKER, "settings")["config"])
        except (ValidationError, KeyError, TypeError) as error:
            raise ContentError(f"The settings in {run / MARKER} cannot be read: {error}") from error
        result = read_result(run, TransferSeedResult)
        if data_dir is not None:
            transfer = transfer.model_copy(update={"data_dir": data_dir})
        info, base = TaskInfo.read(folder), str(result.base_hash)
        return cls(folder, info, transfer, load_data(transfer), base, degenerate=bool(result.degenerate))

    def load(self) -> PLM:
        """Load the model with its task head."""
        return load_fine_tuned(self.folder, self.info)

    def examples(self, plm: PLM, config: ImportanceSearch) -> EncodedSplit:
        """Return the examples that the model was trained on, or `train_size` of them, in order."""
        split = train_split(self.transfer, self.data, self.transfer.seeds[0])
        split = train_subset(split, config.train_size, config.seed)
        return encode_split(plm, split, self.info.max_length, self.info.kind, doc_stride=self.info.doc_stride)


def in_order(plm: PLM, split: EncodedSplit, batch_size: int) -> DataLoader[Any]:
    """Return the batches of a tokenized split, in order; the last batch may be smaller."""
    # The loader draws a seed that it does not use: a generator of its own leaves the global one unchanged.
    return DataLoader(split, batch_size, collate_fn=make_collator(plm.tokenizer), generator=torch.Generator())


@dataclass(frozen=True)
class ImportanceSource:
    """The source of `--importance-from`: saved importances or a fine-tuned model; neither for a corpus."""

    saved: Importance | None = None
    model: ImportanceModel | None = None

    @classmethod
    def find(cls, config: ImportanceSearch) -> ImportanceSource:
        """Open the source that the settings name."""
        if config.importance_from is None or config.selection == "random":
            return cls()
        path = Path(config.importance_from).expanduser()
        if (path / IMPORTANCE_FILE).is_file():
            return cls(saved=Importance.load(path))
        try:
            return cls(model=ImportanceModel.find(path, config.data_dir))
        except UsageError as error:
            raise UsageError(
                f"--importance-from: {error} The folder of a tickets search --method importance, with its "
                f"{IMPORTANCE_FILE}, is allowed too."
            ) from error

    @property
    def kind(self) -> str | None:
        """A description of the task or text, the same for runs with different seeds; None without a source."""
        if self.saved is not None:
            return str(self.saved.about["kind"])
        return None if self.model is None else f"task {self.model.info.task}"

    def objective(self, config: ImportanceSearch) -> str:
        """Return the objective whose loss the importances are about."""
        return config.objective if self.saved is None else str(self.saved.about["objective"])

    def content(self) -> dict[str, str]:
        """Return hashes of the source's content for the run id, which does not depend on paths."""
        if self.saved is not None:
            return {"importance": self.saved.id}
        if self.model is not None:
            weights = base_hash(weight_hashes(self.model.load().encoder))
            return {"fine_tuned": weights, "data": self.model.data.fingerprint}
        return {}

    def check(self, structure: Structure, base: str, config: ImportanceSearch) -> None:
        """Refuse importances of a model whose weights have another hash than `base`, or that lack a unit to prune."""
        found = None if self.saved is None else str(self.saved.about["base_hash"])
        found = self.model.base if self.model is not None else found
        if found is not None and found != base:
            raise ContentError(
                f"The importances of --importance-from belong to a model fine-tuned from other weights ({found}) than "
                f"those of {config.model} ({base}); give a run of this model."
            )
        if self.saved is None:
            return
        if self.saved.structure != structure:
            raise ContentError(
                f"The importances of --importance-from are about other layers or heads than {config.model}'s."
            )
        for unit in pruned_units(config):
            self.saved.scores(DEFINITIONS[0], unit)


def fit_units(config: UnitSearch, structure: Structure, source: ImportanceSource | None, base: str) -> dict[str, Any]:
    """Refuse levels and importances that do not fit a model; return the settings that the source gives."""
    unit_counts(config, structure)
    if source is None or not isinstance(config, ImportanceSearch):
        return {}
    source.check(structure, base, config)
    return {"importance_from": source.kind, "objective": source.objective(config)}


def pruned_units(config: UnitSearch) -> list[Unit]:
    """Return the kinds of units that at least one ticket of a search prunes, sorted."""
    return sorted({unit for level in config.levels for unit in level.units})


def unit_counts(config: UnitSearch, structure: Structure) -> list[tuple[Level, dict[Unit, int]]]:
    """Return how many units of each kind every level prunes; refuse counts that are too high for the model, or zero."""
    totals = {unit: structure.size(unit) for unit in UNIT_NAMES}
    found = [(level, level.counts(totals)) for level in config.levels]
    stay = min(config.min_heads_per_layer, structure.num_heads)
    free = totals["heads"] - stay * len(structure.layers)
    for level, counts in found:
        if counts.get("heads", 0) > free:
            raise UsageError(
                f"{level.option} prunes {counts['heads']} of {totals['heads']} heads, and with --min-heads-per-layer "
                f"{stay} at most {free} can be pruned."
            )
        if not any(counts.values()):
            raise UsageError(f"{level.option} prunes nothing of this model; give a higher level, or counts.")
    return found


def random_unit_scores(structure: Structure, units: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Draw uniform scores, float64 `(layers, n)`; those of one kind of unit do not depend on the other kinds."""
    layers = len(structure.layers)
    return {
        unit: torch.from_numpy(np.random.default_rng([seed, index]).random((layers, structure.per_layer(unit))))
        for index, unit in enumerate(UNIT_NAMES)
        if unit in units
    }


def close_gates(
    scores: Mapping[str, Tensor], counts: Mapping[Unit, int], structure: Structure, min_heads_per_layer: int = 0
) -> dict[str, Tensor]:
    """Close as many gates as `counts` says: those with the lowest scores `(layers, n)`, on ties in the last layers."""
    kept: dict[str, Tensor] = {}
    for unit, count in counts.items():
        values = scores[unit].double()
        if unit == "heads" and min_heads_per_layer:
            # Protected heads rank above all others, so that the counts stay exact.
            values = values.masked_fill(_keep_first(values, min_heads_per_layer), torch.inf)
        kept[unit] = _keep_first(values.reshape(1, -1), values.numel() - count).view(values.shape)
    return {
        f"layers.{layer}.{UNITS[unit]}": kept[unit][layer].clone()
        for layer in range(len(structure.layers))
        for unit in UNITS
        if unit in kept
    }


def _keep_first(values: Tensor, count: int) -> Tensor:
    """Return the mask of the `count` highest values of each row `(rows, n)`; on ties the first ones are kept."""
    # Sorting so few numbers costs little, and on a GPU nothing has to be read back.
    best = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros(values.shape, dtype=torch.bool, device=values.device).scatter_(1, best, True)
