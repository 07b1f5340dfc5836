"""A model that several tasks share, on disk: one encoder, and of each task a head, a description and its ticket.

encoder/                       an ordinary Hugging Face folder: the whole shared weights, and the tokenizer
tasks/NAME/head.safetensors    the parameters of that task's model outside the encoder
tasks/NAME/task.json           `predict.TaskInfo`
tasks/NAME/ticket/             the ticket, only where the task has one
shared.json                    what belongs to it, with checksums; written last
"""

from __future__ import annotations

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
from winning_tickets.runs.directory import RESULT
from winning_tickets.runs.errors import ContentError, UsageError, explain, unknown
from winning_tickets.runs.files import build_directory, inside, read_json, write_bytes, write_json
from winning_tickets.runs.identity import read_checked, write_checked
from winning_tickets.tickets.files import sha256
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.multitask import SharedEncoder
from winning_tickets.training.predict import MODEL_FOLDER, TASK_FILE, TaskInfo, save_folder

FORMAT_VERSION = 1
SHARED_FILE = "shared.json"
ENCODER = "encoder"
TASKS = "tasks"
HEAD_FILE = "head.safetensors"
TICKET = "ticket"
_OF_A_TASK = ("id2label", "label2id", "problem_type")
"""What an encoder's configuration says about the task that it was loaded for."""


class SharedModel:
    """A shared model that `tickets share` saved.

    Attributes:
        path: its folder.
        tasks: names of the tasks.
        base_hash: of the pre-trained weights that it was trained from.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path = path
        self.tasks: tuple[str, ...] = tuple(content["tasks"])
        self.base_hash = str(content["base_hash"])
        self._tickets = frozenset(content["tickets"])
        self._files: dict[str, str] = dict(content["files"])

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """Open a shared model; its weights are read, and checked, when they are loaded.

        Args:
            folder: the folder itself; `find_shared` finds that of a run.

        Raises:
            UsageError: it is no shared model.
            ContentError: a part is missing, or something was cut off or edited.
        """
        path = Path(folder)
        if not (path / SHARED_FILE).is_file():
            raise UsageError(
                f"{path} is no shared model: it has no {SHARED_FILE}. Give a folder seed-N/model of tickets share."
            )
        body = read_checked(
            path / SHARED_FILE,
            "description of the shared model",
            FORMAT_VERSION,
            anew="run tickets share again",
            mend="Copy the shared model again, or run tickets share again.",
        )
        model = cls(path, _described(path, body))
        for name in model._files:
            model._check_there(name)
        for task in model.tasks:
            model._check(f"{TASKS}/{task}/{TASK_FILE}")
        return model

    @property
    def encoder_files(self) -> list[str]:
        """The files of the encoder that have a checksum, relative to its folder."""
        return [name.removeprefix(f"{ENCODER}/") for name in self._files if name.startswith(f"{ENCODER}/")]

    def info(self, task: str) -> TaskInfo:
        """What a task is.

        Raises:
            UsageError: the model has no such task.
        """
        return TaskInfo.read(self._folder(task))

    def ticket(self, task: str) -> Ticket | None:
        """The ticket of a task; None for one that uses the whole encoder.

        It belongs to the pre-trained weights, which the shared ones no longer are: apply or hold it with
        `allow_other_weights=True`.

        Raises:
            UsageError: the model has no such task.
            ContentError: the ticket is damaged or missing.
        """
        folder = self._folder(task) / TICKET
        if task not in self._tickets:
            return None
        if not folder.is_dir():
            raise ContentError(f"The shared model {self.path} lacks the ticket of {task}; copy the whole folder again.")
        return Ticket.from_pretrained(folder)

    def load_encoder(self) -> PLM:
        """The encoder alone, with its whole shared weights.

        Raises:
            ContentError: the weights are damaged.
        """
        self._check_encoder()
        return load_plm(str(self.path / ENCODER))

    def load_task(self, task: str) -> PLM:
        """An ordinary model for one task: the whole shared encoder and the task's head; its ticket is not applied.

        Raises:
            UsageError: the model has no such task.
            ContentError: the weights are damaged.
        """
        info, name = self.info(task), f"{TASKS}/{task}/{HEAD_FILE}"
        self._check_encoder()
        self._check(name)
        plm = load_for_task(self._load, _task_of(info))
        try:
            head = load_file(self.path / name)
        except (SafetensorError, OSError) as error:
            raise ContentError(f"{self.path / name} cannot be read ({error}); copy the shared model again.") from error
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

    def _load(self, **options: Any) -> PLM:
        return load_plm(str(self.path / ENCODER), **options)

    def _folder(self, task: str) -> Path:
        if task not in self.tasks:
            raise unknown("task", task, self.tasks, f"The shared model is {self.path}.")
        return self.path / TASKS / task

    def _check_encoder(self) -> None:
        for name in self.encoder_files:
            self._check(f"{ENCODER}/{name}")

    def _check_there(self, name: str) -> None:
        if not inside(self.path, name).is_file():
            raise ContentError(f"The shared model {self.path} lacks {name}; copy the whole folder again.")

    def _check(self, name: str) -> None:
        self._check_there(name)
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


def _described(path: Path, body: dict[str, Any]) -> dict[str, Any]:
    try:
        return _Description.model_validate(body).model_dump()
    except ValidationError as error:
        raise ContentError(
            f"{path / SHARED_FILE} is not the description of a shared model: {explain(error)} It was edited. Copy the "
            "shared model again, or run tickets share again."
        ) from error


def is_shared(path: Path | str) -> bool:
    """Whether a path is a shared model, or a run that saved one."""
    path = Path(path)
    return any((folder / SHARED_FILE).is_file() for folder in (path, path / MODEL_FOLDER)) or bool(_seeds(path))


def find_shared(run: Path | str, seed: int | None = None) -> Path:
    """The folder of a shared model.

    Args:
        run: the `--out` of a `tickets share`, one of its `seed-N`, or a shared model itself.
        seed: which of a run's models; None takes the first one.

    Raises:
        UsageError: nothing is there, no model was saved, or not that of this seed.
    """
    path = Path(run)
    if not path.is_dir():
        raise UsageError(f"There is no folder {path}; give the --out of a tickets share.")
    for folder in (path, path / MODEL_FOLDER):
        if (folder / SHARED_FILE).is_file():
            if seed is not None:
                raise UsageError(f"--seed {seed} chooses among the seeds of a run, and {path} is a single model.")
            return folder
    found = _seeds(path)
    if not found:
        raise UsageError(f"{path} has no shared model; give the --out of a tickets share that has saved its models.")
    if seed is not None and seed not in found:
        raise UsageError(f"{path} has no shared model of seed {seed}; there are those of {', '.join(map(str, found))}.")
    return found[seed if seed is not None else next(iter(found))]


def _seeds(path: Path) -> dict[int, Path]:
    """Models of finished seeds, lowest first."""
    found = {}
    for folder in path.glob("seed-*"):
        number = folder.name.removeprefix("seed-")
        if number.isdecimal() and (folder / RESULT).is_file() and (folder / MODEL_FOLDER / SHARED_FILE).is_file():
            found[int(number)] = folder / MODEL_FOLDER
    return dict(sorted(found.items()))


def save_shared(
    folder: Path,
    model: SharedEncoder,
    tokenizer: Any,
    infos: Mapping[str, TaskInfo],
    tickets: Mapping[str, Ticket],
    base_hash: str,
) -> None:
    """Write a shared model, whole or not at all.

    Args:
        folder: absent or empty.
        model: its models are called like the tasks; their encoder holds the whole shared weights.
        tokenizer: of the encoder.
        infos: what each task is.
        tickets: by task; none for a task that uses the whole encoder.
        base_hash: of the pre-trained weights that it was trained from (`plm.base_hash`).

    Raises:
        TrainingError: the file system refused; nothing is left.
    """

    def fill(staging: Path) -> None:
        save_folder(model.base_model, tokenizer, staging / ENCODER)
        _forget_the_task(staging / ENCODER / "config.json")
        for task, info in infos.items():
            own = staging / TASKS / task
            named = outside_encoder(model.models[task])
            head = {name: value.detach().cpu().contiguous() for name, value in named.items()}
            write_bytes(own / HEAD_FILE, to_bytes(head))
            info.write(own)
            if task in tickets:
                tickets[task].save_pretrained(own / TICKET)
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


def _forget_the_task(config: Path) -> None:
    """The encoder is that of all tasks, and was loaded for one of them."""
    content = read_json(config, "model configuration")
    write_json(config, {key: value for key, value in content.items() if key not in _OF_A_TASK})


def _task_of(info: TaskInfo) -> Task:
    """As much of a task as its head needs."""
    return Task(info.task, info.text_columns, info.labels, METRICS_OF[info.kind][:1], kind=info.kind)
