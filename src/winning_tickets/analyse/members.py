"""The tasks that share an encoder, each with its structured ticket: from ticket folders, or from a shared model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from winning_tickets.analyse.opening import base_model_of, labels_of
from winning_tickets.analyse.task_shares import find_importance
from winning_tickets.errors import ContentError, UsageError
from winning_tickets.plm import PLM
from winning_tickets.shared_model import SharedModel, find_shared, is_shared
from winning_tickets.structure import Structure
from winning_tickets.ticket import Ticket


@dataclass(frozen=True)
class Member:
    """A task and its ticket.

    Attributes:
        name: of the task.
        path: of its ticket, or of the shared model.
        ticket: of heads, FFNs or neurons; one that prunes nothing for a task without.
        whole: the task has no ticket of its own.
        importance: folder of its importance, where there is one.
    """

    name: str
    path: str
    ticket: Ticket
    whole: bool = False
    importance: Path | None = None

    @property
    def structure(self) -> Structure:
        """Of the encoder."""
        assert self.ticket.structure is not None
        return self.ticket.structure


def open_members(
    paths: Sequence[str | Path], names: Sequence[str] | None, base: str | None
) -> tuple[list[Member], PLM]:
    """Open the tickets of all tasks, and the encoder that they share.

    Args:
        paths: structured tickets, one a task; or one shared model.
        names: of the tasks; by default those that the tickets were found on, else the folders'.
        base: where the base model is now, if not where the tickets say.

    Raises:
        UsageError: fewer than two tasks, nothing there, a shared model without tickets, or names that do not fit.
        ContentError: a damaged ticket, one of single weights, or different encoders.
    """
    if len(paths) == 1 and is_shared(paths[0]):
        return _of_shared_model(find_shared(paths[0]), names, base)
    if len(paths) < 2:
        raise UsageError(
            f"There is nothing to share: {len(paths)} ticket was given, expected those of two or more tasks, or one "
            "shared model of tickets share."
        )
    tickets = [Ticket.from_pretrained(path) for path in paths]
    _check(paths, tickets)
    found = _names(paths, tickets) if names is None else labels_of(paths, names, "--names")
    members = [
        Member(name, str(path), ticket, importance=find_importance(path))
        for name, path, ticket in zip(found, paths, tickets, strict=True)
    ]
    why = "The parameters of the base model are counted; say where it is with --base."
    return members, base_model_of(tickets[0], str(paths[0]), base, why)


def _of_shared_model(folder: Path, names: Sequence[str] | None, base: str | None) -> tuple[list[Member], PLM]:
    for option, given in (("--names", names), ("--base", base)):
        if given is not None:
            raise UsageError(f"{option} is for folders of tickets; the shared model {folder} has its own.")
    model = SharedModel.open(folder)
    tickets = {task: model.ticket(task) for task in model.tasks}
    own = {task: ticket for task, ticket in tickets.items() if ticket is not None}
    if not own:
        raise UsageError(f"The shared model {folder} has no tickets: every task uses the whole encoder.")
    _check([f"{folder} ({task})" for task in own], list(own.values()))
    like = next(iter(own.values()))
    members = [
        Member(task, str(folder), own[task] if task in own else _whole(like), whole=task not in own)
        for task in model.tasks
    ]
    return members, model.load_encoder()


def _whole(like: Ticket) -> Ticket:
    """A ticket of the same encoder that prunes nothing."""
    gates = {name: torch.ones_like(gate) for name, gate in like.gates.items()}
    return Ticket({}, like.info, gates=gates, structure=like.structure)


def _check(paths: Sequence[str | Path], tickets: Sequence[Ticket]) -> None:
    """All of heads, FFNs or neurons, and of one encoder."""
    first = tickets[0]
    for path, ticket in zip(paths, tickets, strict=True):
        if ticket.structure is None:
            raise ContentError(
                f"{path} is a ticket of single weights ({ticket.info.method}), which keeps a part of every head and "
                "FFN; give tickets of heads and FFNs (tickets search --method importance), or compare weights with "
                "tickets analyse similarity."
            )
        if ticket.base.hash != first.base.hash or ticket.structure != first.structure:
            raise ContentError(
                f"{paths[0]} was made for the weights of {first.base.name}, and {path} for other ones, those of "
                f"{ticket.base.name}; tasks share one encoder, so give tickets of the same weights."
            )


def _names(paths: Sequence[str | Path], tickets: Sequence[Ticket]) -> list[str]:
    """The tasks that tickets were found on (`rte, fine-tuned with seed 0`); their folders where these do not differ."""
    tasks = [(ticket.info.scores_from or "").partition(", fine-tuned")[0] for ticket in tickets]
    return tasks if all(tasks) and len(set(tasks)) == len(tasks) else labels_of(paths)
