"""Random tickets: the control that every method must beat."""

from __future__ import annotations

from winning_tickets.config import Runtime
from winning_tickets.mask_optimizer import random_masks
from winning_tickets.rundir import RunDirectory
from winning_tickets.search.base import Prepared
from winning_tickets.ticket import Ticket


def find(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> Ticket:
    """Uniformly random masks with exact counts, inside each matrix or over all of them."""
    config = prepared.config
    masks = random_masks(
        prepared.weights, config.sparsity, config.ranking, config.count_rounding or "floor", config.seed
    )
    return prepared.ticket(masks)
