"""The best of several evaluations chosen on a part of the dev set, and reported on the rest and the whole of it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from winning_tickets.data.encode import EncodedSplit
from winning_tickets.data.tasks import Split
from winning_tickets.errors import UsageError


@dataclass(frozen=True)
class DevPart:
    """Some of the examples of a validation split.

    Attributes:
        split: texts and labels.
        encoded: the same for the model.
    """

    split: Split
    encoded: EncodedSplit


def selected_count(share: float, available: int, name: str) -> int:
    """How many examples of a dev set the best evaluation is chosen on: `share` of them, rounded down.

    Raises:
        UsageError: none, or all of them.
    """
    count = int(Fraction(str(share)) * available)
    if not 0 < count < available:
        raise UsageError(
            f"--select-on {share:g} takes {count} of the {available} examples of {name}; at least one must be chosen "
            "on, and one be left to report on."
        )
    return count


def selection_first(split: Split, seed: int) -> Split:
    """The examples in a seeded order, so that those of the selection stand at its front; nested, as training subsets.

    Args:
        split: a validation split.
        seed: of the permutation.
    """
    return split.take(np.random.default_rng(seed).permutation(len(split)).tolist())
