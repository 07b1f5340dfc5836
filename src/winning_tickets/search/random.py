"""Random tickets: the control that every method must beat."""

from __future__ import annotations

from winning_tickets.config import Runtime
from winning_tickets.mask_optimizer import random_scores
from winning_tickets.rundir import RunDirectory
from winning_tickets.search.base import Prepared
from winning_tickets.selection import keep_counts


def find(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
    """Uniformly random masks with exact counts, inside each matrix, row or N:M group, or over all matrices.

    Those of several sparsities come from the same draws, so they are nested. With a ticket to match each matrix keeps
    exactly as many weights as that ticket does: what is left of the ticket is its distribution over the matrices.
    """
    draws = random_scores(prepared.weights, prepared.config.seed)
    for sparsity in prepared.config.sparsities:
        if prepared.like is None:
            masks = prepared.keep(draws, sparsity)
        else:
            masks = keep_counts(draws, {name: int(mask.sum()) for name, mask in prepared.like.masks.items()})
        prepared.ticket(masks, sparsity).save_pretrained(prepared.folder(run, sparsity))
