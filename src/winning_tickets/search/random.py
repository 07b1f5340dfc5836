"""Random tickets: the control that every method must beat."""

from __future__ import annotations

from winning_tickets.config import Runtime
from winning_tickets.mask_optimizer import random_masks
from winning_tickets.rundir import RunDirectory
from winning_tickets.search.base import Prepared


def find(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
    """Uniformly random masks with exact counts, inside each matrix or over all of them.

    Those of several sparsities come from the same draws, so they are nested.
    """
    config = prepared.config
    for sparsity in config.sparsities:
        masks = random_masks(prepared.weights, sparsity, config.ranking, config.count_rounding or "floor", config.seed)
        prepared.ticket(masks, sparsity).save_pretrained(prepared.folder(run, sparsity))
