"""What a pruned network goes back to after a round, as the user writes it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from winning_tickets.errors import UsageError

NOISE_SCALE = 0.1
"""Standard deviation of `noise` without a scale, in units of each matrix's own."""


@dataclass(frozen=True)
class Rewind:
    """A policy of rewinding.

    Attributes:
        kind: `pretrained`, `none`, `reinit`, `noise`, `step` or `percent`.
        amount: the scale of the noise, the step, or the percentage of the first round; 0 for the others.
    """

    kind: str
    amount: float = 0.0

    def step(self, round_steps: int) -> int | None:
        """Step of the first round whose weights are kept to go back to; None where it is no step."""
        if self.kind == "percent":
            return round(self.amount * round_steps / 100)
        return int(self.amount) if self.kind == "step" else None


def parse_rewind(text: str) -> Rewind:
    """The policy that the user's word stands for.

    Raises:
        UsageError: no such policy, or an impossible number.
    """
    kind, colon, number = text.partition(":")
    if not colon and kind in ("pretrained", "none", "reinit", "noise"):
        return Rewind(kind, NOISE_SCALE if kind == "noise" else 0.0)
    pattern = {"step": r"[0-9]+", "percent": r"[0-9.]+", "noise": r"[0-9.]+(e-?[0-9]+)?"}.get(kind)
    if pattern is not None and re.fullmatch(pattern, number):
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if (kind == "percent" and 0 <= amount <= 100) or (kind == "noise" and amount > 0) or kind == "step":
            return Rewind(kind, amount)
    raise UsageError(
        f"--rewind {text} is not a policy; use pretrained, step:K, percent:P (0 to 100 of the first round), none, "
        "noise, noise:SCALE or reinit."
    )
