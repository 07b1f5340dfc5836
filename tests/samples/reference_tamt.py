"""A naive mask training in plain torch: what the TAMT paper and its released programs compute, step by step.

The oracle of tests/test_profiles.py. It imports nothing of the package: masks are products in the graph with a
straight-through gradient, logits are taken at all positions, the teacher is a second model, Adam is written out, and a
threshold is found by sorting. The numbers of `RECIPES` are typed from the paper (Table 1, eq. 3 to 6) and from what is
known of the programs, not read from a profile.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM

from samples.batches import plain


@dataclass(frozen=True)
class Recipe:
    """What the paper or a program does with the scores."""

    adam: str  # torch: epsilon after the bias correction; early: before it; none: no correction
    epsilon: float
    decay: float
    clip: str  # all: one norm over scores and head; each: tensor by tensor
    absolute: bool  # rank by absolute score
    at_least: bool  # between adjustments keep what is >= the threshold
    adjusts: Callable[[int, int], bool]  # (step from 1, steps between adjustments)
    padding_counts: bool


def every(step: int, interval: int) -> bool:
    return step % interval == 0


def first_and_early(step: int, interval: int) -> bool:
    return step == 1 or (step + 1) % interval == 0


_PAPER = Recipe("torch", 1e-8, 0.0, "all", False, True, every, False)
_MLM_PROGRAM = Recipe("early", 1e-8, 0.0, "all", False, False, every, False)
RECIPES = {
    ("paper", "mlm"): _PAPER,
    ("paper", "kd"): _PAPER,
    ("paper", "mlm+kd"): _PAPER,
    ("code", "mlm"): _MLM_PROGRAM,
    ("code", "kd"): Recipe("none", 1e-6, 0.01, "each", False, False, first_and_early, True),
    ("code", "mlm+kd"): _MLM_PROGRAM,
}


class StraightThrough(torch.autograd.Function):
    """The mask forwards, the gradient of the mask as that of the scores backwards (TAMT eq. 4)."""

    @staticmethod
    def forward(context: Any, scores: Tensor, mask: Tensor) -> Tensor:
        return mask.to(scores.dtype)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


class Adam:
    """Adam by the book, or as in the released programs; one object a tensor."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.step = recipe, 0
        self.first: Tensor | None = None
        self.second: Tensor | None = None

    def move(self, value: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """The new value."""
        recipe = self.recipe
        self.step += 1
        if self.first is None or self.second is None:
            self.first, self.second = torch.zeros_like(value), torch.zeros_like(value)
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        if recipe.adam == "none":
            return value - rate * (self.first / (self.second.sqrt() + recipe.epsilon) + recipe.decay * value)
        seen1, seen2 = 1 - 0.9**self.step, 1 - 0.999**self.step
        if recipe.adam == "torch":
            value = value - rate * recipe.decay * value
            return value - rate * (self.first / seen1) / ((self.second / seen2).sqrt() + recipe.epsilon)
        value = value - rate * math.sqrt(seen2) / seen1 * self.first / (self.second.sqrt() + recipe.epsilon)
        return value - rate * recipe.decay * value


def keep(keys: Tensor, weights: Tensor, sparsity: float) -> Tensor:
    """Prune floor(s * n) entries: the lowest keys; of equal ones the smaller weight, then the higher index."""
    count = int(sparsity * keys.numel() + 1e-9)
    flat, magnitude = keys.reshape(-1).tolist(), weights.abs().reshape(-1).tolist()
    order = sorted(range(len(flat)), key=lambda i: (flat[i], magnitude[i], -i))
    mask = torch.ones(len(flat), dtype=torch.bool)
    mask[order[:count]] = False
    return mask.view(keys.shape)


class NaiveMaskTraining:
    """Mask training of a BERT folder.

    Args:
        folder: the model.
        objective: `mlm`, `kd` or `mlm+kd`.
        recipe: the arithmetic.
        names: encoder names of the trained matrices.
        sparsity: fraction pruned of each.
        rate: peak learning rate of the scores.
        head_rate: of the MLM head.
        horizon: steps after which the rates are zero.
        interval: steps between adjustments.
        norm: gradients are clipped to it.
        alpha, phi: of TAMT eq. 3 and 5.
    """

    def __init__(
        self,
        folder: str,
        objective: str,
        recipe: Recipe,
        names: list[str],
        *,
        sparsity: float,
        rate: float,
        head_rate: float,
        horizon: int,
        interval: int,
        norm: float,
        alpha: float = 2.0,
        phi: float = 0.01,
    ) -> None:
        self.parts, self.recipe, self.names, self.sparsity = objective.split("+"), recipe, names, sparsity
        self.rate, self.head_rate, self.horizon, self.interval, self.norm = rate, head_rate, horizon, interval, norm
        kind = AutoModelForMaskedLM if "mlm" in self.parts else AutoModel
        silent = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        self.student = kind.from_pretrained(folder, **silent).train()
        self.teacher = copy.deepcopy(self.student).eval()
        self.prefix = "bert." if "mlm" in self.parts else ""
        inside = {f"{self.prefix}{name}" for name, _ in self.student.base_model.named_parameters()}
        self.head = {}
        for name, parameter in self.student.named_parameters():
            parameter.requires_grad_("mlm" in self.parts and name not in inside)
            if parameter.requires_grad:
                self.head[name] = parameter
        parameters = dict(self.student.named_parameters())
        self.dense = {name: parameters[self.prefix + name].detach().clone() for name in names}
        self.masks = {name: keep(w.abs(), w, sparsity) for name, w in self.dense.items()}
        self.scores = {name: mask.float() * (alpha * phi) for name, mask in self.masks.items()}
        self.thresholds = dict.fromkeys(names, phi)
        self.adam = {name: Adam(recipe) for name in [*names, *self.head]}
        self.steps = 0

    def step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """One step; the losses before it."""
        scores = {name: score.clone().requires_grad_(True) for name, score in self.scores.items()}
        effective = {
            self.prefix + name: self.dense[name] * StraightThrough.apply(scores[name], self.masks[name])
            for name in self.names
        }
        losses = self.losses(effective, batch)
        leaves = {**scores, **self.head}
        found = torch.autograd.grad(sum(losses.values()), list(leaves.values()))
        gradients = self.clipped(dict(zip(leaves, found, strict=True)))
        left = max(0.0, 1 - self.steps / self.horizon)
        self.steps += 1
        for name in self.names:
            self.scores[name] = self.adam[name].move(self.scores[name], gradients[name], self.rate * left)
        with torch.no_grad():
            for name, parameter in self.head.items():
                parameter.copy_(self.adam[name].move(parameter.detach(), gradients[name], self.head_rate * left))
        for name in self.names:
            self.binarise(name)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def losses(self, effective: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means: over predicted tokens, and over layers and positions."""
        batch = plain(batch)
        inputs = {name: value for name, value in batch.items() if name != "labels"} | {"output_hidden_states": True}
        # The decoder is tied to the embeddings and stays dense.
        output = torch.func.functional_call(self.student, effective, (), inputs, tie_weights=False)
        losses = {}
        if "kd" in self.parts:
            with torch.no_grad():
                target = self.teacher(**inputs).hidden_states[1:]
            positions = batch["attention_mask"].bool()
            if self.recipe.padding_counts:
                positions = torch.ones_like(positions)
            distances = [
                (1 - torch.nn.functional.cosine_similarity(ours, theirs, dim=-1))[positions].mean()
                for ours, theirs in zip(output.hidden_states[1:], target, strict=True)
            ]
            losses["kd"] = torch.stack(distances).mean()
        if "mlm" in self.parts:
            losses["mlm"] = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), batch["labels"].flatten())
        return losses

    def clipped(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """To the norm, over everything or each alone."""
        norms = {name: float(gradient.square().sum().sqrt()) for name, gradient in gradients.items()}
        if self.recipe.clip == "all":
            norms = dict.fromkeys(norms, math.sqrt(sum(norm**2 for norm in norms.values())))
        return {name: g * min(1.0, self.norm / (norms[name] + 1e-6)) for name, g in gradients.items()}

    def binarise(self, name: str) -> None:
        """The next mask: exactly the sparsity when the threshold is adjusted, else what is beyond the old one."""
        keys = self.scores[name].abs() if self.recipe.absolute else self.scores[name]
        if self.recipe.adjusts(self.steps, self.interval):
            self.masks[name] = keep(keys, self.dense[name], self.sparsity)
            ordered = keys.reshape(-1).sort().values.tolist()
            pruned = int(self.sparsity * keys.numel() + 1e-9)
            self.thresholds[name] = ordered[pruned] if self.recipe.at_least else ordered[pruned - 1]
        else:
            threshold = self.thresholds[name]
            self.masks[name] = keys >= threshold if self.recipe.at_least else keys > threshold
