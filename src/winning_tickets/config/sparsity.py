"""The sparsity that the user wrote, exactly."""

from __future__ import annotations

import math
from fractions import Fraction

from winning_tickets.errors import UsageError


def check_sparsity(sparsity: float) -> Fraction:
    """The sparsity as the exact decimal that the user wrote.

    Floats would give `0.29 * 100 = 28.999...`; the shortest decimal of the float is what was meant.

    Raises:
        UsageError: not a number in [0, 1).
    """
    exact = Fraction(str(float(sparsity))) if math.isfinite(sparsity) else Fraction(-1)
    if not 0 <= exact < 1:
        raise UsageError(f"Sparsity {sparsity} is outside [0, 1); it is the fraction removed, for example 0.6.")
    return exact
