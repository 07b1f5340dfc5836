"""One-shot magnitude pruning (OMP; TAMT section 3.2): the smallest absolute weights go, in one step."""

from __future__ import annotations

from winning_tickets.config import Runtime
from winning_tickets.rundir import RunDirectory
from winning_tickets.search.base import Prepared


def find(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
    """Keep the largest absolute weights of each matrix, row or N:M group, or of all matrices together."""
    magnitudes = {name: weight.abs() for name, weight in prepared.ranked.weights.items()}
    for sparsity in prepared.config.sparsities:
        masks = prepared.keep(magnitudes, sparsity)
        prepared.ticket(masks, sparsity).save_pretrained(prepared.folder(run, sparsity))
