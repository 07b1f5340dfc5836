"""Steps whose loss or gradients are NaN or infinite: the training stops before such a step, or passes over it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import torch

from winning_tickets.runs.distributed import is_main
from winning_tickets.runs.errors import TrainingError

MAX_SKIPPED = 10
"""Steps in a row that are passed over; one more says that the weights, the data or the rate are at fault."""


class NotFiniteError(TrainingError):
    """The loss or the gradients of a step became NaN or infinite; nothing of that step was applied.

    Args:
        step: counted from 1.
        parts: of the loss.
        norm: of the gradients.
        skipped: how many steps in a row were passed over before it.
    """

    def __init__(self, step: int, parts: Mapping[str, float], norm: float, skipped: int) -> None:
        self.step = step
        self.skipped = skipped
        before = f" The {skipped} steps before it were skipped." if skipped else ""
        super().__init__(f"{_found(step, parts, norm)}{before}")


class FiniteSteps:
    """Looks at each step between its backward pass and the optimiser.

    Args:
        skip: pass over a step that is not finite, at most `MAX_SKIPPED` in a row.

    Attributes:
        skipped: whether the last step was passed over.
    """

    def __init__(self, skip: bool) -> None:
        self._skip = skip
        self._in_a_row = 0
        self.skipped = False

    def go_on(self, skipped: int) -> None:
        """A run is resumed.

        Args:
            skipped: so many steps in a row were passed over just before.
        """
        self._in_a_row = skipped

    def check(self, step: int, parts: Mapping[str, float], norm: float, optimizer: Any) -> None:
        """Let a step pass, or take away its gradients, so that the optimiser moves nothing.

        Args:
            step: counted from 1.
            parts: of the loss.
            norm: of all gradients; NaN or infinite as soon as one of them is.
            optimizer: its parameters lose their gradients.

        Raises:
            NotFiniteError: the step is not finite, and steps are not passed over, or too many were.
        """
        self.skipped = not all(map(math.isfinite, (*parts.values(), norm)))
        if not self.skipped:
            self._in_a_row = 0
            return
        if not self._skip or self._in_a_row == MAX_SKIPPED:
            raise NotFiniteError(step, parts, norm, self._in_a_row)
        self._in_a_row += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # zeros would still let momentum and decay move the weights
        if is_main():
            print(f"{_found(step, parts, norm)} The step was skipped.", file=sys.stderr, flush=True)  # noqa: T201


def gradient_norm(optimizer: Any) -> float:
    """The norm of all gradients of an optimiser's parameters; one pass over them."""
    gradients = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    return float(torch.nn.utils.get_total_norm(gradients))


def _found(step: int, parts: Mapping[str, float], norm: float) -> str:
    shown = ", ".join(f"{name} = {value}" for name, value in parts.items())
    if all(map(math.isfinite, parts.values())):
        return f"The gradients are not finite at step {step} (norm = {norm}, {shown})."
    return f"The loss is not finite at step {step} ({shown})."
