"""Settings of SMART, the adversarial regularisation of fine-tuning."""

from __future__ import annotations

import math
from typing import Literal

from winning_tickets.config.settings import Settings


class Smart(Settings):
    """How SMART searches for the noise that changes the outputs most (Jiang et al. 2020, Algorithm 1).

    Attributes:
        alpha: weight of the regularisation beside the loss; 0 leaves it out.
        steps: ascent steps.
        noise: standard deviation of the noise that the ascent starts from.
        step_size: length of an ascent step, in the norm.
        radius: the largest norm that the noise may have.
        norm: `inf`, `l2` or `l1`.
        level: the norm is taken over each `token`'s embedding, or over those of a whole `sentence`.
    """

    alpha: float = 1.0
    steps: int = 1
    noise: float = 1e-5
    step_size: float = 1e-3
    radius: float = 1e-5
    norm: Literal["inf", "l2", "l1"] = "inf"
    level: Literal["token", "sentence"] = "token"

    def problems(self) -> list[str]:
        """What is impossible, a line each."""
        found = []
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            found.append(f"--smart {self.alpha} is impossible; its weight must not be negative.")
        if self.steps < 1:
            found.append(f"smart: steps {self.steps} is impossible; at least 1.")
        for field in ("noise", "step_size", "radius"):
            value = getattr(self, field)
            if not (value > 0 and math.isfinite(value)):
                found.append(f"smart: {field} {value} is impossible; it must be above 0.")
        return found
