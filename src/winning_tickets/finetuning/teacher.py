"""Fine-tuning that also follows a teacher: a model that was fine-tuned on the same task, such as the dense model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from winning_tickets.config import TransferConfig
from winning_tickets.data.records import Task
from winning_tickets.data.tasks import TEXT_TASKS
from winning_tickets.models.loading import PLM, is_onnx
from winning_tickets.models.tokenizers import read_together_
from winning_tickets.models.weights import content_hash
from winning_tickets.runs.directory import missing
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.objectives.base import Batch
from winning_tickets.training.objectives.distillation import Distillation
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.saved_model import TaskInfo, find_model, load_fine_tuned


def teacher_problems(config: TransferConfig) -> list[str]:
    """Return a message for each setting of a teacher that contradicts another setting or has no effect."""
    if config.teacher is None:
        changed = config.changed("teacher_weight", "teacher_states")
        return [f"{config.option_of(one)} needs --teacher." for one in changed]
    problems = [] if (problem := missing(config.teacher)) is None else [f"--teacher: {problem}"]
    if config.smart is not None:
        problems.append("--teacher and --smart contradict each other; leave one of them out.")
    if config.task in TEXT_TASKS:
        problems.append(f"--teacher is for tasks with labels, not for --task {config.task}.")
    return problems


@dataclass(frozen=True)
class Teacher:
    """A fine-tuned model whose outputs a training follows."""

    plm: PLM
    content: str  # a hash of its weights

    @classmethod
    def find(cls, path: str, task: Task, student: PLM, *, with_states: bool) -> Teacher:
        """Load a saved model, or that of a transfer (of its first seed); refuse a model that does not fit the task."""
        folder = find_model(path)
        if is_onnx(folder):
            raise UsageError(
                f"--teacher {path} is an ONNX export, which trains nothing; give the model it was made from."
            )
        info = TaskInfo.read(folder)
        plm = load_fine_tuned(folder, info)
        _check(path, info, plm, task, student=student, with_states=with_states)
        read_together_(student.tokenizer, plm.tokenizer)
        plm.model.eval().requires_grad_(False)
        return cls(plm, content_hash({name: value.detach() for name, value in plm.model.named_parameters()}))

    def objective(self, task: Task, config: TransferConfig) -> TaughtObjective:
        """Return the loss of the task with the distances from the teacher."""
        terms = ("logits", "states") if config.teacher_states else ("logits",)
        weights = dict.fromkeys(terms, config.teacher_weight)
        distances = Distillation(weights, self.plm.architecture, self.plm.model, range(_layers(self.plm)), task.kind)
        return TaughtObjective(TaskObjective(task.kind), distances)


def _layers(plm: PLM) -> int:
    return int(plm.model.config.num_hidden_layers)


def _check(path: str, info: TaskInfo, plm: PLM, task: Task, *, student: PLM, with_states: bool) -> None:
    if (info.kind, info.labels) != (task.kind, task.labels):
        own = ", ".join(info.labels) or info.kind
        raise UsageError(
            f"--teacher {path} was fine-tuned for {info.task} ({own}), and the task is {task.name} "
            f"({', '.join(task.labels) or task.kind}); a teacher needs the same labels in the same order."
        )
    if plm.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise UsageError(f"--teacher {path} has another vocabulary than {student.name}, so it cannot read its tokens.")
    shapes = [(_layers(one), one.model.config.hidden_size) for one in (plm, student)]
    if with_states and shapes[0] != shapes[1]:
        (theirs, wide), (ours, own_width) = shapes
        raise UsageError(
            f"--teacher-states compares layer with layer: {path} has {theirs} of width {wide}, and {student.name} has "
            f"{ours} of width {own_width}. Leave it out."
        )


class TaughtObjective:
    """The losses of a task plus distances from a teacher, from one forward pass of each model."""

    def __init__(self, base: TaskObjective, distances: Distillation) -> None:
        self._base = base
        self._distances = distances
        self._names = {name: f"teacher_{name}" for name in distances.weights}
        self.weights = {**base.weights, **self._named(distances.weights)}

    def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {self._names[name]: value for name, value in values.items()}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return the divisors of the task's losses and of the distances."""
        return {**self._base.counts(batch), **self._named(self._distances.counts(batch))}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of each part over the batch."""
        theirs, ours = self._distances.dense_outputs(batch), self._distances.outputs(model, batch)
        distances = self._distances.compare(ours, theirs, batch)
        return {**self._base.sums(ours.logits.float(), batch), **self._named(distances)}
