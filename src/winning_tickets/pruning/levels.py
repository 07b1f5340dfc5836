"""From scores of heads, FFNs, neurons and layers to gates: exact counts over all layers, nested from level to level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from winning_tickets.config import UNIT_NAMES, Level, SearchConfig
from winning_tickets.config.structured import Unit
from winning_tickets.models.structure import UNITS, Structure
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.selection import keep_counts


def counts_of(config: SearchConfig, structure: Structure) -> list[tuple[Level, dict[Unit, int]]]:
    """What every ticket of a search loses.

    Args:
        config: with the profile filled in.
        structure: of the encoder.

    Raises:
        UsageError: more than there is, or more heads than may be pruned.
    """
    totals = {unit: structure.size(unit) for unit in UNIT_NAMES}
    found = [(level, level.counts(totals)) for level in config.levels]
    stay = min(int(config.min_heads_per_layer or 0), structure.num_heads)
    free = totals["heads"] - stay * len(structure.layers)
    for level, counts in found:
        if counts.get("heads", 0) > free:
            raise UsageError(
                f"{level.folder} prunes {counts['heads']} of {totals['heads']} heads, and with --min-heads-per-layer "
                f"{stay} no more than {free} can go."
            )
        if not any(counts.values()):
            raise UsageError(f"{level.folder} prunes nothing of this model; give a higher level, or counts.")
    return found


def random_unit_scores(structure: Structure, units: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Independent uniform scores, the same for a unit whatever others there are; float64 `(layers, n)`."""
    layers = len(structure.layers)
    return {
        unit: torch.from_numpy(np.random.default_rng([seed, index]).random((layers, structure.per_layer(unit))))
        for index, unit in enumerate(UNIT_NAMES)
        if unit in units
    }


def close_gates(
    scores: Mapping[str, Tensor], counts: Mapping[Unit, int], structure: Structure, min_heads_per_layer: int = 0
) -> dict[str, Tensor]:
    """Close so many gates with the lowest scores, over all layers; of equal ones those of higher layers go first.

    Args:
        scores: `(layers, n)` by unit.
        counts: how many are pruned, by unit, as `counts_of` allows them.
        structure: of the encoder.
        min_heads_per_layer: heads with the highest scores of their layer, which stay.

    Returns:
        Gates of the units with a count, by name.
    """
    kept: dict[str, Tensor] = {}
    for unit, count in counts.items():
        values = scores[unit].double()
        protected = torch.zeros(values.shape, dtype=torch.bool)
        if unit == "heads" and min_heads_per_layer:
            protected = _highest_of_each_row(values, min_heads_per_layer)
        ranked = values.masked_fill(protected, torch.inf)
        kept[unit] = keep_counts({unit: ranked}, {unit: values.numel() - count})[unit]
    return {
        f"layers.{layer}.{UNITS[unit]}": kept[unit][layer].clone()
        for layer in range(len(structure.layers))
        for unit in UNITS
        if unit in kept
    }


def _highest_of_each_row(values: Tensor, count: int) -> Tensor:
    rows = {str(index): row for index, row in enumerate(values)}
    kept = keep_counts(rows, dict.fromkeys(rows, min(count, values.shape[1])))
    return torch.stack(list(kept.values()))
