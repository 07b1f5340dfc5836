"""Gates as what the mask optimiser trains: parameters that stand at one, scores for them, exact counts over all layers.

To the mask engine (docs/explanation/mask_engine.md) a gate is a weight whose dense value is one: its parameter holds
W * M = M, so the straight-through gradient of its score, g * W, is the gradient of the gate itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from winning_tickets.config.structured import Unit
from winning_tickets.mask_optimizer import initial_scores
from winning_tickets.masking import MaskedWeights
from winning_tickets.search.levels import close_gates, random_unit_scores
from winning_tickets.structure import UNITS, Structure


class GateParameters(nn.Module):
    """Gates of all layers of an encoder, named as in a ticket (`layers.0.heads`), float32 `(n,)` and all open.

    Args:
        structure: of the encoder.
        units: keys of `structure.UNITS`.
    """

    def __init__(self, structure: Structure, units: Sequence[str]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ParameterDict({UNITS[unit]: nn.Parameter(torch.ones(structure.per_layer(unit))) for unit in units})
            for _ in structure.layers
        )


class ByLevel:
    """Closes exactly as many gates of each unit as a level says, over all layers, at every step.

    Args:
        masked: the gates; its masks are overwritten.
        scores: flat, by name of the gate.
        structure: of the encoder.
        counts: how many are closed, by unit.
        min_heads_per_layer: heads with the highest scores of their layer, which stay.
    """

    def __init__(
        self,
        masked: MaskedWeights,
        scores: Mapping[str, Tensor],
        structure: Structure,
        counts: Mapping[Unit, int],
        min_heads_per_layer: int,
    ) -> None:
        self.thresholds: list[float] = []
        self._masked, self._scores = masked, scores
        self._structure, self._counts, self._min_heads = structure, counts, min_heads_per_layer

    def take_counts(self) -> None:
        """There is nothing to take: the level says them."""

    def select(self, exact: bool) -> None:
        """Masks with exact counts."""
        layers = range(len(self._structure.layers))
        scores: dict[str, Tensor] = {
            unit: torch.stack([self._scores[f"layers.{layer}.{UNITS[unit]}"] for layer in layers]).cpu()
            for unit in self._counts
        }
        for name, gate in close_gates(scores, self._counts, self._structure, self._min_heads).items():
            self._masked.masks[name].copy_(gate)

    def start_at(self, phi: float) -> None:
        """There is no threshold to set."""


def gate_scores(
    importances: Mapping[str, Tensor],
    init: Literal["rank", "plateau", "random"],
    counts: Mapping[Unit, int],
    structure: Structure,
    min_heads_per_layer: int,
    top: float,
    seed: int,
) -> dict[str, Tensor]:
    """Scores of gates before the first step, by name, float32 `(n,)`.

    `rank`: from 0 to `top`, rising with the rank of the importance among all units of the kind, over all layers, so
    that the threshold lies in a dense scale; the search starts at the ticket of importance. `plateau`: `top` for what
    that ticket keeps, else 0. `random`: the same two values over random gates.

    Args:
        importances: `(layers, n)` by unit; `random` needs none.
        init: how.
        counts: how many gates are closed, by unit.
        structure: of the encoder.
        min_heads_per_layer: as `close_gates` takes it.
        top: the highest score.
        seed: of random gates.
    """
    if init == "rank":
        ranked = initial_scores(importances, "rank", 0.0, "matrix", "floor", alpha=top, phi=1.0, seed=seed)
        layers = range(len(structure.layers))
        return {f"layers.{layer}.{UNITS[unit]}": ranked[unit][layer] for layer in layers for unit in counts}
    ordered = importances if init == "plateau" else random_unit_scores(structure, list(counts), seed)
    kept = close_gates(ordered, counts, structure, min_heads_per_layer)
    return {name: gate.float() * top for name, gate in kept.items()}
