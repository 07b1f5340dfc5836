"""Wanda (Sun et al. 2023): weights times the norms of their inputs, in one step, without gradients."""

from __future__ import annotations

from collections.abc import Iterator

from winning_tickets.config import Runtime
from winning_tickets.data.batches import Batch
from winning_tickets.parts import present_in
from winning_tickets.progress import progress
from winning_tickets.rundir import RunDirectory
from winning_tickets.search.activations import activation_importance, input_norms
from winning_tickets.search.base import Prepared


def find(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
    """Keep the weights with the largest |W_ij| * ||x_j||_2, compared inside each output row (their section 3).

    The norms are taken over the unpadded tokens of `calibration_batches` batches of the corpus, with the dense model.
    An embedding is looked up and has no inputs: its rows, one a token of the vocabulary, lose their smallest absolute
    weights.

    Raises:
        ContentError: the corpus is shorter than one segment.
    """
    config = prepared.config
    batches = prepared.batches(config.calibration_batches)  # the first ones that mask training would see
    model = prepared.plm.model.to(prepared.device)
    names = present_in(prepared.plm.encoder, prepared.weights)
    with progress("norms of the inputs", len(batches), runtime.quiet) as advance:

        def read() -> Iterator[Batch]:
            for step in range(len(batches)):
                yield batches[step]
                advance(step + 1, "")

        norms = input_norms(model, names, read(), prepared.device)
    scores = activation_importance(prepared.weights, norms)
    for sparsity in config.sparsities:
        prepared.ticket(prepared.keep(scores, sparsity), sparsity).save_pretrained(prepared.folder(run, sparsity))
