"""TERMS: what a pre-training objective can be a sum of."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from winning_tickets.data.segments import parse_segments
from winning_tickets.models.architectures import Architecture
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.objectives.base import (
    IGNORED,
    Batch,
    Need,
    Outputs,
    Term,
    TermSettings,
    masked_tokens,
    unpadded_tokens,
)

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


def _attention_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    return attention_sum(student.attentions, teacher.attentions, batch["attention_mask"])


ATTENTION = Term(needs=frozenset({"attentions"}), teacher=True, count=unpadded_tokens, sum=_attention_term)


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


def _contrastive_count(batch: Batch, settings: TermSettings) -> Tensor:
    return torch.tensor(len(batch["input_ids"]), device=batch["input_ids"].device)


def _contrastive_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    return contrastive_sum(student.last, teacher.last, batch["attention_mask"], settings.temperature)


CONTRASTIVE = Term(needs=frozenset(), teacher=True, count=_contrastive_count, sum=_contrastive_term)


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


def _kd_count(batch: Batch, settings: TermSettings) -> Tensor:
    return _compared(batch, settings).sum()


def _kd_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    distance = kd_sum if settings.kd_error == "cosine" else kd_squared_sum
    return distance(student.states, teacher.states, _compared(batch, settings))


KD = Term(needs=frozenset({"states"}), teacher=True, count=_kd_count, sum=_kd_term)


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


def _logits_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    return logits_sum(student.logits, teacher.logits, settings.logits_temperature)


LOGITS = Term(needs=frozenset({"logits"}), teacher=True, count=masked_tokens, sum=_logits_term)


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


def _mlm_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    labels = batch["labels"]
    return torch.nn.functional.cross_entropy(student.logits, labels[labels != IGNORED], reduction="sum")


MLM = Term(needs=frozenset({"logits"}), teacher=False, count=masked_tokens, sum=_mlm_term)


TERMS: dict[str, Term] = {
    "mlm": MLM,
    "kd": KD,
    "attention": ATTENTION,
    "contrastive": CONTRASTIVE,
    "logits": LOGITS,
}


def needs_of(names: Iterable[str], teacher: bool = False) -> frozenset[Need]:
    """What the terms of a sum need of the student's forward pass, or of the teacher's."""
    chosen = [TERMS[name] for name in names]
    return frozenset().union(*(term.needs for term in chosen if term.teacher or not teacher))


def needs_mlm_head(names: Iterable[str]) -> bool:
    """Some term predicts masked tokens: it needs a trained MLM head, and text with masked tokens."""
    return "logits" in needs_of(names)
