"""A shared model on disk: one encoder, and for each task a head, a description and a ticket.

encoder/                       an ordinary Hugging Face folder: all shared weights, and the tokenizer
tasks/NAME/head.safetensors    the parameters of that task's model outside the encoder
tasks/NAME/task.json           `predict.TaskInfo`
tasks/NAME/ticket/             the ticket, if the task has one
shared.json                    tasks and checksums of the files; written last
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from winning_tickets.data.records import METRICS_OF, Task
from winning_tickets.models.heads import load_for_task
from winning_tickets.models.loading import PLM, load_plm, outside_encoder
from winning_tickets.runs.ambient import neutral
from winning_tickets.runs.errors import ContentError, UsageError, explain, unknown
from winning_tickets.runs.files import build_directory, inside, read_json, sha256, write_bytes, write_json
from winning_tickets.runs.hub import local, not_local
from winning_tickets.runs.identity import read_checked, write_checked
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.multitask import SharedEncoder
from winning_tickets.training.saved_model import TASK_FILE, TaskInfo, find_saved, save_folder

FORMAT_VERSION = 1
SHARED_FILE = "shared.json"
ENCODER = "encoder"
TASKS = "tasks"
HEAD_FILE = "head.safetensors"
TICKET = "ticket"
_TASK_FIELDS = ("id2label", "label2id", "problem_type")
"""Fields of a configuration that belong to the task that an encoder was loaded for."""


class SharedModel:
    """A shared model that `tickets share` saved.

    Attributes:
        path: its folder.
        tasks: names of the tasks.
        base_hash: hash of the pre-trained weights that it was trained from.

    Raises:
        UsageError: a method was called with a task that the model does not have.
        ContentError: weights, a ticket or a description are missing or damaged.

    Example:
        >>> shared = SharedModel.open("runs/share/seed-0/model")  # doctest: +SKIP
        >>> plm = shared.load_task("rte")  # doctest: +SKIP
        >>> shared.ticket("rte").apply_(plm.model, allow_other_weights=True)  # doctest: +SKIP
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path = path
        self.tasks: tuple[str, ...] = tuple(content["tasks"])
        self.base_hash = str(content["base_hash"])
        self._tickets = frozenset(content["tickets"])
        self._files: dict[str, str] = dict(content["files"])

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open the folder of a shared model; its weights are read and checked when they are loaded.

        `find_shared` finds the folder in a run.

        Raises:
            UsageError: it is not a shared model.
            ContentError: a file is missing, truncated or edited.
        """
        path = Path(folder)
        if not (path / SHARED_FILE).is_file():
            raise UsageError(f"{path} is no shared model: it has no {SHARED_FILE}. Give a seed-N/model of a share.")
        body = read_checked(
            path / SHARED_FILE,
            "description of the shared model",
            FORMAT_VERSION,
            anew="run tickets share again",
            mend="Copy the shared model again, or run tickets share again.",
        )
        try:
            model = cls(path, _Description.model_validate(body).model_dump())
        except ValidationError as error:
            raise ContentError(
                f"{path / SHARED_FILE} is not the description of a shared model: {explain(error)} It was edited. Copy "
                "the shared model again, or run tickets share again."
            ) from error
        for name in model._files:
            model._check_exists(name)
        for task in model.tasks:
            model._check(f"{TASKS}/{task}/{TASK_FILE}")
        return model

    @property
    def encoder_files(self) -> list[str]:
        """Files of the encoder, relative to its folder."""
        return [name.removeprefix(f"{ENCODER}/") for name in self._files if name.startswith(f"{ENCODER}/")]

    def check(self) -> list[Path]:
        """Compare all files but those of tickets, which have their own checksums, with their checksums; return them."""
        for name in self._files:
            self._check(name)
        return [self.path / name for name in self._files]

    def info(self, task: str) -> TaskInfo:
        """Return the description of a task."""
        return TaskInfo.read(self._folder(task))

    def ticket(self, task: str) -> Ticket | None:
        """Return the ticket of a task; None for a task that uses the whole encoder.

        The ticket belongs to the pre-trained weights: apply or hold it with `allow_other_weights=True`.
        """
        folder = self._folder(task) / TICKET
        if task not in self._tickets:
            return None
        if not folder.is_dir():
            raise ContentError(f"The shared model {self.path} lacks the ticket of {task}; copy the whole folder again.")
        return Ticket.from_pretrained(folder)

    @neutral()
    def load_encoder(self) -> PLM:
        """Load the encoder alone, with all shared weights."""
        self._check_encoder()
        return load_plm(str(self.path / ENCODER))

    @neutral()
    def load_task(self, task: str) -> PLM:
        """Load an ordinary model for one task: all shared weights and the task's head, without applying its ticket."""
        info, name = self.info(task), f"{TASKS}/{task}/{HEAD_FILE}"
        self._check_encoder()
        self._check(name)
        task_of_head = Task(info.task, info.text_columns, info.labels, METRICS_OF[info.kind][:1], kind=info.kind)
        plm = load_for_task(functools.partial(load_plm, str(self.path / ENCODER)), task_of_head)
        try:
            head = load_file(self.path / name)
        except (SafetensorError, OSError) as error:
            raise ContentError(f"{self.path / name} cannot be read ({error}); copy the shared model again.") from error
        # The head must have the same parameters as the fresh head, which it then replaces.
        own = outside_encoder(plm.model)
        if {key: value.shape for key, value in head.items()} != {key: value.shape for key, value in own.items()}:
            raise ContentError(
                f"{self.path / name} holds {', '.join(sorted(head)) or 'nothing'}, and a model for {task} has "
                f"{', '.join(sorted(own))}, perhaps of other shapes; run tickets share again."
            )
        with torch.no_grad():
            for key, parameter in own.items():
                parameter.copy_(head[key])
        return plm

    def _folder(self, task: str) -> Path:
        if task not in self.tasks:
            raise unknown("task", task, self.tasks, f"The shared model is {self.path}.")
        return self.path / TASKS / task

    def _check_encoder(self) -> None:
        for name in self.encoder_files:
            self._check(f"{ENCODER}/{name}")

    def _check_exists(self, name: str) -> None:
        if not inside(self.path, name).is_file():
            raise ContentError(f"The shared model {self.path} lacks {name}; copy the whole folder again.")

    def _check(self, name: str) -> None:
        self._check_exists(name)
        if name not in self._files or sha256(self.path / name) != self._files[name]:
            raise ContentError(
                f"{self.path / name} does not match its checksum in {SHARED_FILE}: the file was cut off or edited. "
                "Copy the shared model again, or run tickets share again."
            )


class _Description(BaseModel):
    tasks: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]] = Field(min_length=1)
    tickets: list[str]
    base_hash: str
    files: dict[str, str]


def find_shared(run: Path | str, seed: int | None = None) -> Path:
    """Return the folder of a shared model in a `tickets share`, one of its `seed-N`, or a shared model itself.

    `seed` chooses the model in a run; None takes the first one.
    """
    path = Path(local(run))
    if not path.is_dir():
        raise UsageError(f"There is no folder {path}; give the --out of a tickets share.{not_local(run)}")
    found = find_saved(path, SHARED_FILE, seed)
    if found is None:
        raise UsageError(f"{path} has no shared model; give the --out of a tickets share that has saved its models.")
    return found


def save_shared(
    folder: Path,
    model: SharedEncoder,
    tokenizer: Any,
    infos: Mapping[str, TaskInfo],
    *,
    tickets: Mapping[str, Ticket],
    base_hash: str,
) -> None:
    """Write a shared model to a folder that is absent or empty, completely or not at all; all mappings are by task."""

    def fill(staging: Path) -> None:
        save_folder(model.base_model, tokenizer, staging / ENCODER)
        # The encoder was loaded for one of the tasks and now belongs to all.
        config = staging / ENCODER / "config.json"
        content = read_json(config, "model configuration")
        write_json(config, {key: value for key, value in content.items() if key not in _TASK_FIELDS})
        for task, info in infos.items():
            own = staging / TASKS / task
            named = outside_encoder(model.models[task])
            head = {name: value.detach().cpu().contiguous() for name, value in named.items()}
            write_bytes(own / HEAD_FILE, to_bytes(head))
            info.write(own)
            if task in tickets:
                tickets[task].save_pretrained(own / TICKET)
        # Checksums of all files but those of tickets, which have their own.
        checked = [*(staging / ENCODER).iterdir(), *staging.glob(f"{TASKS}/*/*.*")]
        body = {
            "format_version": FORMAT_VERSION,
            "tasks": list(infos),
            "tickets": [task for task in infos if task in tickets],
            "base_hash": base_hash,
            "files": {path.relative_to(staging).as_posix(): sha256(path) for path in sorted(checked)},
        }
        write_checked(staging / SHARED_FILE, body)

    build_directory(folder, fill)
