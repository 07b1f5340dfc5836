"""MLM: the cross entropy of masked tokens, and the head that predicts them."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from winning_tickets.architectures import Architecture
from winning_tickets.errors import UsageError
from winning_tickets.objectives.base import IGNORED, Batch, Outputs, Term, TermSettings, masked_tokens


def mlm_logits(head: Any, architecture: Architecture, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits at masked positions only (15 % of them), never for the whole sequence.

    Args:
        head: a ForMaskedLM model, or a `frozen_head` of one.
        architecture: its entry, which names the modules of the head.
        hidden: last hidden states `(batch, seq, hidden)`.
        labels: `(batch, seq)`, -100 where nothing is predicted.

    Returns:
        Logits `(masked, vocabulary)` in float32 and targets `(masked,)`.
    """
    chosen = labels != IGNORED
    states = hidden[chosen]
    for name in architecture.mlm_head:
        states = getattr(head, name)(states)
    return states.float(), labels[chosen]


def frozen_head(model: Any, architecture: Architecture) -> SimpleNamespace:
    """The MLM head of a model as it is now, for a teacher; the model's own may be trained or replaced afterwards.

    The decoder matrix is shared: a search never trains it, and it is by far the largest part.

    Args:
        model: a ForMaskedLM model whose decoder keeps the dense matrix.
        architecture: its entry of the table.
    """
    decoder = model.get_submodule(architecture.mlm_decoder)
    known = {id(decoder.weight): decoder.weight}
    head = {name: copy.deepcopy(getattr(model, name), known) for name in architecture.mlm_head}
    for module in head.values():
        if isinstance(module, torch.nn.Module):  # DistilBERT's activation may be a plain function
            module.eval()
    return SimpleNamespace(**head)


def check_mlm_tokenizer(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer without mask token for objectives that predict masked tokens.

    Raises:
        UsageError: it has none.
    """
    if tokenizer.mask_token_id is None:
        raise UsageError(
            f"The tokenizer of {name} has no mask token, so there is no MLM objective; use --objective kd."
        )


def _sum(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    labels = batch["labels"]
    return torch.nn.functional.cross_entropy(student.logits, labels[labels != IGNORED], reduction="sum")


MLM = Term(needs=frozenset({"logits"}), teacher=False, count=masked_tokens, sum=_sum)
