"""Choice of the heads, neurons and layers with the smallest loss within a cost budget, by dynamic programming.

The costs come from a table (`deploy.costs`), so that a neuron counts what it really costs on the machine. The loss of
a structure is the sum of the losses of its layers, each measured while all other layers are whole (`removal_losses`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from winning_tickets.models.structure import Structure

BINS = 4000
"""Number of steps that the budget is divided into; costs are rounded up to whole steps."""
_Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Sizes = list[tuple[int, int]]
"""Heads and neurons of each layer; (0, 0) for a layer that is removed."""


class Costs(Protocol):
    """Costs as shares of the dense model's cost; see `deploy.costs.CostTable`."""

    @property
    def base(self) -> float: ...
    @property
    def layer(self) -> float: ...
    @property
    def heads(self) -> tuple[float, ...]: ...
    @property
    def sizes(self) -> tuple[int, ...]: ...
    @property
    def neurons(self) -> tuple[float, ...]: ...
    @property
    def least(self) -> float: ...


@dataclass(frozen=True)
class Losses:
    """The loss of each layer if it keeps only its best heads or neurons, for each number of them."""

    heads: _Array  # `(layers, num_heads + 1)`: with 0, 1, ... heads kept
    neurons: _Array  # `(layers, sizes)`: with as many neurons kept as each size says

    @classmethod
    def of(cls, values: Mapping[str, Tensor], sizes: Sequence[int]) -> Losses:
        """Add up the losses of the removed units, from the loss of each of the `heads` and `neurons`, `(layers, n)`."""
        removed = {}
        for unit in ("heads", "neurons"):
            rising = np.sort(values[unit].double().numpy(), axis=1)
            sums = np.concatenate([np.zeros((len(rising), 1)), np.cumsum(rising, axis=1)], axis=1)
            removed[unit] = sums[:, ::-1]  # column k: k units are kept
        return cls(removed["heads"], removed["neurons"][:, list(sizes)])


def choose_sizes(
    losses: Losses, costs: Costs, budget: float, *, keep_first: bool = False, bins: int = BINS
) -> Sizes | None:
    """Return the sizes of all layers that have the smallest loss within a budget; None if the budget is too small.

    Args:
        losses: losses of the layers by their sizes.
        costs: costs as shares of the dense model's cost.
        budget: share of the dense model's cost.
        keep_first: never remove the first layer as a whole.
        bins: steps that the budget is divided into.
    """
    if budget < costs.least:
        return None
    # Cost of a layer by its number of heads (rows) and of neurons (columns); a layer without both is removed.
    cost = costs.layer + np.add.outer(np.array(costs.heads), np.array(costs.neurons))
    cost[0, 0] = costs.layer if keep_first else 0.0
    steps = np.ceil(cost / (budget - costs.base) * bins - 1e-9).astype(int).ravel()
    others = steps.copy()
    others[0] = 0
    least = np.full(bins + 1, 0.0)  # smallest loss of the layers so far, by the steps that they may cost
    choices = []
    for layer, (heads, neurons) in enumerate(zip(losses.heads, losses.neurons, strict=True)):
        loss = np.add.outer(heads, neurons).ravel()
        own = steps if layer == 0 else others
        # Of items with the same cost only the best matters, and only if none that costs less is as good.
        order = np.lexsort((loss, own))
        useful = order[loss[order] < np.concatenate([[np.inf], np.minimum.accumulate(loss[order])[:-1]])]
        found = np.full(bins + 1, np.inf)
        chosen = np.zeros(bins + 1, dtype=int)
        for item in useful[own[useful] <= bins]:
            reached = np.full(bins + 1, np.inf)
            reached[own[item] :] = least[: bins + 1 - own[item]] + loss[item]
            better = reached < found
            found[better], chosen[better] = reached[better], item
        least = found
        choices.append((chosen, own))
    if not np.isfinite(least[-1]):
        return None
    sizes: Sizes = []
    left = bins
    for chosen, own in reversed(choices):
        item = int(chosen[left])
        left -= int(own[item])
        heads, column = divmod(item, len(costs.neurons))
        sizes.append((heads, costs.sizes[column]))
    return sizes[::-1]


def uniform_sizes(losses: Losses, costs: Costs, budget: float, *, spread: bool = False) -> Sizes | None:
    """Return all heads and equally many neurons in each kept layer, with the smallest loss; None if none fits.

    Args:
        losses: losses of the layers by their sizes.
        costs: costs as shares of the dense model's cost.
        budget: share of the dense model's cost.
        spread: keep whole layers only, at even distances.
    """
    layers, heads = len(losses.heads), len(costs.heads) - 1
    gone = losses.heads[:, 0] + losses.neurons[:, 0]  # the loss of removing each layer as a whole
    best: tuple[float, Sizes | None] = np.inf, None
    for count in range(1, layers + 1):
        stay = sorted(np.argsort(-gone, kind="stable")[:count].tolist())
        if spread:  # the last layer of each of `count` equal parts
            stay = [round((part + 1) * layers / count) - 1 for part in range(count)]
        for column, size in enumerate(costs.sizes):
            if size == 0 or (spread and size < costs.sizes[-1]):
                continue
            if costs.base + count * (costs.layer + costs.heads[heads] + costs.neurons[column]) > budget:
                continue
            loss = float(gone.sum() - gone[stay].sum() + losses.heads[stay, heads].sum())
            loss += float(losses.neurons[stay, column].sum())
            if loss < best[0]:
                best = loss, [(heads, size) if layer in stay else (0, 0) for layer in range(layers)]
    return best[1]


def gates_of(values: Mapping[str, Tensor], sizes: Sizes, structure: Structure) -> dict[str, Tensor]:
    """Return gates that keep the most valuable units of each layer, as many as `sizes` say; on ties the first units."""
    gates: dict[str, Tensor] = {}
    for layer, numbers in enumerate(sizes):
        for unit, number in zip(("heads", "neurons"), numbers, strict=True):
            order = values[unit][layer].argsort(descending=True, stable=True)
            gate = torch.zeros(structure.per_layer(unit), dtype=torch.bool)
            gate[order[:number].cpu()] = True
            gates[f"layers.{layer}.{unit}"] = gate
        gates[f"layers.{layer}.ffn"] = torch.tensor([numbers[1] > 0])
    return gates
