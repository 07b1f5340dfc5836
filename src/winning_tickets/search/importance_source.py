"""What importances are taken from: a fine-tuned model and its task, or a file of an earlier search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from winning_tickets.config import SearchConfig, TransferConfig
from winning_tickets.data.encode import EncodedSplit, collate, train_subset
from winning_tickets.data.tasks import TaskData
from winning_tickets.errors import ContentError, UsageError
from winning_tickets.files import read_json
from winning_tickets.importance import DEFINITIONS, IMPORTANCE_FILE, Importance
from winning_tickets.plm import PLM, base_hash, weight_hashes
from winning_tickets.predict import TaskInfo, encode_for, find_model, load_saved
from winning_tickets.rundir import MARKER, RESULT
from winning_tickets.structure import Structure
from winning_tickets.transfer_setup import load_data, train_split

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
