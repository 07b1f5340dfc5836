"""What a user names: a model, a ticket, a fine-tuned model, one that several tasks share, or an ONNX export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from winning_tickets.models.loading import is_onnx
from winning_tickets.runs.directory import MARKER, stored_run
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.hub import local
from winning_tickets.tickets.files import is_ticket
from winning_tickets.training.fine_tuned import FineTunedModel
from winning_tickets.training.saved_model import MODEL_FOLDER, TASK_FILE, find_saved
from winning_tickets.training.shared_model import SHARED_FILE, SharedModel, find_shared

_SAVING_VERBS = ("transfer", "transfer-seed", "share", "share-seed", "super")


@dataclass(frozen=True)
class ModelSource:
    """A model without the head of a task, or anything unknown: loading it says what is wrong with it."""

    name: str  # as the user wrote it
    where: str  # its folder on this machine; the name itself for a model of the hub or an object in memory


class TicketSource(ModelSource):
    """A ticket, or a folder of several tickets."""


class OnnxSource(ModelSource):
    """A folder with an ONNX export."""

    def refuse(self, **options: object) -> None:
        """Refuse options that choose among weights: an export has its own alone."""
        for option, value in options.items():
            if value is not None:
                raise UsageError(f"--{option} {value} cannot be used with {self.name}, an ONNX export; leave it out.")


class FineTunedSource(ModelSource):
    """A saved fine-tuned model, or a run that may have saved one."""

    def open(self, task: str | None = None, seed: int | None = None, default: str | None = None) -> FineTunedModel:
        """Find the model and its ticket; `load` reads its weights.

        Args:
            task: task of a shared model, by default `default` or the only one.
            seed: seed of the model in a run, by default the first one.
            default: task of a shared model if it is one of its tasks.
        """
        return FineTunedModel.find(self.where, task, seed)


class SharedSource(FineTunedSource):
    """A model that several tasks share, or a run that saved one."""

    def open_shared(self, seed: int | None = None) -> SharedModel:
        """Open the shared model."""
        return SharedModel.open(find_shared(self.where, seed))

    def open(self, task: str | None = None, seed: int | None = None, default: str | None = None) -> FineTunedModel:
        """Open the part of one task."""
        return FineTunedModel.of_shared(self.open_shared(seed), task, default)


Source = ModelSource | TicketSource | OnnxSource | FineTunedSource | SharedSource


def find_source(name: Path | str) -> Source:
    """Return what a name is, which is decided here alone; no ticket and no model is opened."""
    where = local(name)
    folder = Path(where)
    if is_ticket(where):
        kind: type[Source] = TicketSource
    elif is_onnx(folder):
        kind = OnnxSource
    elif find_saved(folder, SHARED_FILE) is not None:
        kind = SharedSource
    elif any((place / TASK_FILE).is_file() for place in (folder, folder / MODEL_FOLDER)):
        kind = FineTunedSource
    else:
        run = stored_run(folder / MARKER)
        kind = ModelSource if run is None or run.verb not in _SAVING_VERBS else FineTunedSource
    return kind(str(name), where)


def open_fine_tuned(
    source: Source | Path | str, task: str | None = None, seed: int | None = None, default: str | None = None
) -> FineTunedModel:
    """Open a fine-tuned model as `FineTunedSource.open` does; refuse other things."""
    source = find_source(source) if isinstance(source, Path | str) else source
    if not isinstance(source, FineTunedSource):
        source = FineTunedSource(source.name, source.where)  # says what is missing when it is opened
    return source.open(task, seed, default)
