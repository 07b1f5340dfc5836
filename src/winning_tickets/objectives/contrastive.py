"""Contrastive KD: each segment's pooled state must be nearest to the dense model's state of the same segment."""

from __future__ import annotations

import torch
from torch import Tensor

from winning_tickets.data.segments import parse_segments
from winning_tickets.errors import UsageError
from winning_tickets.objectives.base import Batch, Outputs, Term, TermSettings


def pooled(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over unpadded tokens, scaled to length 1.

    Args:
        hidden: `(batch, seq, hidden)`.
        attention_mask: `(batch, seq)`, 1 for tokens that count.

    Returns:
        `(batch, hidden)` in float32.
    """
    kept = attention_mask.unsqueeze(-1).float()
    mean = (hidden.float() * kept).sum(1) / kept.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1)


def contrastive_sum(student: Tensor, teacher: Tensor, attention_mask: Tensor, temperature: float) -> Tensor:
    """Sum over segments of InfoNCE: the teacher's state of the same segment among those of all segments of the batch.

    One segment alone has no negatives: the sum is zero, and so is its gradient.

    Args:
        student: last hidden states `(batch, seq, hidden)`.
        teacher: the same from the dense model.
        attention_mask: `(batch, seq)`, 1 for tokens that count.
        temperature: what cosines are divided by.
    """
    with torch.autocast(student.device.type, enabled=False):  # bfloat16 cosines over 0.05 are off by several percent
        cosines = pooled(student, attention_mask) @ pooled(teacher, attention_mask).T
        own = torch.arange(len(cosines), device=cosines.device)
        return torch.nn.functional.cross_entropy(cosines / temperature, own, reduction="sum")


def check_negatives(segments: str, batch_tokens: int) -> None:
    """Refuse batches that may hold one segment alone, from which the contrastive term learns nothing.

    Args:
        segments: how the corpus is cut, such as `packed:128`.
        batch_tokens: tokens of a forward pass, padding included.

    Raises:
        UsageError: two of the longest segments do not fit into a batch, or the segments have another form.
    """
    longest = parse_segments(segments).longest
    if 2 * longest > batch_tokens:
        raise UsageError(
            f"The contrastive objective compares the segments of a batch with each other, and of {segments} batches of "
            f"{batch_tokens} tokens may hold one alone; raise --batch-tokens to at least {2 * longest}, better more, "
            "or use shorter segments."
        )


def _count(batch: Batch, settings: TermSettings) -> Tensor:
    return torch.tensor(len(batch["input_ids"]), device=batch["input_ids"].device)


def _sum(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    return contrastive_sum(student.last, teacher.last, batch["attention_mask"], settings.temperature)


CONTRASTIVE = Term(needs=frozenset(), teacher=True, count=_count, sum=_sum)
