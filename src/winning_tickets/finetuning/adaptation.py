"""Fine-tuning from a fine-tuned model: which part of its head is kept for the new task, and the weights to start from.

Super tickets, section 7: domain adaptation from a single-task, a multi-task or a ticket-shared model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from winning_tickets.config import PRETRAINED, TransferConfig
from winning_tickets.data.records import Kind, Task
from winning_tickets.data.tasks import TEXT_TASKS
from winning_tickets.models.heads import load_for_task, num_outputs
from winning_tickets.models.loading import PLM, outside_encoder, with_fresh_head
from winning_tickets.models.weights import content_hash
from winning_tickets.runs.errors import UsageError, listed
from winning_tickets.tickets.target import Target
from winning_tickets.training.fine_tuned import FineTunedModel
from winning_tickets.training.saved_model import TaskInfo
from winning_tickets.training.source import FineTunedSource, find_source

_SHOWN_LABELS = 4  # labels that a note lists
_WITHOUT_LABELS: tuple[Kind, ...] = ("regression", "span", "mlm", "clm")


@dataclass(frozen=True)
class KeptHead:
    """Rows of the old output layer that the new task keeps."""

    rows: tuple[int, ...] | None  # in the order of the new task's labels; None for a newly initialized head
    note: str  # what was decided, in words


def kept_head(old: TaskInfo, task: Task, *, fresh: bool = False) -> KeptHead:
    """Decide if a head is kept: it must have all labels of the new task, by their exact names and in any order."""
    if fresh:
        return KeptHead(None, "fresh (--fresh-head)")
    if old.kind != task.kind:
        return KeptHead(None, f"fresh (kinds differ: {task.kind}; the model has {old.kind})")
    if task.kind in _WITHOUT_LABELS:
        return KeptHead(tuple(range(num_outputs(task.kind, ()))), "kept")
    if not set(task.labels) <= set(old.labels):
        wanted, found = (listed(labels, _SHOWN_LABELS) for labels in (task.labels, old.labels))
        note = f"fresh (labels differ: {wanted}; the model has {found})"
        return KeptHead(None, note)
    fewer = len(task.labels) < len(old.labels)
    note = f"kept: {len(task.labels)} of {len(old.labels)} labels" if fewer else "kept"
    return KeptHead(tuple(old.labels.index(label) for label in task.labels), note)


@dataclass(frozen=True)
class Adaptation:
    """A fine-tuned model to start from, and the part of its head that is kept."""

    model: FineTunedModel
    head: KeptHead

    @classmethod
    def find(cls, config: TransferConfig, task: Task) -> Adaptation | None:
        """Open the target of a transfer; return None if it is not a fine-tuned model."""
        source = find_source(config.target)
        if not isinstance(source, FineTunedSource):
            return None
        model = source.open(config.from_task, default=task.name)
        if task.name in TEXT_TASKS and model.info.kind != task.kind:
            raise UsageError(
                f"{config.target} was fine-tuned on {model.info.task} and has no {task.name.upper()} head for --task "
                f"{task.name}; give the "
                "model or ticket that it was made from."
            )
        return cls(model, kept_head(model.info, task, fresh=config.fresh_head))

    @property
    def target(self) -> Target:
        """The ticket whose mask is kept, and the pre-trained model that the fine-tuned model was made from."""
        return Target(str(self.model.folder), self.model.ticket, self.model.model, None, None)

    def load(self, task: Task) -> PLM:
        """Return the model for the new task before its first step: the old encoder, and the old or a new head."""
        old = self.model.load()
        if task.name in TEXT_TASKS:  # the whole head is kept
            return old
        plm = load_for_task(lambda head, num_labels: with_fresh_head(old, head, num_labels), task)
        if self.head.rows is not None:
            _copy_head_(old, plm, self.head.rows)
        return plm

    def content(self, plm: PLM) -> str:
        """Return a hash of the weights that fine-tuning starts from: the encoder, and the head if it is kept."""
        named = {f"encoder.{name}": value.detach() for name, value in plm.encoder.named_parameters()}
        if not plm.has_pooler:
            named = {name: value for name, value in named.items() if not name.startswith("encoder.pooler.")}
        if self.head.rows is not None:
            named |= {f"head.{name}": value.detach() for name, value in outside_encoder(plm.model).items()}
        return content_hash(named)


def adaptation_problems(config: TransferConfig) -> list[str]:
    """Return a message for each setting that contradicts a fine-tuned target, or that needs one and has none."""
    if not isinstance(find_source(config.target), FineTunedSource):
        given = {"--from-task": config.from_task, "--fresh-head": config.fresh_head}
        return [
            f"{option} needs a model saved by tickets transfer or tickets share, and {config.target} is not one."
            for option, value in given.items()
            if value
        ]
    problems = []
    if config.start_from != PRETRAINED:
        problems.append(
            f"--start-from {config.start_from} contradicts {config.target}, a fine-tuned model: training starts "
            "from its own weights. Give the model or ticket that it was made from instead."
        )
    return problems + [
        f"--{field} needs a pre-trained model or a ticket, and {config.target} is fine-tuned."
        for field in ("base", "revision", "layers")
        if getattr(config, field) is not None
    ]


@torch.no_grad()
def _copy_head_(old: PLM, new: PLM, rows: tuple[int, ...]) -> None:
    """Copy a head of the same kind; of its output layer (the last linear layer), copy only the given rows."""
    encoder = set(new.encoder.modules())
    linear = [name for name, part in new.model.named_modules() if isinstance(part, nn.Linear) and part not in encoder]
    sources: dict[str, Tensor] = dict(outside_encoder(old.model))
    for name, parameter in outside_encoder(new.model).items():
        value = sources[name]
        parameter.copy_(value[list(rows)] if name.startswith(f"{linear[-1]}.") else value)
