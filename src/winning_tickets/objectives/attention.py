"""KD of the attention distributions: where each token looks, beside where it looks in the dense model."""

from __future__ import annotations

import torch
from torch import Tensor

from winning_tickets.objectives.base import Batch, Outputs, Term, TermSettings, unpadded_tokens

_LEAST = torch.finfo(torch.float32).tiny


def attention_sum(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], attention_mask: Tensor) -> Tensor:
    """Sum over unpadded query tokens of KL(teacher || student), averaged over heads and layers; natural logarithm.

    Padded keys have probability zero in both and add nothing.

    Args:
        student: L tensors `(batch, heads, query, key)` of probabilities.
        teacher: the same from the dense model.
        attention_mask: `(batch, seq)`, 1 for tokens that count.
    """
    queries = attention_mask.bool()
    total = student[0].new_zeros((), dtype=torch.float32)
    for ours, theirs in zip(student, teacher, strict=True):
        ours, theirs = ours.float(), theirs.float()
        # A probability that has underflowed to zero would make the divergence infinite.
        divergence = theirs * (theirs.clamp(min=_LEAST).log() - ours.clamp(min=_LEAST).log())
        total = total + divergence.sum(-1).mean(1)[queries].sum()
    return total / len(student)


def _sum(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    return attention_sum(student.attentions, teacher.attentions, batch["attention_mask"])


ATTENTION = Term(needs=frozenset({"attentions"}), teacher=True, count=unpadded_tokens, sum=_sum)
