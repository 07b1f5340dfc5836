"""A fine-tuned model on disk: its files, how they are written, and where those of a run are found."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from winning_tickets.data.records import Kind, Task
from winning_tickets.models import modeling_compact
from winning_tickets.models.heads import head_of, num_outputs
from winning_tickets.models.loading import PLM, is_onnx, load_plm
from winning_tickets.models.modeling_compact import COMPACT
from winning_tickets.models.onnx_runtime import load_onnx
from winning_tickets.runs.directory import refuse_unfinished
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.files import read_json, write_json
from winning_tickets.runs.hub import local, not_local
from winning_tickets.runs.results import RESULT, SuperResult, read_result
from winning_tickets.tickets.files import is_run_of, is_ticket
from winning_tickets.tickets.ticket import Ticket

MODEL_FOLDER = "model"
TASK_FILE = "task.json"
HELD_TICKET = Path("held") / "ticket"
"""Place of a saved model's ticket; a folder with a ticket directly in it would count as a ticket itself."""
SHARED_PLACES = ("shared.json", f"{MODEL_FOLDER}/shared.json", f"seed-*/{MODEL_FOLDER}/shared.json")
"""Places of the description of a shared model, which belongs to several tasks."""


@dataclass(frozen=True)
class TaskInfo:
    """Task of a saved model; stored next to it as `task.json`."""

    task: str
    text_columns: tuple[str, ...]
    labels: tuple[str, ...]  # empty for regression and spans
    max_length: int  # tokens per text, or per window over it
    ticket_id: str | None  # None for a dense model
    sparsity: float
    kind: Kind
    doc_stride: int | None  # tokens from one window to the next; None without windows

    @classmethod
    def of(cls, task: Task, max_length: int, doc_stride: int | None, ticket_id: str | None, *, sparsity: float) -> Self:
        columns, labels = task.text_columns, task.labels
        return cls(task.name, columns, labels, max_length, ticket_id, sparsity, task.kind, doc_stride)

    @classmethod
    def read(cls, folder: Path) -> Self:
        content = read_json(folder / TASK_FILE, "task description")
        try:
            lists = {key: tuple(content[key]) for key in ("text_columns", "labels")}
            info = TypeAdapter(cls).validate_python(content | lists)
            if len(info.text_columns) not in (1, 2):
                raise ValueError(f"{len(info.text_columns)} text columns")
            return info
        except (TypeError, KeyError, ValueError) as error:
            reason = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, found {first['input']!r}"
            raise ContentError(
                f"{folder / TASK_FILE} is not a task description ({reason}); it was edited. "
                "Run tickets transfer with --save-model again."
            ) from error

    def write(self, folder: Path) -> None:
        write_json(folder / TASK_FILE, asdict(self))


def save_folder(model: Any, tokenizer: Any, folder: Path, extra: Mapping[str, torch.Tensor] | None = None) -> None:
    """Save a model and its tokenizer as an ordinary Hugging Face folder."""
    # `extra` holds tensors of the checkpoint, by name, that the model's class does not have.
    # Only transformers' own classes can save tensors under the names of older checkpoints.
    original = not hasattr(model.config, COMPACT)
    try:
        state = {**model.state_dict(), **(extra or {})}
        model.save_pretrained(folder, state_dict=state, save_original_format=original)
        tokenizer.save_pretrained(folder)
        if hasattr(model.config, COMPACT):  # also where the class is the ordinary one, and transformers saves no code
            shutil.copyfile(modeling_compact.__file__, folder / Path(modeling_compact.__file__).name)
            modeling_compact.refuse_plain_classes(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error  # safetensors has an error of its own for a full disk


def save_model(plm: PLM, info: TaskInfo, ticket: Ticket | None, folder: Path) -> None:
    """Save a fine-tuned model with its task, and with the ticket that further fine-tuning holds."""
    save_folder(plm.model, plm.tokenizer, folder)
    info.write(folder)
    if ticket is not None:
        ticket.save_pretrained(folder / HELD_TICKET)


def find_model(run: Path | str, seed: int | None = None) -> Path:
    """Return the folder of a fine-tuned model."""
    # `run` is the folder of a transfer, one of its `seed-N`, a super run, or a saved model or export, also by its hub
    # id; without a seed the first model is taken.
    path = Path(local(run))
    if is_run_of(path, "super") and (path / RESULT).is_file():
        return _model_of_super(path, seed)
    if is_ticket(path):
        word = shlex.quote(str(path))
        raise UsageError(f"{path} is a ticket, not a fine-tuned model; run tickets transfer {word} --save-model first.")
    if not path.is_dir():
        raise UsageError(
            f"There is no run {path}; give the --out of a tickets transfer with --save-model.{not_local(run)}"
        )
    if (found := find_saved(path, TASK_FILE, seed)) is not None:
        return found
    if any(next(path.glob(place), None) for place in SHARED_PLACES):
        raise UsageError(
            f"{path} is a model that several tasks share; take one of them out first: tickets export "
            f"{shlex.quote(str(path))} --format masked --task NAME --out DIR."
        )
    refuse_unfinished(path)
    raise UsageError(f"{path} has no saved model; run tickets transfer with --save-model.")


def _model_of_super(path: Path, seed: int | None) -> Path:
    """Return the folder of a fine-tuned model of the super ticket of a run of `tickets super`."""
    folders = [path / name for name in read_result(path, SuperResult).super_ticket.runs]
    found = [model for folder in folders if (model := find_saved(folder, TASK_FILE, seed)) is not None]
    if not found:
        raise UsageError(
            f"{path} kept no fine-tuned model of its super ticket, which is {path}/super-ticket. Fine-tune it once "
            f"more: tickets transfer {shlex.quote(f'{path}/super-ticket')} --save-model with the same task; or give "
            "tickets super --save-model next time."
        )
    return found[0]


def find_saved(path: Path, description: str, seed: int | None = None) -> Path | None:
    """Find the folder of a saved model with a description of this name: a path, its `model`, or that of a seed."""
    for folder in (path, path / MODEL_FOLDER):
        if (folder / description).is_file():
            if seed is not None:
                raise UsageError(f"--seed {seed} chooses among the seeds of a run, and {path} is a single model.")
            return folder
    # A run with several seeds; those that are not finished do not count.
    found = {}
    for folder in path.glob("seed-*"):
        number = folder.name.removeprefix("seed-")
        if number.isdecimal() and (folder / RESULT).is_file() and (folder / MODEL_FOLDER / description).is_file():
            found[int(number)] = folder / MODEL_FOLDER
    if not found:
        return None
    if seed is not None and seed not in found:
        raise UsageError(
            f"{path} has no model of seed {seed}; there are those of {', '.join(map(str, sorted(found)))}."
        )
    return found[min(found) if seed is None else seed]


def load_fine_tuned(folder: Path, info: TaskInfo) -> PLM:
    """Load a saved model with the head of its task."""
    if is_onnx(folder):
        return load_onnx(folder)
    return load_plm(str(folder), head=head_of(info.kind), num_labels=num_outputs(info.kind, info.labels))
