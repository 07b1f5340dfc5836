"""OBJECTIVES: what is minimised, as sums and counts, so that micro-batches of any size average correctly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from winning_tickets.errors import UsageError, unknown
from winning_tickets.masking import MaskedWeights, modes
from winning_tickets.plm import Architecture

Batch = Mapping[str, Tensor]
IGNORED = -100
"""Label of positions that are not scored."""


class Objective(Protocol):
    """A loss as sums: `loss = sum over parts of weight * sum / count`, counts taken over the whole optimiser step."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each part."""

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What each part's sum must be divided by: tokens, masked tokens, examples; scalars."""

    def __call__(self, model: Any, batch: Batch, /) -> dict[str, Tensor]:
        """Each part's differentiable sum over the batch."""


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
        difference = torch.nn.functional.normalize(ours.float(), dim=-1) - theirs
        if padded:
            difference = difference[attention_mask.bool()]
        total = total + difference.square().sum()
    return total / (2 * len(student))


def mlm_logits(model: Any, architecture: Architecture, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits at masked positions only (15 % of them), never for the whole sequence.

    Args:
        model: a ForMaskedLM model.
        architecture: its entry, which names the modules of the head.
        hidden: last hidden states `(batch, seq, hidden)`.
        labels: `(batch, seq)`, -100 where nothing is predicted.

    Returns:
        Logits `(masked, vocabulary)` in float32 and targets `(masked,)`.
    """
    chosen = labels != IGNORED
    states = hidden[chosen]
    for name in architecture.mlm_head:
        states = getattr(model, name)(states)
    return states.float(), labels[chosen]


class PretrainingObjective:
    """MLM, hidden-state distillation, or a weighted sum of both, with one forward pass of the student.

    Args:
        weights: weight of each part; names from `kd`, `mlm`.
        architecture: entry of the model's family.
        masked: holds the dense weights, which are swapped in for the teacher; needed for `kd`.
        teacher_dropout: leave dropout on in the teacher, as the released KD code does.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        architecture: Architecture,
        masked: MaskedWeights | None = None,
        teacher_dropout: bool = False,
    ) -> None:
        self.weights = dict(weights)
        self._architecture = architecture
        self._masked = masked
        self._teacher_dropout = teacher_dropout

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Unpadded tokens for `kd`, masked tokens for `mlm`."""
        counted = {
            "kd": lambda: batch["attention_mask"].sum(),
            "mlm": lambda: (batch["labels"] != IGNORED).sum(),
        }
        return {name: counted[name]() for name in self.weights}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Sums of the parts; the teacher runs and is swapped out before the student's forward pass."""
        return self.forward(model, batch)[0]

    def forward(self, model: Any, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Sums of the parts, and the number of masked tokens predicted correctly (None without `mlm`)."""
        teacher = self._teach(model, batch) if "kd" in self.weights else None
        output = _encode(model, batch, hidden_states=teacher is not None)
        sums: dict[str, Tensor] = {}
        correct = None
        if teacher is not None:
            sums["kd"] = kd_sum(output.hidden_states[1:], teacher, batch["attention_mask"])
        if "mlm" in self.weights:
            logits, targets = mlm_logits(model, self._architecture, output.last_hidden_state, batch["labels"])
            sums["mlm"] = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
            correct = (logits.detach().argmax(-1) == targets).sum()
        return sums, correct

    @torch.no_grad()
    def _teach(self, model: Any, batch: Batch) -> tuple[Tensor, ...]:
        if self._masked is None:
            raise ValueError("The KD objective needs the dense weights (masked=...).")
        with modes(model, training=self._teacher_dropout), self._masked.dense():
            states = _encode(model, batch, hidden_states=True).hidden_states[1:]
        return tuple(torch.nn.functional.normalize(state.float(), dim=-1) for state in states)


def _encode(model: Any, batch: Batch, hidden_states: bool) -> Any:
    return model.base_model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        output_hidden_states=hidden_states,
    )


OBJECTIVES: dict[str, dict[str, float]] = {
    "kd": {"kd": 1.0},
    "mlm": {"mlm": 1.0},
    "mlm+kd": {"mlm": 1.0, "kd": 1.0},
}


def objective_weights(name: str) -> dict[str, float]:
    """The parts of an objective and their weights.

    Raises:
        UsageError: unknown objective.
    """
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    return dict(OBJECTIVES[name])


class TaskObjective:
    """Cross entropy, or squared error for regression, of a sequence classification model."""

    def __init__(self, regression: bool) -> None:
        self.weights = {"loss": 1.0}
        self._regression = regression

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Number of examples."""
        return {"loss": torch.tensor(batch["labels"].numel(), device=batch["labels"].device)}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Sum of the examples' losses."""
        labels = batch["labels"]
        logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits.float()
        if self._regression:
            loss = torch.nn.functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")
        else:
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return {"loss": loss}


def check_mlm_tokenizer(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer without mask token for MLM.

    Raises:
        UsageError: it has none.
    """
    if tokenizer.mask_token_id is None:
        raise UsageError(
            f"The tokenizer of {name} has no mask token, so there is no MLM objective; use --objective kd."
        )
