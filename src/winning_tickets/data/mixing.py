"""Batches of several sources: of a task in a seeded order, and one batch or one of each a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from winning_tickets.data.encode import EncodedSplit, Item

Batch = dict[str, torch.Tensor]
Mixing = Literal["sum", "proportional"]

_ORDER, _DRAW = 0, 1  # streams of random numbers of one seed


class TaskBatches:
    """Whole batches of a task's examples, every example once an epoch, in an order of its own each epoch.

    Args:
        examples: tokenised.
        collate: pads a list of items.
        batch_size: examples a batch; the last one of an epoch may have fewer.
        seed: of the orders.
    """

    def __init__(
        self, examples: EncodedSplit, collate: Callable[[list[Item]], Batch], batch_size: int, seed: int
    ) -> None:
        self._examples, self._collate, self._batch_size, self._seed = examples, collate, batch_size, seed
        self.per_epoch = -(-len(examples) // batch_size)

    def __getitem__(self, index: int) -> Batch:
        """Batch `index` of an endless row of epochs, the same whenever it is asked for."""
        epoch, place = divmod(index, self.per_epoch)
        order = np.random.default_rng([self._seed, _ORDER, epoch]).permutation(len(self._examples))
        chosen = order[place * self._batch_size : (place + 1) * self._batch_size]
        return self._collate([self._examples[int(example)] for example in chosen])


class MixedBatches(Dataset[dict[str, Batch]]):
    """What each step of a training on several sources sees.

    Args:
        sources: batches by index, by name; each is asked for as many as it gives steps.
        sizes: batches an epoch of each source.
        mixing: `sum`: one batch of every source a step, so that smaller sources come round more often;
            `proportional`: a batch of one source, every batch of every source once in as many steps as there are.
        n_steps: length.
        seed: of the order of sources.
    """

    def __init__(
        self, sources: Mapping[str, Any], sizes: Mapping[str, int], mixing: Mixing, n_steps: int, seed: int
    ) -> None:
        self._sources, self._length = dict(sources), n_steps
        names = list(self._sources)
        if mixing == "sum":
            self._plan: Sequence[list[tuple[str, int]]] = _Everything(names, n_steps)
        else:
            self._plan = _in_turns(names, [sizes[name] for name in names], n_steps, seed)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Batch]:
        """The batches of step `index`, by source."""
        if not 0 <= index < self._length:
            raise IndexError(f"Step {index} of {self._length}.")
        return {name: self._sources[name][batch] for name, batch in self._plan[index]}


class _Everything(Sequence[list[tuple[str, int]]]):
    """Batch i of every source at step i."""

    def __init__(self, names: list[str], length: int) -> None:
        self._names, self._length = names, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return [(name, index) for name in self._names]


def _in_turns(names: list[str], sizes: list[int], n_steps: int, seed: int) -> list[list[tuple[str, int]]]:
    """Each round of `sum(sizes)` steps holds every source as often as it has batches, shuffled anew."""
    turns = np.repeat(np.arange(len(names)), sizes)
    rounds = max(1, -(-n_steps // len(turns)))
    order = np.concatenate([np.random.default_rng([seed, _DRAW, i]).permutation(turns) for i in range(rounds)])
    taken = [0] * len(names)
    plan = []
    for source in order[:n_steps].tolist():
        plan.append([(names[source], taken[source])])
        taken[source] += 1
    return plan
