"""One-shot magnitude pruning (OMP; TAMT section 3.2): the smallest absolute weights go, in one step."""

from __future__ import annotations

from winning_tickets.config import Runtime
from winning_tickets.rundir import RunDirectory
from winning_tickets.search.base import Prepared
from winning_tickets.selection import keep_top


def find(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
    """Keep the largest absolute weights of each matrix, or of all matrices together (`ranking="global"`)."""
    config = prepared.config
    magnitudes = {name: weight.abs() for name, weight in prepared.weights.items()}
    for sparsity in config.sparsities:
        masks = keep_top(magnitudes, sparsity, config.ranking, rounding=config.count_rounding or "floor")
        prepared.ticket(masks, sparsity).save_pretrained(prepared.folder(run, sparsity))
