"""The optimiser that trains masks: straight-through scores, an exact selection, W * M written into the parameters.

TAMT, section 3.4.1. The forward pass sees plain parameters that hold W * M, so autograd leaves g = dL/d(W * M) on
them; the straight-through gradient of the scores is g * W, taken here, outside the graph. A step costs a dense step
and a few elementwise passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from winning_tickets.masking import MaskedWeights
from winning_tickets.selection import BandSelector, Ranking, Rounding, groups_of, keep_top


def initial_scores(
    importance: Mapping[str, Tensor],
    init: Literal["activation", "rank", "plateau", "random"],
    sparsity: float,
    ranking: Ranking,
    rounding: Rounding,
    alpha: float,
    phi: float,
    seed: int,
) -> dict[str, Tensor]:
    """Scores before the first step.

    `rank` and `activation`: from 0 to alpha * phi, rising with the rank of the importance inside its group, so that the
    threshold lies in a dense scale and marginal weights move first; they differ in the importance.
    `plateau`: alpha * phi for what one-shot magnitude pruning keeps, else 0 (TAMT eq. 5).
    `random`: the same two values over a uniformly random mask (TAMT section 4.2.4).

    Args:
        importance: by name, what decides before any training: absolute weights, or times the norms of their inputs.
        init: how.
        sparsity: fraction removed.
        ranking: groups inside which weights compete.
        rounding: of the pruned counts.
        alpha: height of the upper plateau in units of phi.
        phi: initial threshold.
        seed: of the random mask.

    Returns:
        float32 tensors of the shapes of `importance`.
    """
    top = alpha * phi
    if init in ("rank", "activation"):
        return _rank_scores(importance, ranking, top)
    if init == "plateau":
        kept = keep_top(importance, sparsity, ranking, rounding=rounding)
    else:
        kept = random_masks(importance, sparsity, ranking, rounding, seed)
    return {name: mask.float() * top for name, mask in kept.items()}


def random_masks(
    weights: Mapping[str, Tensor], sparsity: float, ranking: Ranking, rounding: Rounding, seed: int
) -> dict[str, Tensor]:
    """Uniformly random masks with exact counts, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    draws = {n: torch.rand(w.shape, generator=generator, dtype=torch.float64) for n, w in weights.items()}
    kept = keep_top(draws, sparsity, ranking, rounding=rounding)
    return {name: mask.to(weights[name].device) for name, mask in kept.items()}


def _rank_scores(importance: Mapping[str, Tensor], ranking: Ranking, top: float) -> dict[str, Tensor]:
    scores: dict[str, Tensor] = {}
    for group in groups_of(tuple(importance), ranking):
        joined = torch.cat([importance[name].detach().reshape(-1) for name in group]).cpu().numpy()
        # Of equal entries the lower index survives (as in keep_top), so it must get the higher rank.
        order = joined.size - 1 - np.argsort(joined[::-1], kind="stable")
        ranks = np.empty(joined.size, dtype=np.float32)
        ranks[order] = np.linspace(0.0, top, joined.size, dtype=np.float32)
        parts = torch.split(torch.from_numpy(ranks), [importance[name].numel() for name in group])
        for name, part in zip(group, parts, strict=True):
            scores[name] = part.reshape(importance[name].shape).to(importance[name].device)
    return scores


@dataclass(frozen=True)
class MaskUpdate:
    """How scores move and masks follow; the fields are those of `SearchConfig`."""

    ranking: Ranking
    phi: float
    rank_by: Literal["signed", "absolute"]
    reselect_steps: int
    learning_rate: float
    head_learning_rate: float
    kind: Literal["adamw", "bertadam"]
    epsilon: float
    weight_decay: float
    clip: Literal["global", "tensor", "none"]
    max_grad_norm: float


class MaskOptimizer(torch.optim.Optimizer):
    """Trains the scores of some matrices, and an MLM head beside them.

    Args:
        masked: the dense weights and the parameters that hold W * M, with the initial masks: each group goes on
            pruning as many entries as they do. Matrices without scores keep their mask.
        scores: initial scores by name; those matrices are trained.
        head: parameters of the MLM head by name; trained directly.
        update: how.

    Attributes:
        grad_norm: norm of the straight-through gradient in the last step, where it was computed for clipping.
    """

    def __init__(
        self,
        masked: MaskedWeights,
        scores: Mapping[str, Tensor],
        head: Mapping[str, nn.Parameter],
        update: MaskUpdate,
    ) -> None:
        self.masked = masked
        self.update = update
        self.names = tuple(scores)
        self.head = dict(head)
        self.steps = 0
        self.grad_norm: float | None = None
        # One flat buffer, so that a group that spans matrices is selected without copies.
        sizes = [scores[name].numel() for name in self.names]
        self._flat = torch.cat([scores[name].reshape(-1).float() for name in self.names])
        self._slices = dict(zip(self.names, torch.split(self._flat, sizes), strict=True))
        self.scores = {name: nn.Parameter(part.view(scores[name].shape)) for name, part in self._slices.items()}
        self._selectors = self._make_selectors()
        parameters = [masked.parameters[name] for name in self.names]
        groups: list[dict[str, Any]] = [{"params": parameters, "lr": update.learning_rate}]
        if head:
            groups.append({"params": list(head.values()), "lr": update.head_learning_rate})
        super().__init__(groups, {})
        self._inner = self._make_inner()
        self.reselect(exact=True)

    def _make_selectors(self) -> list[tuple[Tensor, Tensor, Tensor, BandSelector]]:
        """For each group: its scores, its dense weights, its mask, its selector; flat, sharing memory."""
        made = []
        for group, count in zip(groups_of(self.names, self.update.ranking), self._counts(), strict=True):
            if len(group) == 1:
                name = group[0]
                weights, mask = self.masked.dense_weights[name].view(-1), self.masked.masks[name].view(-1)
                made.append((self._slices[name], weights, mask, BandSelector(count)))
            else:
                weights = torch.cat([self.masked.dense_weights[name].view(-1) for name in group])
                made.append((self._flat, weights, torch.empty_like(self._flat, dtype=torch.bool), BandSelector(count)))
        return made

    def _make_inner(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": list(self.scores.values())}]
        if self.head:
            groups.append({"params": list(self.head.values())})
        if self.update.kind == "bertadam":
            return BertAdam(groups, epsilon=self.update.epsilon, weight_decay=self.update.weight_decay)
        return torch.optim.AdamW(
            groups, lr=1.0, eps=self.update.epsilon, weight_decay=self.update.weight_decay, fused=True
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update: g * W, clip, move the scores, select, write W * M."""
        if closure is not None:
            raise ValueError("MaskOptimizer does not support closures.")
        for name, score in self.scores.items():
            gradient = self.masked.parameters[name].grad
            score.grad = None if gradient is None else gradient.mul_(self.masked.dense_weights[name]).float()
        self._clip([p for p in (*self.scores.values(), *self.head.values()) if p.grad is not None])
        for inner, outer in zip(self._inner.param_groups, self.param_groups, strict=True):
            inner["lr"] = outer["lr"]
        self._inner.step()
        for score in self.scores.values():
            score.grad = None
        self.steps += 1
        self.reselect(self.selected_exactly)

    @torch.no_grad()
    def take_counts(self) -> None:
        """From now on prune as many entries of each group as the masks do at present; the scores stay."""
        for (_, _, _, selector), count in zip(self._selectors, self._counts(), strict=True):
            selector.count = count
        self.reselect(exact=True)

    def _counts(self) -> list[int]:
        """How many entries of each group the masks prune now, so that with untrained matrices the whole stays exact."""
        masks = [[self.masked.masks[name] for name in group] for group in groups_of(self.names, self.update.ranking)]
        return [sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in group) for group in masks]

    @property
    def selected_exactly(self) -> bool:
        """Whether the masks of the present step come from an adjusted threshold rather than the last one."""
        return self.steps <= 1 or self.steps % self.update.reselect_steps == 0

    def _clip(self, parameters: list[nn.Parameter]) -> None:
        if self.update.clip == "global":
            self.grad_norm = float(nn.utils.clip_grad_norm_(parameters, self.update.max_grad_norm))
        elif self.update.clip == "tensor":
            for parameter in parameters:
                nn.utils.clip_grad_norm_([parameter], self.update.max_grad_norm)

    @torch.no_grad()
    def reselect(self, exact: bool = True) -> None:
        """Masks from scores: exactly the sparsity, or (between adjustments) whatever exceeds the last threshold."""
        for scores, weights, mask, selector in self._selectors:
            keys = scores.abs() if self.update.rank_by == "absolute" else scores
            if exact:
                selector.select(keys, weights, mask)
            else:
                threshold = self.update.phi if selector.threshold is None else selector.threshold
                torch.gt(keys, threshold, out=mask)
        if self.update.ranking == "global":
            mask = self._selectors[0][2]
            parts = torch.split(mask, [self.scores[name].numel() for name in self.names])
            for name, part in zip(self.names, parts, strict=True):
                self.masked.masks[name].view(-1).copy_(part)
        self.masked.write()

    def state_dict(self) -> dict[str, Any]:
        """Scores, moments, head and thresholds by name; names survive where Parameters are replaced."""
        inner = self._inner.state_dict()["state"]
        order = [*self.names, *self.head]
        return {
            "steps": self.steps,
            "scores": {name: score.detach() for name, score in self.scores.items()},
            "head": {name: value.detach() for name, value in self.head.items()},
            "moments": {order[index]: state for index, state in inner.items()},
            "thresholds": [selector.threshold for *_, selector in self._selectors],
            "param_groups": [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups],
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back a state; the masks follow from it."""
        state = state_dict
        self.steps = state["steps"]
        for name, score in self.scores.items():
            score.copy_(state["scores"][name])
        for name, value in self.head.items():
            value.copy_(state["head"][name])
        order = {name: index for index, name in enumerate((*self.names, *self.head))}
        inner = self._inner.state_dict()
        inner["state"] = {order[name]: moments for name, moments in state["moments"].items()}
        self._inner.load_state_dict(inner)
        for selector_state, threshold in zip(self._selectors, state["thresholds"], strict=True):
            selector_state[3].threshold = threshold
        for group, stored in zip(self.param_groups, state["param_groups"], strict=True):
            group.update(stored)
        self.reselect(self.selected_exactly)


class BertAdam(torch.optim.Optimizer):
    """Adam without bias correction, weight decay added to the update: what the released KD code trains masks with.

    Args:
        groups: parameter groups; `lr` is set by the owner.
        epsilon: added to the root of the second moment.
        weight_decay: times the parameter, added to the update.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], epsilon: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": (0.9, 0.999), "eps": epsilon, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                mean, square = state["exp_avg"], state["exp_avg_sq"]
                mean.mul_(beta1).add_(parameter.grad, alpha=1 - beta1)
                square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
                move = mean / (square.sqrt() + group["eps"])
                parameter.sub_(move.add_(parameter, alpha=group["weight_decay"]), alpha=group["lr"])
