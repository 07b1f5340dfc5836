"""Random tickets: the control that every method must beat."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from winning_tickets.config import Runtime
from winning_tickets.data.batches import Batch
from winning_tickets.models.architectures import present_in, prunable_views, split_name
from winning_tickets.pruning.activations import activation_importance, input_norms
from winning_tickets.pruning.base import Prepared
from winning_tickets.pruning.mask_optimizer import random_scores
from winning_tickets.pruning.sources import Sources, sources_of
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.progress import progress
from winning_tickets.tickets.masking import modes
from winning_tickets.tickets.selection import keep_counts


def find_random_ticket(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
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


def find_magnitude_ticket(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
    """Keep the largest absolute weights of each matrix, row or N:M group, or of all matrices together."""
    magnitudes = {name: weight.abs() for name, weight in prepared.ranked.weights.items()}
    for sparsity in prepared.config.sparsities:
        masks = prepared.keep(magnitudes, sparsity)
        prepared.ticket(masks, sparsity).save_pretrained(prepared.folder(run, sparsity))


def find_wanda_ticket(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
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


def find_snip_ticket(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
    """Keep the weights with the largest |W * dL/dW|, L the mean loss over `steps` batches, without dropout.

    It is the first-order change of the loss when a weight is taken away (their eq. 6; the normalisation over all
    weights changes no order). A matrix that the loss does not reach, such as the pooler under MLM, keeps the magnitude.
    """
    config = prepared.config
    sources = sources_of(prepared)
    model = sources.model.to(prepared.device)
    names = present_in(model.base_model, prepared.weights)
    _add_gradients(sources, prepared, runtime, names)
    parameters = dict(model.base_model.named_parameters())
    scores = {name: weight.abs().to(prepared.device) for name, weight in prepared.weights.items()}
    for name, view in prunable_views(model.base_model, names).items():
        part = split_name(name)
        gradient = parameters[part.parameter].grad
        if gradient is not None:
            scores[name] = (view * part.of(gradient)).abs()
    for sparsity in config.sparsities:
        masks = prepared.keep(scores, sparsity)
        prepared.ticket(masks, sparsity).save_pretrained(prepared.folder(run, sparsity))


def _add_gradients(sources: Sources, prepared: Prepared, runtime: Runtime, names: list[str]) -> None:
    """Leave the gradient of the mean loss of all batches on the matrices in scope, and on nothing else."""
    config, model = prepared.config, sources.model
    wanted = {split_name(name).parameter for name in names}
    model.requires_grad_(False)
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad_(name in wanted)
    dataset = sources.dataset(config, config.steps)
    weights = sources.objective.weights
    with modes(model, training=False), progress("gradients", config.steps, runtime.quiet) as advance:
        for step in range(config.steps):
            batch = {
                source: {key: value.to(prepared.device) for key, value in part.items()}
                for source, part in dataset[step].items()
            }
            counts = sources.objective.counts(batch)
            with torch.autocast(prepared.device.type, torch.bfloat16, enabled=runtime.bf16):
                sums = sources.objective(model, batch)
            loss = torch.stack([weights[name] * value / counts[name] for name, value in sums.items()]).sum()
            torch.autograd.backward(loss / config.steps)
            advance(step + 1, f"loss {float(loss.detach()):.3f}")
