"""TERMS, the losses that a pre-training objective can combine, and MEASURES, which only evaluation uses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from winning_tickets.config.objective import TEXT_NAMES
from winning_tickets.data.batches import MASKED_IDS, MASKED_POSITIONS, count_tokens
from winning_tickets.data.segments import parse_segments
from winning_tickets.models.architectures import Architecture
from winning_tickets.models.loading import Head
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.objectives.base import Batch, Need, Outputs, Term, TermSettings

_LEAST = torch.finfo(torch.float32).tiny
_LEAST_NORM = 1e-12
_LEAST_REST = 1e-6  # lowest probability of all other tokens together, as float32 cannot subtract more finely from 1

# Below, states and attention maps are L tensors, `(batch, seq, hidden)` and `(batch, heads, query, key)`, of the
# student and of the dense model (the teacher); `attention_mask` is `(batch, seq)`, 1 for tokens that count, or None
# if all count. Sums leave padding out by multiplication: indexing with booleans would make the host wait for a GPU.


def sum_over_tokens(values: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the sum of values `(..., batch, seq)` over the tokens that count."""
    return (values if attention_mask is None else values * attention_mask).sum()


def predicted_tokens(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return the tokens to predict `(n,)`, and a mask that is 1 where they count, or None if all count.

    These are the masked tokens, or all tokens but the first of each row if none are masked.
    """
    if MASKED_POSITIONS in batch:
        return batch[MASKED_IDS], None
    mask = batch.get("attention_mask")
    return batch["input_ids"][:, 1:].reshape(-1), None if mask is None else mask[:, 1:].reshape(-1)


LOGITS_AT_ONCE = 2**25
"""Logits in memory at a time; if there are more, they are computed in parts, and again in the backward pass."""


def _over_predictions(sums: Callable[..., Tensor], student: Outputs, batch: Batch, *others: Tensor) -> Tensor:
    """Add up `sums(logits, targets, counted, *others)` over the predicted tokens, in parts that fit into memory."""
    targets, counted = predicted_tokens(batch)

    def total(states: Tensor, targets: Tensor, counted: Tensor | None, *rest: Tensor) -> Tensor:
        return sums(student.logits_of(states), targets, counted, *rest)

    rows = max(1, LOGITS_AT_ONCE // max(1, student.vocabulary))
    if len(targets) <= rows:
        return total(student.predicting, targets, counted, *others)
    result = student.predicting.new_zeros((), dtype=torch.float32)
    for start in range(0, len(targets), rows):
        part = slice(start, start + rows)
        chunk = (student.predicting[part], targets[part], None if counted is None else counted[part])
        rest = [one[part] for one in others]
        if torch.is_grad_enabled():
            result = result + checkpoint(total, *chunk, *rest, use_reentrant=False, preserve_rng_state=False)
        else:
            result = result + total(*chunk, *rest)
    return result


def _cross_entropy_sum(logits: Tensor, targets: Tensor, counted: Tensor | None) -> Tensor:
    if counted is None:
        return functional.cross_entropy(logits, targets, reduction="sum")
    return (functional.cross_entropy(logits, targets, reduction="none") * counted).sum()


def _cross_entropy_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    return _over_predictions(_cross_entropy_sum, student, batch)


def kd_sum(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], attention_mask: Tensor | None) -> Tensor:
    """Return the sum over unpadded tokens of 1 - cosine, averaged over layers (TAMT eq. 6 before dividing by |x|)."""
    total: Tensor = _CosineDistance.apply(attention_mask, *student, *teacher)  # type: ignore[no-untyped-call]
    return total


class _CosineDistance(torch.autograd.Function):
    """`kd_sum`, differentiable in the states of the student; few passes over the states and few kernels."""

    # 1 - cosine is computed as (|a - b|^2 - (|a| - |b|)^2) / (2 |a| |b|), which is exactly zero for equal states.
    # Its gradient in a is cosine / |a|^2 * a - b / (|a| |b|).

    @staticmethod
    def forward(ctx: Any, attention_mask: Tensor | None, *states: Tensor) -> Tensor:
        layers = len(states) // 2
        norms = torch.empty((3, layers, *states[0].shape[:-1]), device=states[0].device)
        difference = torch.empty_like(states[0], dtype=torch.float32)
        for layer in range(layers):
            ours, theirs = states[layer].float(), states[layers + layer].float()
            if difference.shape != ours.shape:  # an output projection after the last layer of some OPT models
                difference = torch.empty_like(ours)
            torch.sub(ours, theirs, out=difference)
            for norm, vectors in zip(norms, (ours, theirs, difference), strict=True):
                torch.linalg.vector_norm(vectors, dim=-1, out=norm[layer])
        first, second, apart = norms
        first, second = first.clamp_(min=_LEAST_NORM), second.clamp_(min=_LEAST_NORM)
        distances = (apart.square_() - (first - second).square_()) / (2 * first * second)
        # Factors of both vectors in the gradient.
        scale = 1 / (layers * first * second)
        if attention_mask is not None:
            scale *= attention_mask
        ctx.save_for_backward((1 - distances) * scale * second / first, scale, *states)
        return sum_over_tokens(distances, attention_mask) / layers

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        own, other, *states = ctx.saved_tensors
        own, other = (own * gradient).unsqueeze(-1), (other * gradient).unsqueeze(-1)
        layers = len(states) // 2
        found: list[Tensor | None] = [None] * (1 + 2 * layers)
        for layer in range(layers):
            if ctx.needs_input_grad[1 + layer]:
                ours, theirs = states[layer], states[layers + layer]
                product = ours.float() * own[layer]
                found[1 + layer] = product.addcmul_(theirs.float(), other[layer], value=-1).to(ours.dtype)
        return tuple(found)


def kd_squared_sum(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], attention_mask: Tensor | None) -> Tensor:
    """Return the sum over unpadded tokens of the mean squared error of the states, averaged over layers."""
    # The released evaluation code of the KD loss computes this by default, instead of TAMT eq. 6.
    pairs = zip(student, teacher, strict=True)
    errors = [(ours.float() - theirs.float()).square().mean(dim=-1) for ours, theirs in pairs]
    return sum_over_tokens(torch.stack(errors), attention_mask) / len(student)


def _compared(batch: Batch, settings: TermSettings) -> Tensor | None:
    """Return the mask of the positions whose states are compared, `(batch, seq)`; None for all."""
    return None if settings.count_padding else batch.get("attention_mask")


def _kd_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    distance = kd_sum if settings.kd_error == "cosine" else kd_squared_sum
    ours, theirs = (
        tuple(states[layer - 1] for layer in settings.kd_layers) if settings.kd_layers else states
        for states in (student.states, teacher.states)
    )
    return distance(ours, theirs, _compared(batch, settings))


def attention_sum(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], attention_mask: Tensor | None) -> Tensor:
    """Return the sum over unpadded query tokens of KL(teacher || student), averaged over heads and layers, in nats."""
    # Padded keys have probability zero in both and add nothing.
    divergences = []
    for ours, theirs in zip(student, teacher, strict=True):
        ours, theirs = ours.float(), theirs.float()
        # A probability that has underflowed to zero would make the divergence infinite.
        divergence = theirs * (theirs.clamp(min=_LEAST).log() - ours.clamp(min=_LEAST).log())
        divergences.append(divergence.sum(-1).mean(1))
    return sum_over_tokens(torch.stack(divergences), attention_mask) / len(student)


def pooled(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the mean over unpadded tokens, scaled to length 1; `(batch, hidden)` in float32."""
    if attention_mask is None:
        mean = hidden.float().mean(1)
    else:
        kept = attention_mask.unsqueeze(-1).float()
        mean = (hidden.float() * kept).sum(1) / kept.sum(1)
    return functional.normalize(mean, dim=-1)


def contrastive_sum(student: Tensor, teacher: Tensor, attention_mask: Tensor | None, temperature: float) -> Tensor:
    """Return the sum of InfoNCE over segments: each is to find its own teacher state among those of the batch."""
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


def logits_sum(
    student: Tensor, teacher: Tensor, temperature: float, counted: Tensor | None = None, *, top_k: int | None = None
) -> Tensor:
    """Return the sum over predicted tokens of KL(teacher || student) in nats, not multiplied by the temperature."""
    # Both are logits `(n, vocabulary)` and are divided by the temperature; `counted` is `(n,)`, or None for all.
    ours = (student / temperature).log_softmax(-1)
    theirs = (teacher / temperature).log_softmax(-1)
    if top_k is not None and top_k < theirs.shape[-1]:
        theirs, places = theirs.topk(top_k, sorted=False)
        ours, theirs = _with_rest(ours.gather(-1, places)), _with_rest(theirs)
    divergence = theirs.exp() * (theirs - ours)
    return divergence.sum() if counted is None else (divergence.sum(-1) * counted).sum()


def _with_rest(logs: Tensor) -> Tensor:
    """Append the logarithm of the remaining probability to log-probabilities `(n, k)`."""
    whole = logs.logsumexp(-1, keepdim=True).clamp(max=-_LEAST_REST)
    return torch.cat([logs, (-torch.expm1(whole)).log()], -1)


def _logits_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    def divergence(logits: Tensor, targets: Tensor, counted: Tensor | None, theirs: Tensor) -> Tensor:
        with torch.no_grad():
            other = teacher.logits_of(theirs)
        return logits_sum(logits, other, settings.logits_temperature, counted, top_k=settings.logits_top_k)

    return _over_predictions(divergence, student, batch, teacher.predicting)


def _count_equal(first: Tensor, second: Tensor, counted: Tensor | None) -> Tensor:
    equal = (first == second).float()
    return (equal if counted is None else equal * counted).sum()


def _accuracy_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    def right(logits: Tensor, targets: Tensor, counted: Tensor | None) -> Tensor:
        return _count_equal(logits.argmax(-1), targets, counted)

    return _over_predictions(right, student, batch)


def _agreement_term(student: Outputs, teacher: Outputs, batch: Batch, settings: TermSettings) -> Tensor:
    def same(logits: Tensor, targets: Tensor, counted: Tensor | None, theirs: Tensor) -> Tensor:
        return _count_equal(logits.argmax(-1), teacher.logits_of(theirs).argmax(-1), counted)

    return _over_predictions(same, student, batch, teacher.predicting)


def unpadded_tokens(batch: Batch, settings: TermSettings) -> Tensor:
    """Return the number of tokens that are not padding, special tokens included."""
    return count_tokens(batch)


def predictions(batch: Batch, settings: TermSettings) -> Tensor:
    """Return the number of tokens that are predicted."""
    if MASKED_POSITIONS in batch:
        return torch.tensor(len(batch[MASKED_POSITIONS]))
    rows, mask = len(batch["input_ids"]), batch.get("attention_mask")
    return torch.tensor(batch["input_ids"].numel() - rows) if mask is None else mask[:, 1:].sum()


def _compared_tokens(batch: Batch, settings: TermSettings) -> Tensor:
    return torch.tensor(batch["input_ids"].numel()) if settings.count_padding else count_tokens(batch)


# The parameters of `count` are (batch, settings), those of `sum` (student, teacher, batch, settings).
TERMS: dict[str, Term] = {
    "mlm": Term(needs=frozenset({"logits"}), teacher=False, count=predictions, sum=_cross_entropy_term),
    "clm": Term(needs=frozenset({"logits"}), teacher=False, count=predictions, sum=_cross_entropy_term),
    "kd": Term(needs=frozenset({"states"}), teacher=True, count=_compared_tokens, sum=_kd_term),
    "attention": Term(
        needs=frozenset({"attentions"}),
        teacher=True,
        count=unpadded_tokens,
        sum=lambda s, t, batch, _: attention_sum(s.attentions, t.attentions, batch.get("attention_mask")),
    ),
    "contrastive": Term(
        needs=frozenset(),
        teacher=True,
        count=lambda batch, _: torch.tensor(len(batch["input_ids"])),
        sum=lambda s, t, batch, o: contrastive_sum(s.last, t.last, batch.get("attention_mask"), o.temperature),
    ),
    "logits": Term(
        needs=frozenset({"logits"}),
        teacher=True,
        count=predictions,
        sum=_logits_term,
    ),
}
MEASURES: dict[str, Term] = {
    "accuracy": Term(needs=frozenset({"logits"}), teacher=False, count=predictions, sum=_accuracy_term),
    "agreement": Term(needs=frozenset({"logits"}), teacher=True, count=predictions, sum=_agreement_term),
}
ALL_TERMS = TERMS | MEASURES


def needs_of(names: Iterable[str], *, teacher: bool = False) -> frozenset[Need]:
    """Return the outputs that the terms need from the student's forward pass, or from the teacher's."""
    chosen = [ALL_TERMS[name] for name in names]
    return frozenset().union(*(term.needs for term in chosen if term.teacher or not teacher))


def needs_teacher(names: Iterable[str]) -> bool:
    """Return whether a term compares with the dense model."""
    return any(ALL_TERMS[name].teacher for name in names)


def needs_lm_head(names: Iterable[str]) -> bool:
    """Return whether a term predicts tokens, which takes a trained language-model head, and masks in an encoder."""
    return "logits" in needs_of(names)


def lm_head_of(names: Collection[str]) -> Head:
    """Return the head that terms need: `mlm` or `clm` if it is a term, else `lm` for logits, else `none`."""
    found = [name for name in TEXT_NAMES if name in names]
    if len(found) > 1:
        raise UsageError("The objective mlm is for encoders and clm for decoders; give one of them.")
    if found:
        return cast(Head, found[0])
    return "lm" if needs_lm_head(names) else "none"


def check_mlm_tokenizer(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer without mask token for objectives that predict masked tokens."""
    if tokenizer.mask_token_id is None:
        raise UsageError(f"The tokenizer of {name} has no mask token, so it has no MLM objective; use --objective kd.")


def lm_logits(model: Any, architecture: Architecture, states: Tensor) -> Tensor:
    """Return logits `(n, vocabulary)` in float32 of last hidden states `(n, hidden)`, by a language-model head."""
    for name in architecture.lm_head:
        states = getattr(model, name)(states)
    states = states.float()
    cap = getattr(model.config, "final_logit_softcapping", None)  # Gemma 2
    return states if cap is None else cap * torch.tanh(states / cap)
