"""Batches of a task in a seeded order, and batches of several sources, of which each step uses one or all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from winning_tickets.data.encode import Batch, EncodedSplit, Item

Mixing = Literal["sum", "proportional", "annealed", "ratio", "round-robin"]

_ORDER, _DRAW = 0, 1  # streams of random numbers of one seed
_LAST_POWER = 0.2  # exponent of the sizes in the last epoch of `annealed`


Order = Callable[[int, int, int], "np.ndarray[Any, Any]"]
"""A function of a seed, an epoch and a number of examples that returns a permutation of their indices."""


def task_order(seed: int, epoch: int, count: int) -> np.ndarray[Any, Any]:
    """Return a permutation drawn by NumPy from seed and epoch."""
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(count)


def trainer_order(seed: int, epoch: int, count: int) -> np.ndarray[Any, Any]:
    """Return the permutation that the Hugging Face Trainer draws: by torch, with the seed plus the epoch."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).numpy()


_GROUP = 50  # batches of a group that is sorted by length; at most a quarter of a small data set, so that batches vary


def grouped_order(lengths: Sequence[int], batch_size: int) -> Order:
    """Return an order in which the examples of a batch have similar lengths; otherwise it is as random as possible."""
    # As in the Trainer, random groups of many batches are sorted by length and cut; then their batches are shuffled, so
    # that lengths come in random order. The last batch stays at the end, as it may be smaller.
    known = np.asarray(lengths)

    def order(seed: int, epoch: int, count: int) -> np.ndarray[Any, Any]:
        shuffled = trainer_order(seed, epoch, count)
        large = batch_size * max(1, min(_GROUP, count // (4 * batch_size)))
        groups = [shuffled[start : start + large] for start in range(0, count, large)]
        by_length = np.concatenate([group[np.argsort(known[group], kind="stable")] for group in groups])
        full = count // batch_size * batch_size
        batches = by_length[:full].reshape(-1, batch_size)
        places = np.random.default_rng([seed, _ORDER, epoch]).permutation(len(batches))
        return np.concatenate([batches[places].reshape(-1), by_length[full:]])

    return order


class TaskBatches:
    """Batches of a task's examples: every example once per epoch, in a new order each epoch.

    With `by_length` the examples of a batch have similar lengths, and `order` is not used.
    """

    def __init__(
        self,
        examples: EncodedSplit,
        collate: Callable[[list[Item]], Batch],
        batch_size: int,
        seed: int,
        *,
        order: Order = task_order,
        by_length: bool = False,
    ) -> None:
        self._examples, self._collate, self._batch_size, self._seed = examples, collate, batch_size, seed
        lengths = [len(ids) for ids in examples.columns["input_ids"]] if by_length else []
        self._draw = grouped_order(lengths, batch_size) if by_length else order
        self.per_epoch = -(-len(examples) // batch_size)
        self._last: tuple[int, np.ndarray[Any, Any]] = 0, self._order(0)

    def __getitem__(self, index: int) -> Batch:
        """Return batch `index` of endless epochs, always the same."""
        epoch, place = divmod(index, self.per_epoch)
        if self._last[0] != epoch:  # drawing the order of a large task takes longer than a batch of it
            self._last = epoch, self._order(epoch)
        chosen = self._last[1][place * self._batch_size : (place + 1) * self._batch_size]
        return self._collate([self._examples[int(example)] for example in chosen])

    def _order(self, epoch: int) -> np.ndarray[Any, Any]:
        return self._draw(self._seed, epoch, len(self._examples))


class MixedBatches(Dataset[dict[str, Batch]]):
    """Batches of each step of a training on several sources."""

    # Every scheme takes the batches of a source in the source's own order, without a gap, so that each of its examples
    # comes once in each pass over it. A step is a function of the seed and of its index alone: a training resumes
    # without any state, and several processes agree without communication. `sum` gives one batch of every source per
    # step, so that smaller sources are repeated more often. The others give a batch of one source per step.
    # `proportional`: every batch of every source once per epoch, shuffled. `annealed`: epochs of as many steps; the
    # share of a source is its size to a power that falls from 1 in the first epoch to 0.2 in the last (Stickland and
    # Murray 2019), so that small sources count more at the end. `ratio`: every batch of one main source once per epoch,
    # and a new draw from those of the others. `round-robin`: one batch of each in turn.

    def __init__(
        self,
        sources: Mapping[str, Any],  # batches by index, by name
        sizes: Mapping[str, int],  # batches per epoch of each source
        mixing: Mixing,
        n_steps: int,
        *,
        seed: int,  # of the order of sources
        main: str | None = None,  # for `ratio`: the main source
        ratio: float | None = None,  # batches of all others together per batch of the main one, at most all they have
    ) -> None:
        self._sources, self._length = dict(sources), n_steps
        sizes = {name: sizes[name] for name in self._sources}
        names = list(sizes)
        self._plan: list[list[tuple[str, int]]] | None = None  # None: step i has batch i of every source
        if mixing == "round-robin":
            self._plan = [[(names[step % len(names)], step // len(names))] for step in range(n_steps)]
        elif mixing != "sum":
            self._plan = _plan(sizes, mixing, n_steps, seed, main=main, ratio=ratio)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Batch]:
        """Return the batches of step `index`, by source."""
        if not 0 <= index < self._length:
            raise IndexError(f"Step {index} of {self._length}.")
        if self._plan is None:
            return {name: source[index] for name, source in self._sources.items()}
        return {name: self._sources[name][batch] for name, batch in self._plan[index]}


def epoch_steps(sizes: Mapping[str, int], mixing: Mixing, main: str | None = None, ratio: float | None = None) -> int:
    """Return the steps of an epoch, which ends when the largest source (of `ratio`: the main one) was seen once."""
    # The arguments are those of `MixedBatches`. Only the first epoch of `annealed` has this length.
    if mixing == "sum":
        return max(sizes.values())
    if mixing == "round-robin":
        return len(sizes) * max(sizes.values())
    if mixing == "ratio":
        place, drawn = _main_and_others(sizes, main, ratio)
        return list(sizes.values())[place] + drawn
    return sum(sizes.values())


def _main_and_others(sizes: Mapping[str, int], main: str | None, ratio: float | None) -> tuple[int, int]:
    """Return the index of the main source, and the number of batches of the others per epoch, from the exact ratio."""
    if main is None or main not in sizes or ratio is None or ratio < 0:
        raise ValueError(
            f"mixing='ratio' needs main, one of {', '.join(sizes)}, and ratio, 0 or more; found {main!r} and {ratio}."
        )
    own = sizes[main]
    return list(sizes).index(main), min(math.floor(Fraction(str(ratio)) * own), sum(sizes.values()) - own)


def _shares(sizes: list[int], power: float) -> list[int]:
    """Divide `sum(sizes)` turns in proportion to size ** power; largest remainders first."""
    weights = [size**power for size in sizes]
    exact = [sum(sizes) * weight / sum(weights) for weight in weights]
    counts = [math.floor(share) for share in exact]
    order = sorted(range(len(sizes)), key=lambda source: counts[source] - exact[source])
    for source in order[: sum(sizes) - sum(counts)]:
        counts[source] += 1
    return counts


def _plan(
    sizes: Mapping[str, int], mixing: Mixing, n_steps: int, seed: int, *, main: str | None, ratio: float | None
) -> list[list[tuple[str, int]]]:
    """Return for each step its source and the index of that source's batch."""
    names, counts = list(sizes), list(sizes.values())
    everything = np.repeat(np.arange(len(counts)), counts)
    place, drawn = _main_and_others(sizes, main, ratio) if mixing == "ratio" else (0, 0)
    epochs = -(-n_steps // sum(counts))
    taken = [0] * len(names)
    plan: list[list[tuple[str, int]]] = []
    epoch = 0
    while len(plan) < n_steps:
        random = np.random.default_rng([seed, _DRAW, epoch])
        if mixing == "ratio":
            # All batches of the main source, and some of the others, drawn without replacement.
            others = random.permutation(everything[everything != place])[:drawn]
            turns = random.permutation(np.concatenate([everything[everything == place], others]))
        else:
            # Each source as often as it has batches or, if annealed, according to its share.
            power = 1 - (1 - _LAST_POWER) * epoch / max(1, epochs - 1) if mixing == "annealed" else 1
            shares = counts if power == 1 else _shares(counts, power)
            turns = random.permutation(np.repeat(np.arange(len(counts)), shares))
        for source in turns.tolist()[: n_steps - len(plan)]:
            plan.append([(names[source], taken[source])])
            taken[source] += 1
        epoch += 1
    return plan
