"""Optimizer that trains masks: straight-through scores, exact selection, W * M written into the parameters.

TAMT, section 3.4.1. The forward pass sees plain parameters that hold W * M, so autograd leaves g = dL/d(W * M) on
them; the straight-through gradient of the scores is g * W, computed here, outside the graph. A step costs as much as
a step of dense training plus a few elementwise passes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from winning_tickets.config.mask_training import MaskTraining
from winning_tickets.pruning.low_precision import LowPrecisionAdamW
from winning_tickets.runs.errors import ContentError
from winning_tickets.tickets.masking import MaskedWeights
from winning_tickets.tickets.selection import Block, Ranking, Ranks, Selector, groups_of, wide

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Types of scores, moments and weights by the names of the settings."""


def initial_scores(
    importance: Mapping[str, Tensor],
    init: Literal["activation", "rank", "plateau", "random"],
    keep: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    ranking: Ranking,
    *,
    top: float,
    seed: int,
) -> dict[str, Tensor]:
    """Return the scores before the first step, float32 in the shapes of `importance`; the highest score is `top`.

    `rank` and `activation`: evenly spaced from 0 to `top` by the rank of the importance in its matrix (or among all
    matrices, if ranked globally), so that weights close to the threshold change first. Row ranking and N:M patterns
    also use the rank in the whole matrix. The two names differ only in the importance that the caller passes.
    `plateau`: `top` for the weights that one-shot pruning by the importance keeps, else 0 (TAMT eq. 5).
    `random`: the same two values for a uniformly random mask (TAMT section 4.2.4). `keep` makes the masks of both.
    """
    if init in ("rank", "activation"):
        return rank_scores(importance, ranking, top)
    ranked = importance if init == "plateau" else random_scores(importance, seed)
    return {name: mask.float() * top for name, mask in keep(ranked).items()}


def random_scores(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Draw uniform scores in the shapes of the weights, the same on all devices; the highest form a random mask."""
    generator = torch.Generator().manual_seed(seed)
    draws = {n: torch.rand(w.shape, generator=generator, dtype=torch.float64) for n, w in weights.items()}
    return {name: draw.to(weights[name].device) for name, draw in draws.items()}


def rank_scores(importance: Mapping[str, Tensor], ranking: Ranking, top: float) -> dict[str, Tensor]:
    """Return scores evenly spaced from 0 to `top` by the rank of the importance in its matrix or among all."""
    # All scores share one buffer: many separate tensors would fragment the memory once they are freed.
    shapes = {name: values.shape for name, values in importance.items()}
    device = next(iter(importance.values())).device
    flat = torch.empty(sum(shape.numel() for shape in shapes.values()), dtype=torch.float32, device=device)
    parts = dict(zip(shapes, torch.split(flat, [shape.numel() for shape in shapes.values()]), strict=True))
    start = 0
    for group in groups_of(tuple(importance), ranking):
        order = _ascending(torch.cat([importance[name].detach().reshape(-1) for name in group]))
        evenly = np.linspace(0.0, top, order.numel(), dtype=np.float32)
        flat[start : start + order.numel()][order] = torch.from_numpy(evenly).to(device)
        start += order.numel()
    return {name: part.view(shapes[name]) for name, part in parts.items()}


def _ascending(values: Tensor) -> Tensor:
    """Return the indices that sort values `(n,)`; on ties the higher comes first, as `keep_top` prunes it first."""
    last = values.numel() - 1
    if values.device.type != "cpu" or values.dtype == torch.float64:
        return last - torch.sort(values.flip(0), stable=True).indices
    # On a CPU numpy sorts integers several times faster than it finds the order of floats. The upper half of each
    # integer has the bits of a float, changed so that they sort like floats; the lower half has its place from the end.
    bits = (values.float() + 0.0).view(torch.int32)
    numbers = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32).add_(torch.arange(last, -1, -1))
    numbers.numpy().sort()
    return numbers.bitwise_and_(0xFFFFFFFF).neg_().add_(last)


def buffer_order(shapes: Mapping[str, torch.Size], ranking: Ranking) -> list[str]:
    """Return names of matrices with those of one size next to each other, so that they can be selected together."""
    if ranking == "global":
        return list(shapes)  # one group, in which the order decides between ties
    return sorted(shapes, key=lambda name: (shapes[name][-1], shapes[name].numel()))


class MaskOptimizer(torch.optim.Optimizer):
    """Optimizer of the scores of some matrices, and of an MLM head.

    The scores lie in one flat buffer, as the dense weights do, so that a step launches few kernels however many
    matrices there are. The state is the scores, their moments and the thresholds; masks are computed from them.

    Args:
        masked: the dense weights; the matrices with scores come first, in the order that decides between ties over all
            matrices. Each group keeps as many entries as `masked.kept` says; the masks of other matrices do not change.
        scores: initial scores by name.
        head: trained parameters of an MLM head by name.
        config: the resolved settings of the search.
        choose: computes masks from scores, both by name; by default each group keeps its exact count of entries.
        ranks: the processes that share every matrix.
    """

    def __init__(
        self,
        masked: MaskedWeights,
        scores: Mapping[str, Tensor],
        head: Mapping[str, nn.Parameter],
        config: MaskTraining,
        *,
        choose: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if set(masked.names[: len(scores)]) != set(scores):
            raise ValueError("The matrices with scores have to be the first ones of the masked weights.")
        self.masked = masked
        self.config = config
        self.head = dict(head)
        self.steps = 0
        self.grad_norm: Tensor | None = None  # of the last straight-through gradient, if it is clipped globally
        self._norm: Tensor | None = None  # of the present gradient, once it is computed
        self._choose = choose
        self._by_rows = config.pattern is not None or config.ranking == "row"
        self._shared_by = ranks
        self._ranks = None if self._by_rows else ranks  # rows are whole in every process
        size = sum(masked.dense_weights[name].numel() for name in scores)
        self._flat = torch.empty(size, dtype=DTYPES[config.score_dtype], device=masked.flat.device)
        slices = masked.split(self._flat)
        for name, values in scores.items():
            slices[name].copy_(values)
        self.scores = {name: nn.Parameter(slices[name]) for name in scores}
        # The outer groups hold the model's parameters, for schedule and gradients; the inner optimizer has the scores.
        groups: list[dict[str, Any]] = [{"params": masked.trained(tuple(scores)), "lr": config.learning_rate}]
        if head:
            groups.append({"params": list(head.values()), "lr": config.head_learning_rate})
        super().__init__(groups, {})
        self._inner = self._make_inner()
        self._thresholds: Tensor | None = None  # of the groups, if some steps reuse the last thresholds
        self.take_counts()
        if config.reselect_steps != 1 and not self._by_rows and choose is None:
            self._thresholds = self._find_thresholds(self._mask(exact=True), start=True)

    def _make_inner(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": list(self.scores.values())}]
        if self.head:
            groups.append({"params": list(self.head.values())})
        betas, decay = self.config.betas, self.config.weight_decay
        epsilon = self.config.adam_epsilon
        if self.config.optimizer != "adamw":
            corrected = self.config.optimizer == "adamw-hf"
            return BertAdam(groups, betas=betas, epsilon=epsilon, weight_decay=decay, correct_bias=corrected)
        if (self.config.score_dtype, self.config.moment_dtype) != ("float32", "float32"):
            moments, seed = DTYPES[self.config.moment_dtype], self.config.seed
            return LowPrecisionAdamW(
                groups, betas=betas, epsilon=epsilon, weight_decay=decay, moments=moments, seed=seed
            )
        adamw = torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=epsilon, weight_decay=decay, fused=True)
        for parameter in (*self.scores.values(), *self.head.values()):
            adamw.state[parameter] = _moments(parameter, torch.zeros((), device=parameter.device))
        return adamw

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Form the straight-through gradient g * W; return its norm, including the head's gradient, as a device scalar.

        A loop may call this once between the backward pass and `step`, to look for NaN and infinity; `step` then uses
        the gradient formed here, and forms it itself otherwise. Gradients set to None in between are not applied.
        """
        self._form_gradients()
        self._norm = self._norm_of(*self._gradients())
        return self._norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step: g * W, clip, move the scores, update the masks, write W * M."""
        if closure is not None:
            raise ValueError("MaskOptimizer does not support closures.")
        if self._norm is None:
            self._form_gradients()
        for name, score in self.scores.items():
            if self.masked.parameters[name].grad is None:
                score.grad = None
        self._clip(*self._gradients())
        # The scheduler sets the rates of the outer groups.
        for inner, outer in zip(self._inner.param_groups, self.param_groups, strict=True):
            inner["lr"] = outer["lr"]
        self._inner.step()
        # Free the gradients before the selection, which needs memory too.
        self.zero_grad()
        self.steps += 1
        self._update(exact=self.selected_exactly)

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 - as torch has it
        """Drop the gradients of the parameters, and those of the scores, which may share their memory."""
        super().zero_grad(set_to_none)
        for score in self.scores.values():
            score.grad = None
        self._norm = None

    def _form_gradients(self) -> None:
        """Turn the gradients of the parameters into those of the scores, in place."""
        found = {name: gradient for name in self.scores if (gradient := self.masked.gradient(name)) is not None}
        if found:
            torch._foreach_mul_(list(found.values()), [self.masked.dense_weights[name] for name in found])
        for name, score in self.scores.items():
            score.grad = found[name].to(score.dtype) if name in found else None

    def _gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the gradients of the scores and those of the head; missing gradients are left out."""
        scores, head = (
            [one.grad for one in group.values() if one.grad is not None] for group in (self.scores, self.head)
        )
        return scores, head

    def _norm_of(self, scores: list[Tensor], head: list[Tensor]) -> Tensor:
        """Return the norm of gradients of scores, over all processes that share them, and of the head."""
        if self._shared_by is None:
            return self._norm_here([*scores, *head])
        shared = self._shared_by.totals(self._norm_here(scores).double().square().view(1))
        return (shared + self._norm_here(head).double().square()).sqrt().to(self._flat.dtype)[0]

    def _norm_here(self, gradients: list[Tensor]) -> Tensor:
        norm = self._flat.new_zeros(())
        if gradients:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return norm

    def _clip(self, scores: list[Tensor], head: list[Tensor]) -> None:
        """Scale the gradients down to the configured norm, together or one by one, without a read-back to the host."""
        if self.config.clip == "global":
            self.grad_norm = self._norm_of(scores, head) if self._norm is None else self._norm
            self._scale_down([*scores, *head], self.grad_norm)
        elif self.config.clip == "tensor":
            for one in scores:
                self._scale_down([one], self._norm_of([one], []))
            for one in head:
                self._scale_down([one], self._norm_here([one]))

    def _scale_down(self, gradients: list[Tensor], norm: Tensor) -> None:
        if gradients:
            torch._foreach_mul_(gradients, (self.config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))

    @property
    def selected_exactly(self) -> bool:
        """True if this step selects exactly and adjusts the thresholds; else the last thresholds give the masks."""
        if self.config.cadence == "after":
            return self.steps % self.config.reselect_steps == 0
        return self.steps == 1 or (self.steps + 1) % self.config.reselect_steps == 0

    @torch.no_grad()
    def masks(self, *, exact: bool | None = None) -> dict[str, Tensor]:
        """Return the masks of the present scores by name; neither the model nor the thresholds change.

        Args:
            exact: True for exact counts, False for the last thresholds if there are any, None for what the model has.
        """
        found = self.masked.split(self._mask(exact=self._exact if exact is None else exact))
        return {name: found[name] for name in self.scores}

    def whole_masks(self, *, exact: bool | None = None) -> dict[str, Tensor]:
        """Return `masks` of whole matrices, even if several processes share them."""
        return self.masks(exact=exact)

    @torch.no_grad()
    def take_counts(self) -> None:
        """Keep as many entries of each group as `masked.kept` says from now on; the scores do not change."""
        self._blocks = self._make_blocks()
        self._selector = Selector(self._blocks, self._ranks)
        self._update(exact=True)

    def _make_blocks(self) -> list[Block]:
        """Return the groups of the scores as blocks: neighboring groups of one size form a block, selected at once."""
        names = self.masked.names[: len(self.scores)]
        sizes = {name: self.masked.dense_weights[name].numel() for name in names}
        if (pattern := self.config.n_of_m) is not None:
            return [Block(self._flat.numel() // pattern.of, pattern.of, pattern.keep)]
        counts = torch.tensor([self.masked.kept[name] for name in names])
        totals = counts if self._ranks is None else self._ranks.totals(counts)
        kept = dict(zip(names, totals.tolist(), strict=True))
        if self.config.ranking == "global":
            return [Block(1, self._flat.numel(), (sum(kept.values()),))]

        def kind(name: str) -> tuple[Any, ...]:
            if self._by_rows:
                columns = self.masked.dense_weights[name].shape[-1]
                return columns, kept[name] * columns // sizes[name]
            # Shards of different matrices may have equal sizes in this process and different sizes in another one.
            return sizes[name], None if self._ranks is None else self.masked.parameters[name].shape

        blocks = []
        for (size, kept_of_a_row), group in itertools.groupby(names, kind):
            members = list(group)
            number = sum(sizes[name] for name in members) // size
            blocks.append(Block(number, size, kept_of_a_row if self._by_rows else tuple(kept[n] for n in members)))
        return blocks

    def _mask(self, *, exact: bool) -> Tensor:
        """Return the masks as one buffer."""
        if self._choose is not None:
            masks = self._choose({name: score.detach() for name, score in self.scores.items()})
            parts = [masks[name].reshape(-1) for name in self.masked.names[: len(self.scores)]]
            return torch.cat(parts).to(self._flat.device)
        keys = self._keys()
        if exact or self._thresholds is None:
            return self._selector.select(keys, self.masked.flat[: len(keys)])
        pairs = zip(self._by_group(keys), self._by_group(self._thresholds, each=1), strict=True)
        return torch.cat([self._beyond(part, threshold).view(-1) for part, threshold in pairs])

    def _keys(self) -> Tensor:
        flat = wide(self._flat)
        return flat.abs() if self.config.rank_by == "absolute" else flat

    def _by_group(self, flat: Tensor, each: int | None = None) -> list[Tensor]:
        """Return the blocks of a buffer, `(groups, size)`; with `each`, the buffer has so many entries per group."""
        sizes = [each or block.size for block in self._blocks]
        parts = torch.split(flat, [block.groups * size for block, size in zip(self._blocks, sizes, strict=True)])
        return [part.view(-1, size) for part, size in zip(parts, sizes, strict=True)]

    def _beyond(self, keys: Tensor, threshold: Tensor) -> Tensor:
        return keys >= threshold if self.config.threshold == "reached" else keys > threshold

    def _find_thresholds(self, mask: Tensor, *, start: bool = False) -> Tensor:
        """Return the threshold of each group after an exact selection: the lowest kept or the highest pruned score.

        At the start it is phi, if phi separates kept from pruned scores, as between two plateaus (TAMT eq. 5).
        """
        parts = list(zip(self._by_group(self._keys()), self._by_group(mask), strict=True))
        lowest = torch.cat([keys.masked_fill(~kept, math.inf).amin(1) for keys, kept in parts])
        highest = torch.cat([keys.masked_fill(kept, -math.inf).amax(1) for keys, kept in parts])
        if self._ranks is not None:
            lowest, highest = self._ranks.join(lowest[None]).amin(0), self._ranks.join(highest[None]).amax(0)
        found = highest
        if self.config.threshold == "reached":
            found = lowest.masked_fill(highest == -math.inf, -math.inf)  # nothing is pruned
        if not start:
            return found
        phi = torch.full_like(found, self.config.phi)
        return torch.where(self._beyond(lowest, phi) & ~self._beyond(highest, phi), phi, found)

    def _update(self, *, exact: bool) -> None:
        """Compute the masks from the scores, adjust the thresholds if the masks are exact, and write W * M."""
        mask = self._mask(exact=exact)
        if exact and self._thresholds is not None:
            self._thresholds = self._find_thresholds(mask)
        self._exact = exact
        self.masked.write_flat(mask)

    def state_dict(self) -> dict[str, Any]:
        """Return scores, moments, head and thresholds by name, which stays valid if Parameters are replaced."""
        inner = self._inner.state_dict()["state"]
        order = [*self.scores, *self.head]
        return {
            "steps": self.steps,
            "exact": self._exact,
            "scores": {name: score.detach() for name, score in self.scores.items()},
            "head": {name: value.detach() for name, value in self.head.items()},
            "moments": {order[index]: state for index, state in inner.items()},
            "thresholds": self._thresholds,
            "param_groups": [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups],
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state, and compute the masks from it."""
        state = state_dict
        own, stored = (getattr(one, "shape", one) for one in (self._thresholds, state.get("thresholds")))
        if own != stored or set(state["scores"]) != set(self.scores):
            raise ContentError(
                "The checkpoint of this search was written by another version of winning-tickets, and its scores and "
                "thresholds do not fit this one. Start again with --force, or in another --out."
            )
        self.steps, self._exact = state["steps"], state["exact"]
        for name, score in self.scores.items():
            score.copy_(state["scores"][name])
        for name, value in self.head.items():
            value.copy_(state["head"][name])
        for name, parameter in (*self.scores.items(), *self.head.items()):
            own = self._inner.state[parameter]
            for key, value in state["moments"][name].items():
                own[key] = own[key].copy_(value) if isinstance(own[key], Tensor) else value
        for group, settings in zip(self.param_groups, state["param_groups"], strict=True):
            group.update(settings)
        if self._thresholds is not None:
            self._thresholds = state["thresholds"].to(self._flat.device)
        self.masked.write_flat(self._mask(exact=self._exact))


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
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
        correct_bias: bool,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": epsilon, "weight_decay": weight_decay})
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
