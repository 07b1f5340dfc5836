"""The objective of mask training: a weighted sum of terms, with one forward pass of student and teacher each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from winning_tickets.architectures import Architecture
from winning_tickets.masking import MaskedWeights, modes
from winning_tickets.objectives.base import IGNORED, Batch, Outputs, TermSettings
from winning_tickets.objectives.passes import run_encoder
from winning_tickets.objectives.terms import TERMS, needs_of


class PretrainingObjective:
    """A weighted sum of `TERMS`, with one forward pass of the student and at most one of the teacher.

    The teacher is the dense model: the same module with its dense weights put back for the time of its pass.

    Args:
        weights: weight of each term.
        architecture: entry of the model's family.
        masked: holds the dense weights, which are swapped in for the teacher; terms with a teacher need it.
        teacher_dropout: leave dropout on in the teacher, as the released KD code does.
        settings: how the terms compute.
        teacher_head: what gives the teacher's logits; None means the model's own MLM head as it is at that step.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        architecture: Architecture,
        masked: MaskedWeights | None = None,
        teacher_dropout: bool = False,
        settings: TermSettings | None = None,
        teacher_head: Any = None,
    ) -> None:
        self.weights = dict(weights)
        self._architecture = architecture
        self._masked = masked
        self._teacher_dropout = teacher_dropout
        self._settings = settings or TermSettings()
        self._teacher_head = teacher_head
        self._has_teacher = any(TERMS[name].teacher for name in self.weights)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What each term's sum is divided by: tokens, masked tokens or segments."""
        return {name: TERMS[name].count(batch, self._settings) for name in self.weights}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Sums of the terms; the teacher runs and is swapped out before the student's forward pass."""
        return self.forward(model, batch)[0]

    def forward(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Sums of the terms, and the number of masked tokens predicted correctly (None without `mlm`)."""
        teacher = self._teach(model, batch) if self._has_teacher else Outputs()
        student = run_encoder(model, batch, needs_of(self.weights), self._architecture)
        sums = {name: TERMS[name].sum(student, teacher, batch, self._settings) for name in self.weights}
        correct = None
        if "mlm" in self.weights:
            targets = batch["labels"][batch["labels"] != IGNORED]
            correct = (student.logits.detach().argmax(-1) == targets).sum()
        return sums, correct

    @torch.no_grad()
    def _teach(self, model: Any, batch: Batch) -> Outputs:
        if self._masked is None:
            raise ValueError("Objectives with a teacher need the dense weights (masked=...).")
        needs = needs_of(self.weights, teacher=True)
        with modes(model, training=self._teacher_dropout), self._masked.dense():
            return run_encoder(model, batch, needs, self._architecture, self._teacher_head)
