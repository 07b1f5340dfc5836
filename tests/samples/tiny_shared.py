"""A tiny shared model on disk, whose weights have moved from their base as after a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from winning_tickets.data.tasks import TASKS
from winning_tickets.models.heads import load_for_task
from winning_tickets.models.loading import base_hash, load_plm, weight_hashes
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.multitask import SharedEncoder
from winning_tickets.training.saved_model import TaskInfo
from winning_tickets.training.shared_model import save_shared


def make_shared(folder: Path, base: str, names: Sequence[str], tickets: Mapping[str, Ticket]) -> Path:
    """Save a shared model.

    Args:
        folder: to make.
        base: the pre-trained model.
        names: of registered tasks.
        tickets: by task.
    """
    torch.manual_seed(0)
    plms = {name: load_for_task(lambda **options: load_plm(base, **options), TASKS[name]) for name in names}
    plm = plms[names[0]]
    hashed = base_hash(weight_hashes(plm.encoder))
    model = SharedEncoder({name: found.model for name, found in plms.items()})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    infos = {}
    for name in names:
        ticket = tickets.get(name)
        sparsity = 0.0 if ticket is None else ticket.sparsity
        infos[name] = TaskInfo.of(TASKS[name], 64, None, ticket and ticket.id, sparsity=sparsity)
    save_shared(folder, model, plm.tokenizer, infos, tickets=tickets, base_hash=hashed)
    return folder
