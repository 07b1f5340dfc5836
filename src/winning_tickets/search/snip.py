"""SNIP (Lee et al. 2019): one look at the gradients of the dense model, before any training."""

from __future__ import annotations

import torch

from winning_tickets.config import Runtime
from winning_tickets.masking import modes
from winning_tickets.parts import present_in, prunable_views, split_name
from winning_tickets.progress import progress
from winning_tickets.rundir import RunDirectory
from winning_tickets.search.base import Prepared
from winning_tickets.search.sources import Sources, sources_of


def find(prepared: Prepared, run: RunDirectory, runtime: Runtime) -> None:
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
