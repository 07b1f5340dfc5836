"""KD of the MLM head's predictions: the distribution over the vocabulary at masked positions."""

from __future__ import annotations

from torch import Tensor

from winning_tickets.objectives.base import Batch, Outputs, Term, TermSettings, masked_tokens


def logits_sum(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Sum over masked positions of KL(teacher || student), natural logarithm; not multiplied by the temperature.

    Args:
        student: logits `(masked, vocabulary)`.
        teacher: the same from the dense model.
        temperature: what both are divided by.
    """
    ours = (student / temperature).log_softmax(-1)
    theirs = (teacher / temperature).log_softmax(-1)
    return (theirs.exp() * (theirs - ours)).sum()


def _sum(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    return logits_sum(student.logits, teacher.logits, settings.logits_temperature)


LOGITS = Term(needs=frozenset({"logits"}), teacher=True, count=masked_tokens, sum=_sum)
