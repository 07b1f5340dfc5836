"""The optimiser that trains masks: straight-through scores, an exact selection, W * M written into the parameters.

TAMT, section 3.4.1. The forward pass sees plain parameters that hold W * M, so autograd leaves g = dL/d(W * M) on
them; the straight-through gradient of the scores is g * W, taken here, outside the graph. A step costs a dense step
and a few elementwise passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from winning_tickets.config import Pattern
from winning_tickets.pruning.reselection import ByGroups, ByThreshold, RankBy, Reselection
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.selection import Ranking, Rounding, groups_of, keep_top


def initial_scores(
    importance: Mapping[str, Tensor],
    init: Literal["activation", "rank", "plateau", "random"],
    sparsity: float,
    ranking: Ranking,
    rounding: Rounding,
    alpha: float,
    phi: float,
    seed: int,
    pattern: Pattern | None = None,
) -> dict[str, Tensor]:
    """Scores before the first step.

    `rank` and `activation`: from 0 to alpha * phi, rising with the rank of the importance inside its matrix (or, ranked
    globally, among all), so that the threshold lies in a dense scale and marginal weights move first; they differ in
    the importance. Rows and N:M groups take theirs from the scale of the whole matrix.
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
        pattern: decides what the upper plateau holds, instead of sparsity, ranking and rounding.

    Returns:
        float32 tensors of the shapes of `importance`.
    """
    top = alpha * phi
    if init in ("rank", "activation"):
        return _rank_scores(importance, ranking, top)
    ranked = importance if init == "plateau" else random_scores(importance, seed)
    kept = keep_top(ranked, sparsity, ranking, rounding=rounding, pattern=pattern)
    return {name: mask.float() * top for name, mask in kept.items()}


def random_scores(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Uniform draws of the shapes of some weights, the same on every device; those kept of them are a random mask."""
    generator = torch.Generator().manual_seed(seed)
    draws = {n: torch.rand(w.shape, generator=generator, dtype=torch.float64) for n, w in weights.items()}
    return {name: draw.to(weights[name].device) for name, draw in draws.items()}


def random_masks(
    weights: Mapping[str, Tensor], sparsity: float, ranking: Ranking, rounding: Rounding, seed: int
) -> dict[str, Tensor]:
    """Uniformly random masks with exact counts."""
    return keep_top(random_scores(weights, seed), sparsity, ranking, rounding=rounding)


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
    rank_by: RankBy
    reselect_steps: int
    cadence: Literal["after", "before"]
    threshold: Literal["reached", "exceeded"]
    learning_rate: float
    head_learning_rate: float
    kind: Literal["adamw", "adamw-hf", "bertadam"]
    epsilon: float
    weight_decay: float
    clip: Literal["global", "tensor", "none"]
    max_grad_norm: float
    pattern: Pattern | None = None


def by_threshold(update: MaskUpdate) -> dict[str, Any]:
    """How a selection by thresholds goes about it, as `ByThreshold` takes it."""
    return {
        "ranking": update.ranking,
        "rank_by": update.rank_by,
        "kept_at": update.threshold,
        "phi": update.phi,
        "adjusted_always": update.reselect_steps == 1,
    }


class MaskOptimizer(torch.optim.Optimizer):
    """Trains the scores of some matrices, and an MLM head beside them.

    Args:
        masked: the dense weights and the parameters that hold W * M, with the initial masks: each group goes on
            pruning as many entries as they do. Matrices without scores keep their mask.
        scores: initial scores by name; those matrices are trained.
        head: parameters of the MLM head by name; trained directly.
        update: how.
        select_by: makes what turns flat scores, by name, into masks; None takes what `update` says.

    Attributes:
        grad_norm: norm of the straight-through gradient in the last step, where it was computed for clipping.
    """

    def __init__(
        self,
        masked: MaskedWeights,
        scores: Mapping[str, Tensor],
        head: Mapping[str, nn.Parameter],
        update: MaskUpdate,
        select_by: Callable[[MaskedWeights, Mapping[str, Tensor]], Reselection] | None = None,
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
        self._selection = (select_by or self._choose_selection)(masked, self._slices)
        groups: list[dict[str, Any]] = [{"params": masked.trained(self.names), "lr": update.learning_rate}]
        if head:
            groups.append({"params": list(head.values()), "lr": update.head_learning_rate})
        super().__init__(groups, {})
        self._inner = self._make_inner()
        self.reselect(exact=True)
        self._selection.start_at(update.phi)

    def _choose_selection(self, masked: MaskedWeights, scores: Mapping[str, Tensor]) -> Reselection:
        update = self.update
        if update.pattern is not None or update.ranking == "row":
            return ByGroups(masked, scores, update.pattern, update.rank_by)
        return ByThreshold(masked, self._flat, scores, **by_threshold(update))

    def _make_inner(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": list(self.scores.values())}]
        if self.head:
            groups.append({"params": list(self.head.values())})
        if self.update.kind != "adamw":
            corrected = self.update.kind == "adamw-hf"
            return BertAdam(groups, self.update.epsilon, self.update.weight_decay, correct_bias=corrected)
        adamw = torch.optim.AdamW(
            groups, lr=1.0, eps=self.update.epsilon, weight_decay=self.update.weight_decay, fused=True
        )
        for parameter in (*self.scores.values(), *self.head.values()):
            adamw.state[parameter] = _moments(parameter, torch.zeros((), device=parameter.device))
        return adamw

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update: g * W, clip, move the scores, select, write W * M."""
        if closure is not None:
            raise ValueError("MaskOptimizer does not support closures.")
        for name, score in self.scores.items():
            gradient = self.masked.gradient(name)
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
        self._selection.take_counts()
        self.reselect(exact=True)

    @property
    def selected_exactly(self) -> bool:
        """Whether the masks of the present step come from an adjusted threshold rather than the last one."""
        if self.update.cadence == "after":
            return self.steps % self.update.reselect_steps == 0
        return self.steps == 1 or (self.steps + 1) % self.update.reselect_steps == 0

    def _clip(self, parameters: list[nn.Parameter]) -> None:
        if self.update.clip == "global":
            self.grad_norm = float(nn.utils.clip_grad_norm_(parameters, self.update.max_grad_norm))
        elif self.update.clip == "tensor":
            for parameter in parameters:
                nn.utils.clip_grad_norm_([parameter], self.update.max_grad_norm)

    @torch.no_grad()
    def reselect(self, exact: bool = True) -> None:
        """Masks from scores: exactly the sparsity, or (between adjustments) what is beyond the last threshold."""
        self._exact = exact
        self._selection.select(exact)
        self.masked.write()

    @contextmanager
    def exactly_selected(self) -> Iterator[None]:
        """The masks have exactly the sparsity inside this block; the search goes on as if that had not been."""
        thresholds, exact = list(self._selection.thresholds), self._exact
        self.reselect(exact=True)
        yield
        self._return_to(thresholds, exact)

    def _return_to(self, thresholds: list[float], exact: bool) -> None:
        """Masks as they were, and thresholds: an exact selection is no adjustment here."""
        self._selection.thresholds = list(thresholds)
        self.reselect(exact)
        self._selection.thresholds = list(thresholds)

    def state_dict(self) -> dict[str, Any]:
        """Scores, moments, head and thresholds by name; names survive where Parameters are replaced."""
        inner = self._inner.state_dict()["state"]
        order = [*self.names, *self.head]
        return {
            "steps": self.steps,
            "exact": self._exact,
            "scores": {name: score.detach() for name, score in self.scores.items()},
            "head": {name: value.detach() for name, value in self.head.items()},
            "moments": {order[index]: state for index, state in inner.items()},
            "thresholds": list(self._selection.thresholds),
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
        for group, stored in zip(self.param_groups, state["param_groups"], strict=True):
            group.update(stored)
        self._return_to(state["thresholds"], state["exact"])


def _moments(parameter: Tensor, step: int | Tensor) -> dict[str, Any]:
    """State of an Adam before its first step: allocated among that step's gradients, it would leave holes in memory."""
    return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


class BertAdam(torch.optim.Optimizer):
    """The Adam of the released programs: epsilon is added to the root of the second moment as it is.

    Without bias correction it is BertAdam, which the KD code trains masks with; with it, the AdamW of transformers 2,
    which the MLM code uses. `torch.optim.AdamW` adds epsilon after the correction, where it weighs far less at first.

    Args:
        groups: parameter groups; `lr` is set by the owner.
        epsilon: added to the root of the second moment.
        weight_decay: times the parameter; added to the update, or taken off after it where the bias is corrected.
        correct_bias: divide the moments by what they have gathered so far.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], epsilon: float, weight_decay: float, correct_bias: bool
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": (0.9, 0.999), "eps": epsilon, "weight_decay": weight_decay})
        self._correct_bias = correct_bias
        for group in self.param_groups:
            self.state |= {parameter: _moments(parameter, 0) for parameter in group["params"]}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                state["step"] += 1
                mean, square = state["exp_avg"], state["exp_avg_sq"]
                mean.mul_(beta1).add_(parameter.grad, alpha=1 - beta1)
                square.mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
                move = mean / (square.sqrt() + group["eps"])
                rate, decay = group["lr"], group["weight_decay"]
                if self._correct_bias:
                    correction = math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                    parameter.sub_(move, alpha=rate * correction).mul_(1 - rate * decay)
                else:
                    parameter.sub_(move.add_(parameter, alpha=decay), alpha=rate)
