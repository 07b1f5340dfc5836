"""A fine-tuned model on disk: that of a transfer, or that of one task of a shared model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from winning_tickets.models.compact_layers import COMPACT
from winning_tickets.models.loading import PLM
from winning_tickets.runs.directory import MARKER, RESULT
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import read_object
from winning_tickets.tickets.files import is_ticket
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.predict import HELD_TICKET, MODEL_FOLDER, TASK_FILE, TaskInfo, find_model, load_saved
from winning_tickets.training.shared_model import SharedModel, find_shared, is_shared

_VERBS = ("transfer", "transfer-seed", "share", "share-seed")


@dataclass(frozen=True)
class FineTunedModel:
    """A model with the head of a task, and where it came from.

    Attributes:
        folder: of the model, or of the shared model.
        info: its task.
        ticket: the ticket that was held in training; None for a dense model, and for a compact export, whose removed
            parts cannot grow back.
        shared: the shared model that it is a part of.
        model: name of the pre-trained model, as far as that is known; else the folder.
        base: hash of the pre-trained weights; None where nothing says it.
    """

    folder: Path
    info: TaskInfo
    ticket: Ticket | None
    shared: SharedModel | None
    model: str
    base: str | None

    def load(self) -> PLM:
        """The model with its head, the weights that its ticket prunes at zero.

        Raises:
            ContentError: the weights are damaged, or the ticket does not fit them.
        """
        if self.shared is None:
            return load_saved(self.folder, self.info)
        plm = self.shared.load_task(self.info.task)
        if self.ticket is not None:
            self.ticket.apply_(plm.model, allow_other_weights=True)
        return plm


def is_fine_tuned(path: Path | str) -> bool:
    """Whether a path is a model that was fine-tuned here, or a run that may have saved one; nothing is opened."""
    path = Path(path)
    if is_ticket(path) or not path.is_dir():
        return False
    if is_shared(path) or any((folder / TASK_FILE).is_file() for folder in (path, path / MODEL_FOLDER)):
        return True
    return (path / MARKER).is_file() and read_object(path / MARKER, "configuration").get("verb") in _VERBS


def open_fine_tuned(
    path: Path | str, task: str | None = None, seed: int | None = None, default: str | None = None
) -> FineTunedModel:
    """Find a fine-tuned model and its ticket; weights are read when they are loaded.

    Args:
        path: a transfer or share, one of its `seed-N`, or a saved model.
        task: of a shared model: which of its tasks.
        seed: which model of a run; None takes the first one.
        default: the task of a shared model where none is given.

    Raises:
        UsageError: nothing is there, no model was saved, not this task, or several of which none was chosen.
        ContentError: a part is damaged, or the ticket is missing or another one.
    """
    if is_shared(path):
        shared = SharedModel.open(find_shared(path, seed))
        return _of_shared(shared, _chosen(shared, task, default))
    folder = find_model(path, seed)
    info = TaskInfo.read(folder)
    if task not in (None, info.task):
        raise UsageError(f"The model {folder} knows the task {info.task} only, and {task} was asked for.")
    ticket = _held(folder, info)
    said = read_object(folder.parent / RESULT, "result") if (folder.parent / RESULT).is_file() else {}
    model = said.get("model") or (str(folder) if ticket is None else ticket.base.name)
    base = said.get("base_hash") or (None if ticket is None else ticket.base.hash)
    return FineTunedModel(folder, info, ticket, None, model, base)


def _of_shared(shared: SharedModel, task: str) -> FineTunedModel:
    info, ticket = shared.info(task), shared.ticket(task)
    _check_id(ticket, info, shared.path)
    result = shared.path.parent / RESULT
    said = read_object(result, "result") if result.is_file() else {}
    return FineTunedModel(shared.path, info, ticket, shared, said.get("model") or str(shared.path), shared.base_hash)


def _chosen(shared: SharedModel, task: str | None, default: str | None) -> str:
    if task is not None:
        shared.info(task)  # refuses a task that it has not
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


def _held(folder: Path, info: TaskInfo) -> Ticket | None:
    """The ticket that was saved beside a model."""
    if info.ticket_id is None or COMPACT in read_object(folder / "config.json", "model configuration"):
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
            f"The model {folder} was fine-tuned on {info.task} with the ticket {info.ticket_id}, and the one beside it "
            f"is {found}: it was exchanged. Copy the whole folder again, or fine-tune anew."
        )
