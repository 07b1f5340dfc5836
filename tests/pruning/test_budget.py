"""Structures under a budget: the best one that fits, against every one of a small encoder."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from winning_tickets.models.structure import Structure
from winning_tickets.pruning.budget import Losses, choose_sizes, gates_of, uniform_sizes


@dataclass
class Costs:
    base: float = 0.1
    layer: float = 0.02
    heads: tuple[float, ...] = (0.0, 0.08, 0.1)  # the first head costs most
    sizes: tuple[int, ...] = (0, 2, 4)
    neurons: tuple[float, ...] = (0.0, 0.1, 0.18)

    @property
    def least(self):
        return self.base + self.layer + self.heads[1] + self.neurons[1]

    def of(self, sizes):
        parts = (self.layer + self.heads[h] + self.neurons[self.sizes.index(n)] for h, n in sizes if h or n)
        return self.base + sum(parts)


def values(seed, layers=3):
    generator = torch.Generator().manual_seed(seed)
    return {unit: torch.rand(layers, n, generator=generator) ** 3 for unit, n in (("heads", 2), ("neurons", 4))}


def loss_of(found, sizes):
    """What is removed where each layer keeps its best units."""
    removed = 0.0
    for layer, (heads, neurons) in enumerate(sizes):
        removed += float(found["heads"][layer].sort(descending=True).values[heads:].sum())
        removed += float(found["neurons"][layer].sort(descending=True).values[neurons:].sum())
    return removed


EVERY = list(itertools.product(itertools.product(range(3), (0, 2, 4)), repeat=3))


@pytest.mark.parametrize("budget", [0.35, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("keep_first", [False, True])
def test_no_structure_that_fits_loses_less(budget, keep_first):
    costs = Costs()

    def cost(sizes):
        return costs.of(sizes) + (costs.layer if keep_first and sizes[0] == (0, 0) else 0)

    for seed in range(4):
        found = values(seed)
        sizes = choose_sizes(Losses.of(found, costs.sizes), costs, budget, keep_first=keep_first, bins=100_000)
        assert cost(sizes) <= budget + 1e-9
        best = min(loss_of(found, one) for one in EVERY if cost(one) <= budget - 1e-4)
        assert loss_of(found, sizes) <= best + 1e-6


def test_a_budget_below_the_thinnest_layer_has_no_structure():
    costs = Costs()
    losses = Losses.of(values(0), costs.sizes)
    assert choose_sizes(losses, costs, costs.least - 0.01) is None
    assert choose_sizes(losses, costs, costs.least + 0.001) is not None


def test_the_loss_of_sizes_is_that_of_the_worst_units():
    losses = Losses.of(
        {"heads": torch.tensor([[3.0, 1.0]]), "neurons": torch.tensor([[5.0, 1.0, 2.0, 4.0]])}, (0, 2, 4)
    )
    assert losses.heads.tolist() == [[4.0, 1.0, 0.0]]
    assert losses.neurons.tolist() == [[12.0, 3.0, 0.0]]


def test_even_layers_are_alike_and_fit():
    costs, found = Costs(), values(1)
    losses = Losses.of(found, costs.sizes)
    plain = uniform_sizes(losses, costs, 0.6)
    assert {one for one in plain if any(one)} in ({(2, 2)}, {(2, 4)})
    assert costs.of(plain) <= 0.6
    spread = uniform_sizes(losses, costs, 0.75, spread=True)
    assert spread == [(0, 0), (2, 4), (2, 4)]
    assert uniform_sizes(losses, costs, 0.2) is None


def test_gates_open_the_best_units_of_each_layer():
    structure = Structure(
        layers=("a", "b"), matrices={}, biases={}, hidden_size=4, num_heads=2, head_size=2, intermediate_size=4
    )
    found = {"heads": torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "neurons": torch.tensor([[1.0, 4, 3, 2], [1.0, 1, 1, 1]])}
    gates = gates_of(found, [(1, 2), (0, 0)], structure)
    structure.check(gates)
    assert {name: gate.tolist() for name, gate in gates.items()} == {
        "layers.0.heads": [False, True],
        "layers.0.neurons": [False, True, True, False],
        "layers.0.ffn": [True],
        "layers.1.heads": [False, False],
        "layers.1.neurons": [False] * 4,
        "layers.1.ffn": [False],
    }
    assert np.isfinite(Losses.of(found, (0, 4)).heads).all()
