"""Optimizer that trains masks: straight-through scores, exact selection, W * M written into the parameters.

TAMT, section 3.4.1. The forward pass sees plain parameters that hold W * M, so autograd leaves g = dL/d(W * M) on
them; the straight-through gradient of the scores is g * W, computed here, outside the graph. A step costs as much as
a step of dense training and a few elementwise passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from winning_tickets.config import Pattern, ResolvedSearch
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.selection import BandSelector, Ranking, Rounding, groups_of, keep_in_groups, keep_top

RankBy = Literal["signed", "absolute"]


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
    """Return the scores before the first step, float32 of the shapes of `importance`.

    `rank` and `activation`: evenly spaced from 0 to alpha * phi by the rank of the importance in its matrix (or among
    all matrices, if ranked globally), so that weights close to the threshold change first. Rows and N:M groups take
    their scores from the ranks in the whole matrix. The two names differ in the importance that the caller passes.
    `plateau`: alpha * phi for the weights that one-shot pruning by the importance keeps, else 0 (TAMT eq. 5).
    `random`: the same two values over a uniformly random mask (TAMT section 4.2.4).
    """
    top = alpha * phi
    if init in ("rank", "activation"):
        return _rank_scores(importance, ranking, top)
    ranked = importance if init == "plateau" else random_scores(importance, seed)
    kept = keep_top(ranked, sparsity, ranking, rounding=rounding, pattern=pattern)
    return {name: mask.float() * top for name, mask in kept.items()}


def random_scores(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Draw uniform scores in the shapes of some weights, equal on all devices; the top scores are a random mask."""
    generator = torch.Generator().manual_seed(seed)
    draws = {n: torch.rand(w.shape, generator=generator, dtype=torch.float64) for n, w in weights.items()}
    return {name: draw.to(weights[name].device) for name, draw in draws.items()}


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


class MaskRule:
    """Rule that computes the masks from the scores; how many weights are pruned is fixed."""

    def __init__(self) -> None:
        self.thresholds: list[float] = []  # between adjustments, scores above these are kept; part of a checkpoint

    def take_counts(self) -> None:
        """Set the numbers of pruned entries to those of the present masks; rules with fixed numbers ignore this."""

    def select(self, exact: bool) -> None:
        """Overwrite the masks: with exact counts, or by the last thresholds if the rule has some."""
        raise NotImplementedError

    def start_at(self, phi: float) -> None:
        """Set thresholds to phi until the first adjustment, if this does not change the masks."""


class ByGroups(MaskRule):
    """Rule with exact counts in each row, or in every M consecutive entries of a row, at every step."""

    def __init__(
        self, masked: MaskedWeights, scores: Mapping[str, Tensor], pattern: Pattern | None, rank_by: RankBy
    ) -> None:
        super().__init__()
        self._rank_by = rank_by
        self._groups: list[tuple[Tensor, Tensor, Tensor]] = []
        for name, values in scores.items():
            size = masked.masks[name].shape[-1] if pattern is None else pattern.of
            weights, mask = masked.dense_weights[name].view(-1, size), masked.masks[name].view(-1, size)
            self._groups.append((values.view(-1, size), weights, mask))
        self.take_counts()

    def take_counts(self) -> None:
        """Set the number of kept entries of each group to that of the present masks."""
        # Every group of a matrix keeps as many entries as its first one.
        self._kept = [int(torch.count_nonzero(mask[0])) for _, _, mask in self._groups]

    def select(self, exact: bool) -> None:
        """Overwrite the masks, always with exact counts."""
        for (scores, weights, mask), kept in zip(self._groups, self._kept, strict=True):
            mask.copy_(keep_in_groups(ranked_values(scores, self._rank_by), kept, weights))


class ByThreshold(MaskRule):
    """Rule with exact counts of each matrix or of all together; between adjustments the last threshold decides.

    `flat` holds the `scores` of all matrices, so that a group that spans them is selected without copies.
    """

    def __init__(
        self, masked: MaskedWeights, flat: Tensor, scores: Mapping[str, Tensor], config: ResolvedSearch
    ) -> None:
        self._masked, self._scores, self._config = masked, scores, config
        # With an adjustment at every step the last threshold is never used, so it is not computed.
        self._keeps_thresholds = config.reselect_steps != 1
        self._groups = self._make_groups(flat)
        self._selectors = [BandSelector(0) for _ in self._groups]
        self.thresholds = [config.phi] * len(self._groups)
        self.take_counts()

    def _make_groups(self, flat: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the flat scores, dense weights and mask of each group; scores and matrix-wise groups share memory."""
        made = []
        for group in groups_of(tuple(self._scores), self._config.ranking):
            if len(group) == 1:
                name = group[0]
                weights, mask = self._masked.dense_weights[name].view(-1), self._masked.masks[name].view(-1)
                made.append((self._scores[name], weights, mask))
            else:
                weights = torch.cat([self._masked.dense_weights[name].view(-1) for name in group])
                made.append((flat, weights, torch.empty_like(flat, dtype=torch.bool)))
        return made

    def take_counts(self) -> None:
        """Set the number of pruned entries of each group to that of the present masks."""
        # Counted, not computed from the sparsity: that is an average that includes untrained matrices.
        groups = groups_of(tuple(self._scores), self._config.ranking)
        masks = [[self._masked.masks[name] for name in group] for group in groups]
        counts = [sum(mask.numel() - int(torch.count_nonzero(mask)) for mask in group) for group in masks]
        self._pruned = self._totals(counts)

    def _totals(self, counts: list[int]) -> list[int]:
        """Return the counts summed over all ranks; `ByShards` overrides it for several ranks."""
        return counts

    def select(self, exact: bool) -> None:
        """Overwrite the masks: exactly at the sparsity, or (between adjustments) by the last thresholds."""
        if exact:
            self._select_exactly()
        else:
            for (scores, _, mask), threshold in zip(self._groups, self.thresholds, strict=True):
                mask.copy_(self._beyond(ranked_values(scores, self._config.rank_by), threshold))
        # The mask of a group over all matrices is split into the masks of the matrices.
        if self._config.ranking == "global":
            mask = self._groups[0][2]
            parts = torch.split(mask, [scores.numel() for scores in self._scores.values()])
            for name, part in zip(self._scores, parts, strict=True):
                self._masked.masks[name].view(-1).copy_(part)

    def _select_exactly(self) -> None:
        """Overwrite the masks of the groups, one after the other, and set their thresholds."""
        for index, ((scores, weights, mask), selector) in enumerate(zip(self._groups, self._selectors, strict=True)):
            keys, selector.count = ranked_values(scores, self._config.rank_by), self._pruned[index]
            selector.select(keys, weights, mask)
            if self._keeps_thresholds:
                self.thresholds[index] = self._threshold_of(index, keys, mask, selector.threshold)

    def start_at(self, phi: float) -> None:
        """Set the thresholds to phi until the first adjustment, if phi separates the scores as the masks do."""
        # It does for two plateaus (TAMT eq. 5); for evenly spaced scores the exact selection sets the first threshold.
        groups = [(self._beyond(ranked_values(s, self._config.rank_by), phi), mask) for s, _, mask in self._groups]
        for index, wrong in enumerate(self._totals([int(not torch.equal(*pair)) for pair in groups])):
            if not wrong:
                self.thresholds[index] = phi

    def _beyond(self, keys: Tensor, threshold: float) -> Tensor:
        return keys >= threshold if self._config.threshold == "reached" else keys > threshold

    def _threshold_of(self, index: int, keys: Tensor, mask: Tensor, border: float | None) -> float:
        """Return the threshold of an exact selection: the lowest kept value, or the highest pruned one."""
        if self._pruned[index] == 0:
            return -math.inf
        if self._config.threshold == "exceeded":
            assert border is not None
            return border
        kept = keys[mask]
        return float(kept.min()) if kept.numel() else math.inf


def ranked_values(scores: Tensor, rank_by: RankBy) -> Tensor:
    """Return the values that are ranked: signed or absolute scores."""
    return scores.abs() if rank_by == "absolute" else scores


class MaskOptimizer(torch.optim.Optimizer):
    """Optimizer of the scores of some matrices, and of an MLM head.

    Each group prunes as many entries as the initial masks of `masked`; matrices without scores keep their mask.
    """

    def __init__(
        self,
        masked: MaskedWeights,
        scores: Mapping[str, Tensor],
        head: Mapping[str, nn.Parameter],
        config: ResolvedSearch,
        make_rule: Callable[[MaskedWeights, Mapping[str, Tensor]], MaskRule] | None = None,
    ) -> None:
        self.masked = masked
        self.config = config
        self.names = tuple(scores)
        self.head = dict(head)
        self.steps = 0
        self.grad_norm: float | None = None  # of the last straight-through gradient, where it is clipped globally
        # One flat buffer, so that a group that spans matrices is selected without copies.
        sizes = [scores[name].numel() for name in self.names]
        self._flat = torch.cat([scores[name].reshape(-1).float() for name in self.names])
        self._slices = dict(zip(self.names, torch.split(self._flat, sizes), strict=True))
        self.scores = {name: nn.Parameter(part.view(scores[name].shape)) for name, part in self._slices.items()}
        self._rule = (make_rule or self._choose_rule)(masked, self._slices)
        # The outer groups have the model's parameters, for schedule and gradients; the inner optimizer has the scores.
        groups: list[dict[str, Any]] = [{"params": masked.trained(self.names), "lr": config.learning_rate}]
        if head:
            groups.append({"params": list(head.values()), "lr": config.head_learning_rate})
        super().__init__(groups, {})
        self._inner = self._make_inner()
        self.reselect(exact=True)
        self._rule.start_at(config.phi)

    def _choose_rule(self, masked: MaskedWeights, scores: Mapping[str, Tensor]) -> MaskRule:
        config = self.config
        if config.pattern is not None or config.ranking == "row":
            return ByGroups(masked, scores, config.n_of_m, config.rank_by)
        return ByThreshold(masked, self._flat, scores, config)

    def _make_inner(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": list(self.scores.values())}]
        if self.head:
            groups.append({"params": list(self.head.values())})
        if self.config.optimizer != "adamw":
            corrected = self.config.optimizer == "adamw-hf"
            return BertAdam(groups, self.config.adam_epsilon, self.config.weight_decay, correct_bias=corrected)
        adamw = torch.optim.AdamW(
            groups, lr=1.0, eps=self.config.adam_epsilon, weight_decay=self.config.weight_decay, fused=True
        )
        for parameter in (*self.scores.values(), *self.head.values()):
            adamw.state[parameter] = _moments(parameter, torch.zeros((), device=parameter.device))
        return adamw

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step: g * W, clip, move the scores, update the masks, write W * M."""
        if closure is not None:
            raise ValueError("MaskOptimizer does not support closures.")
        # The straight-through gradient g * W, written over g to save memory.
        for name, score in self.scores.items():
            gradient = self.masked.gradient(name)
            score.grad = None if gradient is None else gradient.mul_(self.masked.dense_weights[name]).float()
        self._clip([p for p in (*self.scores.values(), *self.head.values()) if p.grad is not None])
        # The scheduler sets the rates of the outer groups.
        for inner, outer in zip(self._inner.param_groups, self.param_groups, strict=True):
            inner["lr"] = outer["lr"]
        self._inner.step()
        # Free the gradients before the selection, which needs memory too.
        for score in self.scores.values():
            score.grad = None
        self.steps += 1
        self.reselect(self.selected_exactly)

    @torch.no_grad()
    def take_counts(self) -> None:
        """Set the number of pruned entries of each group to that of the present masks; the scores do not change."""
        self._rule.take_counts()
        self.reselect(exact=True)

    @property
    def selected_exactly(self) -> bool:
        """True if the threshold is adjusted at the present step; otherwise the last threshold gives the masks."""
        if self.config.cadence == "after":
            return self.steps % self.config.reselect_steps == 0
        return self.steps == 1 or (self.steps + 1) % self.config.reselect_steps == 0

    def _clip(self, parameters: list[nn.Parameter]) -> None:
        if self.config.clip == "global":
            self.grad_norm = float(nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm))
        elif self.config.clip == "tensor":
            for parameter in parameters:
                nn.utils.clip_grad_norm_([parameter], self.config.max_grad_norm)

    @torch.no_grad()
    def reselect(self, exact: bool = True) -> None:
        """Recompute the masks from the scores, exactly at the sparsity or by the last threshold, and write W * M."""
        self._exact = exact
        self._rule.select(exact)
        self.masked.write()

    @contextmanager
    def exactly_selected(self) -> Iterator[None]:
        """Use masks of exactly the target sparsity inside the block, and restore the masks and thresholds after it."""
        thresholds, exact = list(self._rule.thresholds), self._exact
        self.reselect(exact=True)
        yield
        self._restore_masks(thresholds, exact)

    def _restore_masks(self, thresholds: list[float], exact: bool) -> None:
        """Restore masks and thresholds; the exact selection done for it does not adjust the thresholds."""
        self._rule.thresholds = list(thresholds)
        self.reselect(exact)
        self._rule.thresholds = list(thresholds)

    def state_dict(self) -> dict[str, Any]:
        """Return scores, moments, head and thresholds, by names, which stay valid if Parameters are replaced."""
        inner = self._inner.state_dict()["state"]
        order = [*self.names, *self.head]
        return {
            "steps": self.steps,
            "exact": self._exact,
            "scores": {name: score.detach() for name, score in self.scores.items()},
            "head": {name: value.detach() for name, value in self.head.items()},
            "moments": {order[index]: state for index, state in inner.items()},
            "thresholds": list(self._rule.thresholds),
            "param_groups": [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups],
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state, and compute the masks from it."""
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
        self._restore_masks(state["thresholds"], state["exact"])


def _moments(parameter: Tensor, step: int | Tensor) -> dict[str, Any]:
    """Return the state of Adam before its first step; allocating it later would fragment the memory."""
    return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


class BertAdam(torch.optim.Optimizer):
    """The Adam of the released code: epsilon is added to the root of the second moment before any bias correction.

    Without bias correction it is BertAdam, which the KD code trains masks with; with it, the AdamW of transformers 2,
    which the MLM code uses. `torch.optim.AdamW` adds epsilon after the correction, where it weighs far less at first.
    Weight decay is added to the update, or applied after it where the bias is corrected.
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
        """Update every parameter that has a gradient."""
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
