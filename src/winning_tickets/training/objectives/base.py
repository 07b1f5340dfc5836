"""What all objectives share: a loss as sums and counts, what forward passes give, and the record of a term."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Batch = Mapping[str, Tensor]
IGNORED = -100
"""Label of positions that are not scored."""

Need = Literal["states", "attentions", "logits"]
"""What a term asks of a forward pass: the output of every layer, the attention maps, the logits at masked positions."""


class Objective(Protocol):
    """A loss as sums: `loss = sum over parts of weight * sum / count`, counts taken over the whole optimiser step."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each part."""

    def counts(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """What each part's sum must be divided by: tokens, masked tokens, examples; scalars."""

    def __call__(self, model: Any, batch: Mapping[str, Any], /) -> dict[str, Tensor]:
        """Each part's differentiable sum over the batch."""


@dataclass(frozen=True)
class Outputs:
    """What one forward pass gave; empty where no term asks for it.

    Attributes:
        last: the last layer's output `(batch, seq, hidden)`, which always comes.
        states: the output of each layer, L of `(batch, seq, hidden)`.
        attentions: the attention distributions of each layer, L of `(batch, heads, query, key)`.
        logits: `(masked, vocabulary)` in float32.
    """

    last: Tensor = field(default_factory=lambda: torch.empty(0))
    states: tuple[Tensor, ...] = ()
    attentions: tuple[Tensor, ...] = ()
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class TermSettings:
    """How terms compute.

    Attributes:
        kd_error: `kd` of the hidden states: 1 - `cosine` (TAMT eq. 6) or `mse`.
        count_padding: padded positions count in `kd`, as in the released KD code.
        temperature: of `contrastive`.
        logits_temperature: of `logits`.
    """

    kd_error: Literal["cosine", "mse"] = "cosine"
    count_padding: bool = False
    temperature: float = 0.05
    logits_temperature: float = 1.0


@dataclass(frozen=True)
class Term:
    """One term of a pre-training objective.

    Attributes:
        needs: what it reads of a forward pass beside the last layer's output.
        teacher: it compares with the dense model; else the second `Outputs` of `sum` are empty.
        count: what the sum is divided by, over all micro-batches of a step; a scalar.
        sum: the differentiable sum over a batch, of the student's outputs and the teacher's.
    """

    needs: frozenset[Need]
    teacher: bool
    count: Callable[[Batch, TermSettings], Tensor]
    sum: Callable[[Outputs, Outputs, Batch, TermSettings], Tensor]


def unpadded_tokens(batch: Batch, settings: TermSettings) -> Tensor:
    """Number of tokens that are not padding, specials included."""
    return batch["attention_mask"].sum()


def masked_tokens(batch: Batch, settings: TermSettings) -> Tensor:
    """Number of positions at which a token is predicted."""
    return (batch["labels"] != IGNORED).sum()
