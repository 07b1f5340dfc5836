"""A fine-tuned model on disk: that of a transfer, or that of one task of a shared model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from winning_tickets.models.loading import PLM, resolve_model
from winning_tickets.models.modeling_compact import COMPACT
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import read_object
from winning_tickets.runs.results import OneSeed, find_result
from winning_tickets.tickets.files import is_ticket
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.saved_model import HELD_TICKET, TASK_FILE, TaskInfo, find_model, load_fine_tuned
from winning_tickets.training.shared_model import SharedModel

EXPORT_FILE = "export.json"


@dataclass(frozen=True)
class FineTunedModel:
    """A saved model with the head of a task, its ticket and its origin."""

    folder: Path
    info: TaskInfo
    ticket: Ticket | None  # held in training; None for a dense model and a compact export, which has lost pruned units
    shared: SharedModel | None  # the shared model that it is a part of
    model: str  # name of the pre-trained model, or the folder where it is unknown
    base: str | None  # hash of the pre-trained weights, where it is known

    @classmethod
    def find(cls, path: Path | str, task: str | None = None, seed: int | None = None) -> Self:
        """Find the model of one task in a run, one of its `seed-N` or a folder."""
        folder = find_model(path, seed)
        resolve_model(str(folder))  # refuses an ONNX export
        info = TaskInfo.read(folder)
        if task not in (None, info.task):
            raise UsageError(f"The model {folder} knows the task {info.task} only, and {task} was asked for.")
        ticket = _held_ticket(folder, info)
        result = find_result(folder.parent, OneSeed)
        model = (result and result.model) or (str(folder) if ticket is None else ticket.base.name)
        base = (result and result.base_hash) or (None if ticket is None else ticket.base.hash)
        return cls(folder, info, ticket, None, model, base)

    @classmethod
    def of_shared(cls, shared: SharedModel, task: str | None = None, default: str | None = None) -> Self:
        """Take one task out of a shared model: `task`, by default `default` or the only one."""
        task = _chosen(shared, task, default)
        info, ticket = shared.info(task), shared.ticket(task)
        _check_id(ticket, info, shared.path)
        return cls(shared.path, info, ticket, shared, pretrained_name(shared.path), shared.base_hash)

    def load(self) -> PLM:
        """Load the model with its head, with pruned weights at zero."""
        if self.shared is None:
            return load_fine_tuned(self.folder, self.info)
        plm = self.shared.load_task(self.info.task)
        if self.ticket is not None:
            self.ticket.apply_(plm.model, allow_other_weights=True)
        return plm


@dataclass(frozen=True)
class Origin:
    """The dense model that saved weights were made from, as far as the files next to them say."""

    model: str | None = None
    revision: str | None = None
    layers: int | None = None
    sparsity: float | None = None
    ticket_id: str | None = None


def origin_of(folder: Path) -> Origin:
    """Return the origin of an export, or of a model that a transfer saved; nothing is known of other folders."""
    if (folder / EXPORT_FILE).is_file():
        body = read_object(folder / EXPORT_FILE, "description of the export")
        base = body.get("base") or {}
        names = (base.get("name"), base.get("revision"), base.get("layers"))
        return Origin(*names, body.get("sparsity"), body.get("ticket_id"))
    if not (folder / TASK_FILE).is_file():
        return Origin()
    model = FineTunedModel.find(folder)
    held = None if model.ticket is None else model.ticket.base
    sparsity, ticket_id = model.info.sparsity, model.info.ticket_id
    if held is not None:
        return Origin(held.name, held.revision, held.layers, sparsity, ticket_id)
    return Origin(model.model if model.model != str(folder) else None, None, None, sparsity, ticket_id)


def pretrained_name(folder: Path) -> str:
    """Return the name of the pre-trained model that a saved model was trained from, or its folder where unknown."""
    result = find_result(folder.parent, OneSeed)
    return (result and result.model) or str(folder)


def _chosen(shared: SharedModel, task: str | None, default: str | None) -> str:
    if task is not None:
        shared.info(task)  # refuses an unknown task
        return task
    if default in shared.tasks:
        return str(default)
    if len(shared.tasks) == 1:
        return shared.tasks[0]
    names = ", ".join(shared.tasks)
    if default is None:
        raise UsageError(f"{shared.path} is shared by {names}; say which of them with --task.")
    raise UsageError(
        f"{shared.path} is shared by {names}, and {default} is none of them; say with --from-task which of them gives "
        "its head and its ticket."
    )


def _held_ticket(folder: Path, info: TaskInfo) -> Ticket | None:
    """Open the ticket that was saved with a model."""
    if info.ticket_id is None or COMPACT in read_object(folder / "config.json", "model configuration"):
        return None
    exported = folder / "export.json"
    if exported.is_file() and read_object(exported, "export").get("format") == "compact":
        return None
    if not is_ticket(folder / HELD_TICKET):
        raise ContentError(
            f"The model {folder} was fine-tuned with the ticket {info.ticket_id}, and lacks it: there is no "
            f"{folder / HELD_TICKET}. Copy the whole folder again, or run tickets transfer with --save-model again."
        )
    ticket = Ticket.from_pretrained(folder / HELD_TICKET)
    _check_id(ticket, info, folder)
    return ticket


def _check_id(ticket: Ticket | None, info: TaskInfo, folder: Path) -> None:
    found = None if ticket is None else ticket.id
    if found != info.ticket_id:
        raise ContentError(
            f"The model {folder} was fine-tuned on {info.task} with the ticket {info.ticket_id}, and the one next to "
            f"it is {found}: it was replaced. Copy the whole folder again, or fine-tune again."
        )
