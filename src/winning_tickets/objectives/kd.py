"""KD of the hidden states (TAMT eq. 6): every layer's output beside that of the dense model."""

from __future__ import annotations

import torch
from torch import Tensor

from winning_tickets.objectives.base import Batch, Outputs, Term, TermSettings


def kd_sum(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], attention_mask: Tensor) -> Tensor:
    """Sum over unpadded tokens of 1 - cosine, averaged over layers (TAMT eq. 6 before dividing by |x|).

    Written as half the squared distance of the normalised states, which equals 1 - cosine and is exactly zero for
    equal states.

    Args:
        student: L tensors `(batch, seq, hidden)`.
        teacher: the same from the dense model.
        attention_mask: `(batch, seq)`, 1 for tokens that count.
    """
    total = student[0].new_zeros((), dtype=torch.float32)
    padded = not bool(attention_mask.all())
    for ours, theirs in zip(student, teacher, strict=True):
        difference = _normalised(ours) - _normalised(theirs)
        if padded:
            difference = difference[attention_mask.bool()]
        total = total + difference.square().sum()
    return total / (2 * len(student))


def _normalised(states: Tensor) -> Tensor:
    return torch.nn.functional.normalize(states.float(), dim=-1)


def kd_squared_sum(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], attention_mask: Tensor) -> Tensor:
    """Sum over unpadded tokens of the mean squared error of the states, averaged over layers.

    What the released evaluation of the KD loss computes by default, instead of TAMT eq. 6.

    Args:
        student: L tensors `(batch, seq, hidden)`.
        teacher: the same from the dense model.
        attention_mask: `(batch, seq)`, 1 for tokens that count.
    """
    counted = attention_mask.bool()
    total = student[0].new_zeros((), dtype=torch.float32)
    for ours, theirs in zip(student, teacher, strict=True):
        total = total + (ours.float() - theirs.float())[counted].square().mean(dim=-1).sum()
    return total / len(student)


def _compared(batch: Batch, settings: TermSettings) -> Tensor:
    """1 at the positions whose states are compared, `(batch, seq)`."""
    attention_mask = batch["attention_mask"]
    return torch.ones_like(attention_mask) if settings.count_padding else attention_mask


def _count(batch: Batch, settings: TermSettings) -> Tensor:
    return _compared(batch, settings).sum()


def _sum(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    distance = kd_sum if settings.kd_error == "cosine" else kd_squared_sum
    return distance(student.states, teacher.states, _compared(batch, settings))


KD = Term(needs=frozenset({"states"}), teacher=True, count=_count, sum=_sum)
