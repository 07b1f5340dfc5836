"""Batches of several sources: of a task in a seeded order, and one batch or one of each a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from winning_tickets.data.encode import EncodedSplit, Item

Batch = dict[str, torch.Tensor]
Mixing = Literal["sum", "proportional", "annealed", "ratio", "round-robin"]

_ORDER, _DRAW = 0, 1  # streams of random numbers of one seed
_LAST_POWER = 0.2  # of the sizes, in the last epoch of `annealed`


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
        self._last: tuple[int, np.ndarray[Any, Any]] = 0, self._order(0)

    def __getitem__(self, index: int) -> Batch:
        """Batch `index` of an endless row of epochs, the same whenever it is asked for."""
        epoch, place = divmod(index, self.per_epoch)
        if self._last[0] != epoch:  # drawing the order of a large task takes longer than a batch of it
            self._last = epoch, self._order(epoch)
        chosen = self._last[1][place * self._batch_size : (place + 1) * self._batch_size]
        return self._collate([self._examples[int(example)] for example in chosen])

    def _order(self, epoch: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng([self._seed, _ORDER, epoch]).permutation(len(self._examples))


class MixedBatches(Dataset[dict[str, Batch]]):
    """What each step of a training on several sources sees.

    Every scheme takes the batches of a source in the source's own order, without a gap, so that each of its examples
    comes once in each pass over it. A step is a function of the seed and of its index alone: a resumed training goes on
    where it stopped, and several processes agree without talking.

    Args:
        sources: batches by index, by name; each is asked for as many as it gives steps.
        sizes: batches an epoch of each source.
        mixing: `sum`: one batch of every source a step, so that smaller sources come round more often.
            The others give a batch of one source a step.
            `proportional`: every batch of every source once an epoch, shuffled.
            `annealed`: epochs of as many steps, with turns in proportion to size to a power that falls from 1 in the
            first epoch to 0.2 in the last (Stickland and Murray 2019), so that small sources are heard at the end.
            `ratio`: every batch of one main source once an epoch, and a fresh draw from those of the others.
            `round-robin`: one batch of each in turn, in their order.
        n_steps: length.
        seed: of the order of sources.
        main: for `ratio`: the main source.
        ratio: for `ratio`: batches of all others together for each batch of the main one, at most all they have.

    Raises:
        ValueError: `ratio` without its source or its number.
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        sizes: Mapping[str, int],
        mixing: Mixing,
        n_steps: int,
        seed: int,
        main: str | None = None,
        ratio: float | None = None,
    ) -> None:
        self._sources, self._length = dict(sources), n_steps
        sizes = {name: sizes[name] for name in self._sources}
        names, counts = list(sizes), list(sizes.values())
        self._plan: Sequence[list[tuple[str, int]]]
        if mixing == "sum":
            self._plan = _Everything(names, n_steps)
        elif mixing == "round-robin":
            self._plan = [[(names[step % len(names)], step // len(names))] for step in range(n_steps)]
        elif mixing == "ratio":
            place, drawn = _main_and_others(sizes, main, ratio)
            self._plan = _in_turns(names, _around(place, counts, drawn), n_steps, seed)
        else:
            self._plan = _in_turns(names, _all_of(counts, n_steps, mixing == "annealed"), n_steps, seed)

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


def epoch_steps(sizes: Mapping[str, int], mixing: Mixing, main: str | None = None, ratio: float | None = None) -> int:
    """Steps of an epoch: until the largest source (of `ratio`: the main one) has been seen once.

    `proportional` has then seen every batch of every source exactly once. An epoch of `annealed` is as long, and only
    its first one has.

    Args:
        sizes: batches an epoch of each source.
        mixing: as for `MixedBatches`.
        main: for `ratio`.
        ratio: for `ratio`.
    """
    if mixing == "sum":
        return max(sizes.values())
    if mixing == "round-robin":
        return len(sizes) * max(sizes.values())
    if mixing == "ratio":
        place, drawn = _main_and_others(sizes, main, ratio)
        return list(sizes.values())[place] + drawn
    return sum(sizes.values())


def _main_and_others(sizes: Mapping[str, int], main: str | None, ratio: float | None) -> tuple[int, int]:
    """Which source is the main one, and how many batches of the others an epoch has: 0.29 of 100 are 29."""
    if main is None or main not in sizes or ratio is None or ratio < 0:
        raise ValueError(
            f"mixing='ratio' needs main, one of {', '.join(sizes)}, and ratio, 0 or more; found {main!r} and {ratio}."
        )
    own = sizes[main]
    return list(sizes).index(main), min(math.floor(Fraction(str(ratio)) * own), sum(sizes.values()) - own)


_Turns = Callable[[int, np.random.Generator], np.ndarray[Any, Any]]
"""The source of each step of an epoch, given its number and random numbers of its own."""


def _all_of(sizes: list[int], n_steps: int, annealed: bool) -> _Turns:
    """Each epoch of `sum(sizes)` steps has every source as often as it has batches, or (annealed) its share says."""
    epochs = -(-n_steps // sum(sizes))

    def turns(epoch: int, generator: np.random.Generator) -> np.ndarray[Any, Any]:
        power = 1 - (1 - _LAST_POWER) * epoch / max(1, epochs - 1) if annealed else 1
        counts = sizes if power == 1 else _shares(sizes, power)
        return generator.permutation(np.repeat(np.arange(len(sizes)), counts))

    return turns


def _shares(sizes: list[int], power: float) -> list[int]:
    """As many turns as there are batches, in proportion to size ** power; largest remainders first."""
    weights = [size**power for size in sizes]
    exact = [sum(sizes) * weight / sum(weights) for weight in weights]
    counts = [math.floor(share) for share in exact]
    order = sorted(range(len(sizes)), key=lambda source: counts[source] - exact[source])
    for source in order[: sum(sizes) - sum(counts)]:
        counts[source] += 1
    return counts


def _around(main: int, sizes: list[int], drawn: int) -> _Turns:
    """Each epoch has all batches of the main source, and so many drawn from the others without replacement."""
    everything = np.repeat(np.arange(len(sizes)), sizes)

    def turns(epoch: int, generator: np.random.Generator) -> np.ndarray[Any, Any]:
        others = generator.permutation(everything[everything != main])[:drawn]
        return generator.permutation(np.concatenate([everything[everything == main], others]))

    return turns


def _in_turns(names: list[str], turns: _Turns, n_steps: int, seed: int) -> list[list[tuple[str, int]]]:
    """The source of each step, and how many batches it has given before."""
    taken = [0] * len(names)
    plan: list[list[tuple[str, int]]] = []
    epoch = 0
    while len(plan) < n_steps:
        for source in turns(epoch, np.random.default_rng([seed, _DRAW, epoch])).tolist()[: n_steps - len(plan)]:
            plan.append([(names[source], taken[source])])
            taken[source] += 1
        epoch += 1
    return plan
