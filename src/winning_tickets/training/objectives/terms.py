"""TERMS: the losses that a pre-training objective can be a sum of."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from winning_tickets.data.encode import IGNORED
from winning_tickets.data.segments import parse_segments
from winning_tickets.models.architectures import Architecture
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.objectives.base import Batch, Need, Outputs, Term, TermSettings

_LEAST = torch.finfo(torch.float32).tiny

# Below, states and attention maps are L tensors, `(batch, seq, hidden)` and `(batch, heads, query, key)`, of the
# student and of the dense model (the teacher); `attention_mask` is `(batch, seq)`, 1 for tokens that count.


def _mlm_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    labels = batch["labels"]
    return functional.cross_entropy(student.logits, labels[labels != IGNORED], reduction="sum")


def kd_sum(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], attention_mask: Tensor) -> Tensor:
    """Sum over unpadded tokens of 1 - cosine, averaged over layers (TAMT eq. 6 before dividing by |x|)."""
    # Computed as half the squared distance of the normalized states, which equals 1 - cosine and is exactly zero for
    # equal states.
    total = student[0].new_zeros((), dtype=torch.float32)
    padded = not bool(attention_mask.all())
    for ours, theirs in zip(student, teacher, strict=True):
        difference = functional.normalize(ours.float(), dim=-1) - functional.normalize(theirs.float(), dim=-1)
        if padded:
            difference = difference[attention_mask.bool()]
        total = total + difference.square().sum()
    return total / (2 * len(student))


def kd_squared_sum(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], attention_mask: Tensor) -> Tensor:
    """Sum over unpadded tokens of the mean squared error of the states, averaged over layers."""
    # The released evaluation code of the KD loss computes this by default, instead of TAMT eq. 6.
    counted = attention_mask.bool()
    total = student[0].new_zeros((), dtype=torch.float32)
    for ours, theirs in zip(student, teacher, strict=True):
        total = total + (ours.float() - theirs.float())[counted].square().mean(dim=-1).sum()
    return total / len(student)


def _compared(batch: Batch, settings: TermSettings) -> Tensor:
    """Mask of the positions whose states are compared, `(batch, seq)`."""
    attention_mask = batch["attention_mask"]
    return torch.ones_like(attention_mask) if settings.count_padding else attention_mask


def _kd_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    distance = kd_sum if settings.kd_error == "cosine" else kd_squared_sum
    return distance(student.states, teacher.states, _compared(batch, settings))


def attention_sum(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], attention_mask: Tensor) -> Tensor:
    """Sum over unpadded query tokens of KL(teacher || student), averaged over heads and layers; natural logarithm."""
    # Padded keys have probability zero in both and add nothing.
    queries = attention_mask.bool()
    total = student[0].new_zeros((), dtype=torch.float32)
    for ours, theirs in zip(student, teacher, strict=True):
        ours, theirs = ours.float(), theirs.float()
        # A probability that has underflowed to zero would make the divergence infinite.
        divergence = theirs * (theirs.clamp(min=_LEAST).log() - ours.clamp(min=_LEAST).log())
        total = total + divergence.sum(-1).mean(1)[queries].sum()
    return total / len(student)


def pooled(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over unpadded tokens, scaled to length 1; `(batch, hidden)` in float32."""
    kept = attention_mask.unsqueeze(-1).float()
    mean = (hidden.float() * kept).sum(1) / kept.sum(1)
    return functional.normalize(mean, dim=-1)


def contrastive_sum(student: Tensor, teacher: Tensor, attention_mask: Tensor, temperature: float) -> Tensor:
    """Sum over segments of InfoNCE: the teacher's state of the same segment among those of all in the batch."""
    # Takes the last hidden states `(batch, seq, hidden)`. A single segment has no negatives: the sum and its gradient
    # are zero.
    with torch.autocast(student.device.type, enabled=False):  # bfloat16 cosines over 0.05 are off by several percent
        cosines = pooled(student, attention_mask) @ pooled(teacher, attention_mask).T
        own = torch.arange(len(cosines), device=cosines.device)
        return functional.cross_entropy(cosines / temperature, own, reduction="sum")


def check_negatives(segments: str, batch_tokens: int) -> None:
    """Refuse segments (such as `packed:128`) of which a batch may hold only one: it would have no negatives."""
    longest = parse_segments(segments).longest
    if 2 * longest > batch_tokens:
        raise UsageError(
            f"The contrastive objective compares the segments of a batch with each other, and of {segments} batches of "
            f"{batch_tokens} tokens may hold one alone; raise --batch-tokens to at least {2 * longest}, better more, "
            "or use shorter segments."
        )


def logits_sum(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Sum over masked positions of KL(teacher || student), natural logarithm; not multiplied by the temperature."""
    # Both are logits `(masked, vocabulary)` and are divided by the temperature.
    ours = (student / temperature).log_softmax(-1)
    theirs = (teacher / temperature).log_softmax(-1)
    return (theirs.exp() * (theirs - ours)).sum()


def unpadded_tokens(batch: Batch, settings: TermSettings) -> Tensor:
    """Number of tokens that are not padding, special tokens included."""
    return batch["attention_mask"].sum()


def masked_tokens(batch: Batch, settings: TermSettings) -> Tensor:
    """Number of positions at which a token is predicted."""
    return (batch["labels"] != IGNORED).sum()


# The parameters of `count` are (batch, settings), those of `sum` (student, teacher, batch, settings).
TERMS: dict[str, Term] = {
    "mlm": Term(needs=frozenset({"logits"}), teacher=False, count=masked_tokens, sum=_mlm_term),
    "kd": Term(needs=frozenset({"states"}), teacher=True, count=lambda b, o: _compared(b, o).sum(), sum=_kd_term),
    "attention": Term(
        needs=frozenset({"attentions"}),
        teacher=True,
        count=unpadded_tokens,
        sum=lambda s, t, batch, _: attention_sum(s.attentions, t.attentions, batch["attention_mask"]),
    ),
    "contrastive": Term(
        needs=frozenset(),
        teacher=True,
        count=lambda batch, _: torch.tensor(len(batch["input_ids"]), device=batch["input_ids"].device),
        sum=lambda s, t, batch, o: contrastive_sum(s.last, t.last, batch["attention_mask"], o.temperature),
    ),
    "logits": Term(
        needs=frozenset({"logits"}),
        teacher=True,
        count=masked_tokens,
        sum=lambda s, t, batch, o: logits_sum(s.logits, t.logits, o.logits_temperature),
    ),
}


def needs_of(names: Iterable[str], teacher: bool = False) -> frozenset[Need]:
    """Outputs that the terms need of the student's forward pass, or of the teacher's."""
    chosen = [TERMS[name] for name in names]
    return frozenset().union(*(term.needs for term in chosen if term.teacher or not teacher))


def needs_mlm_head(names: Iterable[str]) -> bool:
    """Return whether a term predicts masked tokens: it needs a trained MLM head and text with masked tokens."""
    return "logits" in needs_of(names)


def check_mlm_tokenizer(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer without mask token for objectives that predict masked tokens."""
    if tokenizer.mask_token_id is None:
        raise UsageError(f"The tokenizer of {name} has no mask token, so it has no MLM objective; use --objective kd.")


def mlm_logits(head: Any, architecture: Architecture, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits at masked positions only (15 % of them), and their targets.
    Of last hidden states `(batch, seq, hidden)` and labels `(batch, seq)`, -100 where nothing is predicted, the logits
    are `(masked, vocabulary)` in float32. `head` is a ForMaskedLM model, or a `frozen_head` of one.
    """
    chosen = labels != IGNORED
    states = hidden[chosen]
    for name in architecture.mlm_head:
        states = getattr(head, name)(states)
    return states.float(), labels[chosen]


def frozen_head(model: Any, architecture: Architecture) -> SimpleNamespace:
    """Copy the MLM head of a model for a teacher, before the model's own head is trained or replaced."""
    # The decoder matrix is shared: a search never trains it, and it is by far the largest part.
    decoder = model.get_submodule(architecture.mlm_decoder)
    known = {id(decoder.weight): decoder.weight}
    head = {name: copy.deepcopy(getattr(model, name), known) for name in architecture.mlm_head}
    for module in head.values():
        if isinstance(module, torch.nn.Module):  # DistilBERT's activation may be a plain function
            module.eval()
    return SimpleNamespace(**head)
