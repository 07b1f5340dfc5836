"""Going on from a fine-tuned model: which part of its head serves another task, and the weights to start from.

Super tickets, section 7: domain adaptation from a single-task, a multi-task or a ticket-shared model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from winning_tickets.config import PRETRAINED, TransferConfig
from winning_tickets.data.records import Kind, Task
from winning_tickets.models.heads import load_for_task, outputs_of
from winning_tickets.models.loading import PLM, Head, outside_encoder, with_fresh_head
from winning_tickets.models.weights import content_hash
from winning_tickets.runs.errors import ContentError
from winning_tickets.tickets.target import Target
from winning_tickets.training.fine_tuned import FineTunedModel, is_fine_tuned, open_fine_tuned
from winning_tickets.training.predict import TaskInfo

_SHOWN = 4
"""Labels that a note names."""
_NO_LABELS: tuple[Kind, ...] = ("regression", "span")


@dataclass(frozen=True)
class KeptHead:
    """What becomes of a head.

    Attributes:
        rows: of its output layer, in the order of the new task's labels; None where the head is drawn afresh.
        note: the same in words.
    """

    rows: tuple[int, ...] | None
    note: str


def kept_head(old: TaskInfo, task: Task, fresh: bool = False) -> KeptHead:
    """Whether a head knows all labels of a new task, by their exact names and in any order.

    Args:
        old: the task that the head was trained on.
        task: the new one.
        fresh: keep nothing.
    """
    if fresh:
        return KeptHead(None, "fresh (--fresh-head)")
    if old.kind != task.kind:
        return KeptHead(None, f"fresh (kinds differ: {task.kind}; the model has {old.kind})")
    if task.kind in _NO_LABELS:
        return KeptHead(tuple(range(outputs_of(task.kind, ()))), "kept")
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
    """Fine-tuning that goes on from a fine-tuned model.

    Attributes:
        source: the model.
        head: what is kept of its head.
    """

    source: FineTunedModel
    head: KeptHead

    @classmethod
    def find(cls, config: TransferConfig, task: Task) -> Adaptation | None:
        """Open the model that a transfer names as its target; None where the target is no fine-tuned model.

        Raises:
            UsageError: no model was saved, or a shared model has not the task that was asked for.
            ContentError: it is damaged, or its ticket is missing or another one.
        """
        if not is_fine_tuned(config.target):
            return None
        source = open_fine_tuned(config.target, config.from_task, default=task.name)
        return cls(source, kept_head(source.info, task, config.fresh_head))

    @property
    def target(self) -> Target:
        """The ticket that goes on being held, and the pre-trained model that all began with."""
        return Target(str(self.source.folder), self.source.ticket, self.source.model, None, None)

    def load(self, task: Task) -> PLM:
        """The model for the new task before its first step: the old encoder, the head kept or drawn afresh.

        Raises:
            ContentError: the weights are damaged, or the ticket does not fit them.
        """
        old = self.source.load()

        def load(head: Head, num_labels: int) -> PLM:
            return with_fresh_head(old, head, num_labels)

        plm = load_for_task(load, task)
        if self.head.rows is not None:
            _copy_head_(old, plm, self.head.rows)
        return plm

    def content(self, plm: PLM) -> str:
        """A hash of the weights that fine-tuning starts from: the encoder, and the head where it is kept.

        Args:
            plm: as `load` gave it.
        """
        named = {f"encoder.{name}": value.detach() for name, value in plm.encoder.named_parameters()}
        if not plm.has_pooler:
            named = {name: value for name, value in named.items() if not name.startswith("encoder.pooler.")}
        if self.head.rows is not None:
            named |= {f"head.{name}": value.detach() for name, value in outside_encoder(plm.model).items()}
        return content_hash(named)

    def check(self, plm: PLM, start_hash: str) -> None:
        """Make sure that a seed starts from what all seeds start from.

        Args:
            plm: as `load` gave it.
            start_hash: `content` of the first time.

        Raises:
            ContentError: the model has changed.
        """
        if self.content(plm) != start_hash:
            raise ContentError(
                f"The model {self.source.folder} has changed since this transfer began, so its seeds would not start "
                "alike. Put it back, or start a transfer in another --out."
            )


def adaptation_problems(config: TransferConfig) -> list[str]:
    """What contradicts a fine-tuned model as the target, or needs one."""
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
            f"--start-from {config.start_from} contradicts {config.target}, a fine-tuned model, whose own weights are "
            "what fine-tuning goes on from; give the model or ticket that it was made from instead."
        )
    for field in ("base", "revision", "layers"):
        if getattr(config, field) is not None:
            problems.append(f"--{field} goes with a pre-trained model or a ticket, and {config.target} is fine-tuned.")
    return problems


def _output_layer(plm: PLM) -> str:
    """Name of the layer that gives the logits: heads end with it."""
    inside = set(plm.encoder.modules())
    layers = [
        name for name, module in plm.model.named_modules() if isinstance(module, nn.Linear) and module not in inside
    ]
    return str(layers[-1])


@torch.no_grad()
def _copy_head_(old: PLM, new: PLM, rows: tuple[int, ...]) -> None:
    """Copy a head of the same kind; of the output layer these rows."""
    output = _output_layer(old)
    sources: dict[str, Tensor] = dict(outside_encoder(old.model))
    for name, parameter in outside_encoder(new.model).items():
        value = sources[name]
        parameter.copy_(value[list(rows)] if name.startswith(f"{output}.") else value)
