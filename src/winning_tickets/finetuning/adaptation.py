"""Fine-tuning from a fine-tuned model: the part of its head that serves the new task, and the weights to start from.

Super tickets, section 7: domain adaptation from a single-task, a multi-task or a ticket-shared model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from winning_tickets.config import PRETRAINED, TransferConfig
from winning_tickets.data.records import Kind, Task
from winning_tickets.models.heads import load_for_task, num_outputs
from winning_tickets.models.loading import PLM, outside_encoder, with_fresh_head
from winning_tickets.models.weights import content_hash
from winning_tickets.tickets.target import Target
from winning_tickets.training.fine_tuned import FineTunedModel, is_fine_tuned, open_fine_tuned
from winning_tickets.training.predict import TaskInfo

_SHOWN = 4  # labels that a note names
_NO_LABELS: tuple[Kind, ...] = ("regression", "span")


@dataclass(frozen=True)
class KeptHead:
    """The rows of an output layer that are kept, in the order of the new task's labels, and the same in words."""

    # `rows` is None where the head is initialized afresh.

    rows: tuple[int, ...] | None
    note: str


def kept_head(old: TaskInfo, task: Task, fresh: bool = False) -> KeptHead:
    """Keep a head that knows all labels of the new task, by their exact names and in any order."""
    if fresh:
        return KeptHead(None, "fresh (--fresh-head)")
    if old.kind != task.kind:
        return KeptHead(None, f"fresh (kinds differ: {task.kind}; the model has {old.kind})")
    if task.kind in _NO_LABELS:
        return KeptHead(tuple(range(num_outputs(task.kind, ()))), "kept")
    if not set(task.labels) <= set(old.labels):
        note = f"fresh (labels differ: {_listed(task.labels)}; the model has {_listed(old.labels)})"
        return KeptHead(None, note)
    few = len(task.labels) < len(old.labels)
    note = f"kept: {len(task.labels)} of {len(old.labels)} labels" if few else "kept"
    return KeptHead(tuple(old.labels.index(label) for label in task.labels), note)


def _listed(labels: tuple[str, ...]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(labels[:_SHOWN]) + more


@dataclass(frozen=True)
class Adaptation:
    """A fine-tuned model to start from, and the part of its head that is kept."""

    source: FineTunedModel
    head: KeptHead

    @classmethod
    def find(cls, config: TransferConfig, task: Task) -> Adaptation | None:
        """Open the target of a transfer; None where it is no fine-tuned model."""
        if not is_fine_tuned(config.target):
            return None
        source = open_fine_tuned(config.target, config.from_task, default=task.name)
        return cls(source, kept_head(source.info, task, config.fresh_head))

    @property
    def target(self) -> Target:
        """The ticket that stays held, and the pre-trained model that the fine-tuned one was made from."""
        return Target(str(self.source.folder), self.source.ticket, self.source.model, None, None)

    def load(self, task: Task) -> PLM:
        """The model for the new task before its first step: the old encoder, the head kept or fresh."""
        old = self.source.load()
        plm = load_for_task(lambda head, num_labels: with_fresh_head(old, head, num_labels), task)
        if self.head.rows is not None:
            _copy_head_(old, plm, self.head.rows)
        return plm

    def content(self, plm: PLM) -> str:
        """A hash of the weights that fine-tuning starts from: the encoder, and the head where it is kept."""
        named = {f"encoder.{name}": value.detach() for name, value in plm.encoder.named_parameters()}
        if not plm.has_pooler:
            named = {name: value for name, value in named.items() if not name.startswith("encoder.pooler.")}
        if self.head.rows is not None:
            named |= {f"head.{name}": value.detach() for name, value in outside_encoder(plm.model).items()}
        return content_hash(named)


def adaptation_problems(config: TransferConfig) -> list[str]:
    """Settings that contradict a fine-tuned model as the target, or need one."""
    if not is_fine_tuned(config.target):
        given = {"--from-task": config.from_task, "--fresh-head": config.fresh_head}
        return [
            f"{option} goes with a model that tickets transfer or tickets share saved, and {config.target} is none."
            for option, value in given.items()
            if value
        ]
    problems = []
    if config.start_from != PRETRAINED:
        problems.append(
            f"--start-from {config.start_from} contradicts {config.target}, a fine-tuned model, whose own weights "
            "training starts from; give the model or ticket that it was made from instead."
        )
    return problems + [
        f"--{field} goes with a pre-trained model or a ticket, and {config.target} is fine-tuned."
        for field in ("base", "revision", "layers")
        if getattr(config, field) is not None
    ]


@torch.no_grad()
def _copy_head_(old: PLM, new: PLM, rows: tuple[int, ...]) -> None:
    """Copy a head of the same kind; of its output layer, which is the last linear layer, only these rows."""
    inside = set(new.encoder.modules())
    linear = [name for name, part in new.model.named_modules() if isinstance(part, nn.Linear) and part not in inside]
    sources: dict[str, Tensor] = dict(outside_encoder(old.model))
    for name, parameter in outside_encoder(new.model).items():
        value = sources[name]
        parameter.copy_(value[list(rows)] if name.startswith(f"{linear[-1]}.") else value)
