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

from winning_tickets.config import SearchConfig, TransferConfig
from winning_tickets.data.encode import EncodedSplit, collate, train_subset
from winning_tickets.data.records import TaskData
from winning_tickets.models.loading import PLM, base_hash, weight_hashes
from winning_tickets.models.structure import UNITS, GateGradients, Structure
from winning_tickets.runs.directory import MARKER, RESULT
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError
from winning_tickets.runs.files import read_json, write_bytes
from winning_tickets.runs.identity import digest, write_checked
from winning_tickets.tickets.masking import modes
from winning_tickets.training.objectives.base import Batch, Objective
from winning_tickets.training.predict import TaskInfo, encode_for, find_model, load_saved
from winning_tickets.training.task_data import load_data, train_split

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


BATCH_SIZE = 32
"""Examples of a batch, as in the released program; it counts in the definitions `batch` and `released`."""


@dataclass(frozen=True)
class FineTuned:
    """A model that a transfer saved, and what it was trained on.

    Attributes:
        folder: of the model.
        info: its task.
        transfer: the settings of its transfer, of its own seed only.
        data: the task's examples.
        base: hash of the pre-trained weights it was fine-tuned from.
    """

    folder: Path
    info: TaskInfo
    transfer: TransferConfig
    data: TaskData
    base: str

    @classmethod
    def find(cls, path: Path, data_dir: str | None) -> FineTuned:
        """Find the model and the data of a transfer.

        Args:
            path: a transfer, or one of its `seed-N`.
            data_dir: where the data is now, if not where it was.

        Raises:
            UsageError: no run with a saved model, or its data is not there.
            ContentError: its settings were edited.
        """
        folder = find_model(path)
        run = folder.parent
        if not (run / RESULT).is_file() or not (run / MARKER).is_file():
            raise UsageError(
                f"{path} is a model without its run, which says what it was trained on; give the --out of a tickets "
                "transfer with --save-model."
            )
        try:
            transfer = TransferConfig.model_validate(read_json(run / MARKER, "settings")["config"])
            base = str(read_json(run / RESULT, "result")["base_hash"])
        except (ValidationError, KeyError, TypeError) as error:
            raise ContentError(f"The settings in {run / MARKER} cannot be read: {error}") from error
        if data_dir is not None:
            transfer = transfer.model_copy(update={"data_dir": data_dir})
        return cls(folder, TaskInfo.read(folder), transfer, load_data(transfer), base)

    def load(self) -> PLM:
        """The model with its task head."""
        return load_saved(self.folder, self.info)

    def examples(self, plm: PLM, config: SearchConfig) -> EncodedSplit:
        """The examples it was trained on, or `train_size` of them, in their order."""
        split = train_split(self.transfer, self.data, self.transfer.seeds[0])
        split = train_subset(split, config.train_size, config.seed)
        return encode_for(plm, split, self.info.max_length, self.info.kind, self.info.doc_stride)


class SplitBatches:
    """Batches of a split in its order, the last one perhaps shorter.

    Args:
        plm: its tokenizer pads.
        split: tokenised examples.
        batch_size: examples a batch.
    """

    def __init__(self, plm: PLM, split: EncodedSplit, batch_size: int) -> None:
        self._split, self._size, self._collate = split, batch_size, collate(plm.tokenizer)

    def __len__(self) -> int:
        return -(-len(self._split) // self._size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self._split), self._size):
            yield self._collate([self._split[i] for i in range(start, min(start + self._size, len(self._split)))])


@dataclass(frozen=True)
class Origin:
    """What `--importance-from` names; one of the two, or neither for the objective on a corpus.

    Attributes:
        saved: importances that were computed before.
        model: a fine-tuned model.
    """

    saved: Importance | None = None
    model: FineTuned | None = None

    @classmethod
    def find(cls, config: SearchConfig) -> Origin:
        """Open it.

        Raises:
            UsageError: there is neither a run with a saved model nor an importance.
            ContentError: a damaged file.
        """
        if config.importance_from is None or config.selection == "random":
            return cls()
        path = Path(config.importance_from).expanduser()
        if (path / IMPORTANCE_FILE).is_file():
            return cls(saved=Importance.load(path))
        try:
            return cls(model=FineTuned.find(path, config.data_dir))
        except UsageError as error:
            raise UsageError(
                f"--importance-from: {error} A tickets search --method importance, with its {IMPORTANCE_FILE}, "
                "will do too."
            ) from error

    @property
    def kind(self) -> str | None:
        """What the importances are about, as far as runs with several seeds share it."""
        if self.saved is not None:
            return str(self.saved.about["kind"])
        return None if self.model is None else f"task {self.model.info.task}"

    def objective(self, config: SearchConfig) -> str:
        """The loss that they are about."""
        return config.objective if self.saved is None else str(self.saved.about["objective"])

    def content(self) -> dict[str, str]:
        """Hashes for the identity of a search: what is in the files counts, not where they are."""
        if self.saved is not None:
            return {"importance": self.saved.id}
        if self.model is not None:
            weights = base_hash(weight_hashes(self.model.load().encoder))
            return {"fine_tuned": weights, "data": self.model.data.fingerprint}
        return {}

    def check(self, structure: Structure, base: str, config: SearchConfig) -> None:
        """Make sure that the importances are about this model and all that is pruned.

        Args:
            structure: of the model.
            base: hash of its weights.
            config: of the search.

        Raises:
            ContentError: another structure, or other pre-trained weights.
            UsageError: units whose importance was not computed.
        """
        model = config.model
        found = None if self.saved is None else str(self.saved.about["base_hash"])
        found = self.model.base if self.model is not None else found
        if found is not None and found != base:
            raise ContentError(
                f"The importances of --importance-from belong to a model fine-tuned from other weights ({found}) than "
                f"those of {model} ({base}); give a run of this model."
            )
        if self.saved is None:
            return
        if self.saved.structure != structure:
            raise ContentError(f"The importances of --importance-from are about other layers or heads than {model}'s.")
        for unit in sorted({unit for level in config.levels for unit in level.units}):
            self.saved.scores(DEFINITIONS[0], unit)
