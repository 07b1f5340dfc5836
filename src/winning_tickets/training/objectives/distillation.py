"""The losses between a small model and the dense one that it was made from: states, embeddings, outputs of the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from winning_tickets.data.batches import count_tokens
from winning_tickets.data.records import Kind
from winning_tickets.models.architectures import Architecture
from winning_tickets.training.objectives.base import Batch, Outputs, TermSettings
from winning_tickets.training.objectives.pretraining import run_encoder
from winning_tickets.training.objectives.task import kl_sum, model_inputs, task_logits
from winning_tickets.training.objectives.terms import kd_sum, logits_sum, predictions, sum_over_tokens
from winning_tickets.training.objectives.terms import pooled as mean_pooled

HeadKind = Kind | Literal["mlm"]


def similarity_sum(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the sum over texts of the mean squared difference of their cosines with the other texts of the batch."""
    # Takes embeddings of length 1, `(batch, hidden)`. The diagonal is 1 in both.
    if len(student) < 2:
        return student.sum() * 0
    difference = student @ student.T - teacher @ teacher.T
    return difference.square().sum() / (len(student) - 1)


def _of_tokens(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    divergences = functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)
    return sum_over_tokens(divergences, mask)


def _of_spans(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return half the divergence of the starts plus half that of the ends, over the positions of a text."""
    padding = ~mask.bool().unsqueeze(-1)
    ours, theirs = (logits.masked_fill(padding, -1e4).transpose(1, 2) for logits in (student, teacher))
    return kl_sum(ours, theirs) / 2


def _of_sets(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="sum")


_HEADS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "classification": lambda student, teacher, _: kl_sum(student, teacher),
    "regression": lambda student, teacher, _: functional.mse_loss(student, teacher, reduction="sum"),
    "multilabel": _of_sets,
    "tokens": _of_tokens,
    "span": _of_spans,
    "mlm": lambda student, teacher, _: logits_sum(student, teacher, 1.0),
}
"""Distances between the outputs of two heads, by their kind, added up over examples, tokens or masked positions."""


@dataclass(eq=False)
class Distillation:
    """A weighted sum of `states`, `pooled`, `similarity` and `logits`."""

    weights: Mapping[str, float]
    architecture: Architecture
    teacher: Any  # the dense model, in evaluation mode
    layers: Sequence[int]  # of the teacher, which the student's layers are compared with
    head: HeadKind | None = None
    pooling: Literal["mean", "cls"] = "mean"
    places: Tensor | None = None  # new number of each token, if the student has a smaller vocabulary

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return the divisor of each part: unpadded tokens, texts, or the predictions of the head."""
        tokens, texts = count_tokens(batch), torch.tensor(len(batch["input_ids"]))
        of_head = {"tokens": tokens, "mlm": predictions(batch, TermSettings()) if self.head == "mlm" else texts}
        found = {"states": tokens, "pooled": texts, "similarity": texts, "logits": of_head.get(str(self.head), texts)}
        return {name: found[name] for name in self.weights}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of each part over the batch."""
        teacher = self.dense_outputs(batch)
        own = dict(batch)
        if self.places is not None:
            own["input_ids"] = self.places.to(own["input_ids"].device)[own["input_ids"]]
        return self.compare(self.outputs(model, own), teacher, batch)

    def compare(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of each part from outputs of both models; `layers` belong to the student's last layers."""
        mask = batch.get("attention_mask")
        sums: dict[str, Tensor] = {}
        if "states" in self.weights:
            states = tuple(teacher.states[layer] for layer in self.layers)
            sums["states"] = kd_sum(student.states[-len(states) :], states, mask)
        if {"pooled", "similarity"} & set(self.weights):
            with torch.autocast(batch["input_ids"].device.type, enabled=False):
                ours, theirs = (self._pooled(outputs.last, mask) for outputs in (student, teacher))
                if "pooled" in self.weights:
                    sums["pooled"] = (1 - (ours * theirs).sum(-1)).sum()
                if "similarity" in self.weights:
                    sums["similarity"] = similarity_sum(ours, theirs)
        if "logits" in self.weights:
            every = torch.ones_like(batch["input_ids"]) if mask is None else mask
            sums["logits"] = _HEADS[str(self.head)](student.logits.float(), teacher.logits.float(), every)
        return {name: sums[name] for name in self.weights}

    def _pooled(self, last: Tensor, mask: Tensor | None) -> Tensor:
        if self.pooling == "cls":
            return functional.normalize(last[:, 0].float(), dim=-1)
        return mean_pooled(last, mask)

    def dense_outputs(self, batch: Batch) -> Outputs:
        """Run the teacher on a batch, without gradients."""
        with torch.no_grad():
            return self.outputs(self.teacher, batch)

    def outputs(self, model: Any, batch: Batch) -> Outputs:
        """Run a model on a batch and return the outputs that are compared."""
        if self.head in (None, "mlm") or "logits" not in self.weights:
            needs = {"states", *({"logits"} & set(self.weights))}
            return run_encoder(model, batch, needs, self.architecture)  # type: ignore[arg-type]
        output = model(**model_inputs(model, batch), output_hidden_states=True)
        states = output.hidden_states[1:]
        return Outputs(states[-1], states, predicting=task_logits(output))  # the default head passes them on


class HeadProbe:
    """Objective to differentiate: the log-likelihood of labels that are drawn from the model's own predictions."""

    # Its mean squared gradients are the Fisher information of the outputs. To second order, the divergence of the
    # outputs after a change is half the squared length of the change, measured by this information.

    def __init__(self, head: Kind, seed: int) -> None:
        self.weights = {"logits": 1.0}
        self._head = head
        self._generator = torch.Generator().manual_seed(seed)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"logits": torch.tensor(len(batch["input_ids"]))}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the sum over the batch; for regression and label sets, that of the outputs times random signs."""
        logits = task_logits(model(**model_inputs(model, batch))).float()
        if self._head in ("regression", "multilabel"):
            signs = torch.randint(0, 2, logits.shape, generator=self._generator).to(logits) * 2 - 1
            return {"logits": (logits * signs).sum()}
        if self._head == "span":
            logits = logits.transpose(1, 2)
        chances = logits.log_softmax(-1).flatten(0, -2)
        drawn = torch.multinomial(chances.detach().exp().cpu(), 1, generator=self._generator).to(chances.device)
        return {"logits": chances.gather(-1, drawn).sum()}
