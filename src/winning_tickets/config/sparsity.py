"""Exact sparsities as the user wrote them, and N:M patterns."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from winning_tickets.runs.errors import UsageError, listed


def check_sparsity(sparsity: float) -> Fraction:
    """Return a sparsity as the exact decimal that the user wrote: the shortest decimal of the float."""
    exact = Fraction(str(float(sparsity))) if math.isfinite(sparsity) else Fraction(-1)
    if not 0 <= exact < 1:
        raise UsageError(f"Sparsity {sparsity} is outside [0, 1); it is the fraction removed, for example 0.6.")
    return exact


_FORM = re.compile(r"([1-9]\d*):([1-9]\d*)")
_NAMED = 4  # matrices that a message names; it only counts the others


@dataclass(frozen=True)
class Pattern:
    """An N:M pattern: N of every M consecutive entries of a row of an `(out, in)` matrix are kept."""

    keep: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a pattern such as `2:4`, two of every four."""
        match = _FORM.fullmatch(text)
        if match is None or int(match[1]) > int(match[2]):
            raise UsageError(
                f"The pattern {text!r} is not N:M with 1 <= N <= M; 2:4 keeps 2 of every 4 successive weights of a row."
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}"

    @property
    def sparsity(self) -> float:
        """Fraction removed, 1 - N/M."""
        return (self.of - self.keep) / self.of

    def check_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse matrices, of shape `(out, in)` by name, whose rows are not a whole number of groups."""
        uneven = [f"{name} ({shape[-1]})" for name, shape in shapes.items() if shape[-1] % self.of]
        if uneven:
            raise UsageError(
                f"The pattern {self} needs input dimensions that {self.of} divides; it does not divide those of "
                f"{listed(uneven, _NAMED)}. Choose another pattern, or prune without one."
            )
