"""How far the states of a model move when something in it changes a little, in one backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from winning_tickets.architectures import Architecture
from winning_tickets.objectives.base import Batch
from winning_tickets.objectives.passes import run_encoder


class StateProbe:
    """A random projection of the states that the KD loss compares, as an objective to be differentiated.

    The KD loss of a model with itself is zero and flat: to second order it is half the squared length of the move of
    the normalised states. The derivative of a projection on random directions v, normally distributed, is normally
    distributed with that length as its deviation, so that the mean of absolute derivatives is in proportion to it.

    Args:
        architecture: entry of the model's family.
        seed: of the directions.
    """

    def __init__(self, architecture: Architecture, seed: int) -> None:
        self.weights = {"kd": 1.0}
        self._architecture = architecture
        self._generator = torch.Generator().manual_seed(seed)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Number of unpadded tokens."""
        return {"kd": batch["attention_mask"].sum()}

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """The sum over layers and unpadded tokens of <v, normalised state>, over the root of the number of layers."""
        states = run_encoder(model, batch, {"states"}, self._architecture).states
        kept = batch["attention_mask"].bool()
        total = states[0].new_zeros((), dtype=torch.float32)
        for state in states:
            directions = torch.randn(state.shape, generator=self._generator).to(state.device)[kept]
            total = total + (functional.normalize(state[kept].float(), dim=-1) * directions).sum()
        return {"kd": total / len(states) ** 0.5}
