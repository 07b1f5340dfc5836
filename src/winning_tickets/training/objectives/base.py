"""Objectives as sums and counts: the protocol, the outputs of a forward pass, and the record of a term."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Batch = Mapping[str, Tensor]
"""A batch of text: `input_ids`, `attention_mask` if rows are padded, and for MLM positions and ids of masked tokens.

Without masked tokens a model with a head predicts the next token at every position but the last.
"""

Need = Literal["states", "attentions", "logits"]
"""An output of a forward pass that a term reads: states of all layers, attention maps, logits of predicted tokens."""


class Objective(Protocol):
    """A loss as sums: `loss = sum over parts of weight * sum / count`, counts taken over the whole optimizer step."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weight of each part."""

    def counts(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the divisor of each part's sum: a number of tokens, masked tokens or examples, as a scalar.

        It is on the device of the batch, or on the CPU if it follows from shapes alone.
        """

    def __call__(self, model: Any, batch: Mapping[str, Any], /) -> dict[str, Tensor]:
        """Return the differentiable sum of each part over the batch."""


@dataclass(frozen=True)
class Outputs:
    """Outputs of one forward pass; those that no term needs are empty."""

    last: Tensor = field(default_factory=lambda: torch.empty(0))  # of the last layer, `(batch, seq, hidden)`
    states: tuple[Tensor, ...] = ()  # output of each layer, L of `(batch, seq, hidden)`
    attentions: tuple[Tensor, ...] = ()  # attention distributions, L of `(batch, heads, query, key)`
    predicting: Tensor = field(
        default_factory=lambda: torch.empty(0)
    )  # last states where a token is predicted, `(n, hidden)`
    logits_of: Callable[[Tensor], Tensor] = lambda states: (
        states
    )  # the head: `(n, hidden)` to `(n, vocabulary)`, float32
    vocabulary: int = 0

    @property
    def logits(self) -> Tensor:
        """All logits at once."""
        return self.logits_of(self.predicting)


@dataclass(frozen=True)
class TermSettings:
    """Settings of the terms."""

    kd_error: Literal["cosine", "mse"] = "cosine"  # of `kd`: 1 - cosine (TAMT eq. 6), or mean squared error
    count_padding: bool = False  # whether padded positions count in `kd`, as in the released code
    temperature: float = 0.05  # of `contrastive`
    logits_temperature: float = 1.0  # of `logits`
    logits_top_k: int | None = None  # how many of the most probable tokens `logits` compares one by one; None for all
    kd_layers: tuple[int, ...] = ()  # layers that `kd` compares, counted from 1; empty for all


@dataclass(frozen=True)
class Term:
    """One term of a pre-training objective."""

    needs: frozenset[Need]  # outputs of a forward pass that it reads, in addition to the last layer's
    teacher: bool  # whether it compares with the dense model; otherwise the second `Outputs` of `sum` are empty
    count: Callable[[Batch, TermSettings], Tensor]  # divisor of the sum over all micro-batches of a step; a scalar
    sum: Callable[[Outputs, Outputs, Batch, TermSettings], Tensor]  # differentiable; of the student and the teacher
