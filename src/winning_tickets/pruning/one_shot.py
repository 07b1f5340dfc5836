"""One-shot pruning: random, magnitude, Wanda and SNIP tickets, from scores that need no training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.config import Runtime
from winning_tickets.config.one_shot import MagnitudeSearch, RandomSearch, WandaSearch
from winning_tickets.config.weight_training import SnipSearch
from winning_tickets.models.architectures import present_in, prunable_views, split_name
from winning_tickets.pruning.mask_optimizer import random_scores
from winning_tickets.pruning.preparation import PreparedSearch
from winning_tickets.pruning.sources import Sources, load_sources
from winning_tickets.pruning.steps import counted
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.progress import progress
from winning_tickets.tickets.masking import modes
from winning_tickets.tickets.selection import Computed, magnitudes
from winning_tickets.training.execution import attention_for_training
from winning_tickets.training.objectives.base import Batch


def find_random_ticket(prepared: PreparedSearch[RandomSearch], run: RunDirectory, runtime: Runtime) -> None:
    """Save uniformly random tickets, with the exact counts of a sparsity or pattern, or of a ticket to match."""
    prepared.save_tickets(run, random_scores(prepared.weights, prepared.config.seed))


def find_magnitude_ticket(prepared: PreparedSearch[MagnitudeSearch], run: RunDirectory, runtime: Runtime) -> None:
    """Keep the largest absolute weights of each matrix, row or N:M group, or of all matrices together."""
    prepared.save_tickets(run, magnitudes(prepared.ranked.weights))


def find_wanda_ticket(prepared: PreparedSearch[WandaSearch], run: RunDirectory, runtime: Runtime) -> None:
    """Keep the weights with the largest |W_ij| * ||x_j||_2, compared inside each output row (Wanda, section 3).

    An embedding is a lookup without inputs: each of its rows, one per token, loses its smallest absolute weights.
    """
    batches = prepared.batches(prepared.config.calibration_batches)
    model = prepared.plm.model.to(prepared.device)
    names = present_in(prepared.plm.encoder, prepared.shapes)
    with progress("norms of the inputs", len(batches), quiet=runtime.quiet) as advance:
        norms = input_norms(model, names, counted(batches, advance), prepared.device)
    prepared.save_tickets(run, activation_importance(prepared.weights, norms))


@torch.no_grad()
def input_norms(model: Any, names: Sequence[str], batches: Iterable[Batch], device: torch.device) -> dict[str, Tensor]:
    """Return the l2 norm of each input feature of each linear layer `(in,)` by name, over all unpadded tokens."""
    from transformers.pytorch_utils import Conv1D

    squares: dict[str, Tensor] = {}  # by parameter; the parts of a fused matrix (such as Wqkv) have the same input
    ids, mask = torch.empty(0), None

    def hook(name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            states = inputs[0].detach().float()
            if len(states) == ids.numel() and states.dim() == 2:
                states = states.view(*ids.shape, -1)  # OPT flattens the dimensions of batch and tokens
            if states.dim() == 3:
                if states.shape[:2] != ids.shape:
                    return  # DeBERTa projects its relative positions with the same matrices; these are not tokens
                states = states if mask is None else states * mask
            # A pooler sees one position of each segment, which is never padding.
            squares[name] = squares.get(name, 0.0) + states.reshape(-1, states.shape[-1]).square().sum(0)

        return add

    encoder = model.base_model
    parameters = {name: split_name(name).parameter for name in names}
    modules = {name: encoder.get_submodule(name.removesuffix(".weight")) for name in set(parameters.values())}
    handles = [m.register_forward_hook(hook(n)) for n, m in modules.items() if isinstance(m, nn.Linear | Conv1D)]
    try:
        with modes(model, training=False):
            for batch in batches:
                inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask") if name in batch}
                ids, mask = inputs["input_ids"], inputs.get("attention_mask")
                mask = None if mask is None else mask.unsqueeze(-1)
                encoder(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: squares[parameter].sqrt() for name, parameter in parameters.items() if parameter in squares}


def activation_importance(weights: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return |W_ij| * ||x_j||, `(out, in)` by name, or |W_ij| for a matrix without input norms `(in,)`."""

    def importance(name: str) -> Tensor:
        size = weights[name].abs()
        return size * norms[name].to(size.device) if name in norms else size

    return Computed(weights, importance)


def find_snip_ticket(prepared: PreparedSearch[SnipSearch], run: RunDirectory, runtime: Runtime) -> None:
    """Keep the weights with the largest |W * dL/dW|; L is the mean loss over `steps` batches, without dropout.

    This is the first-order change of the loss when a weight is removed (SNIP, eq. 6; its normalization would not
    change the order).
    """
    sources = load_sources(prepared)
    model = sources.model.to(prepared.device)
    names = present_in(model.base_model, prepared.shapes)
    _accumulate_gradients(sources, prepared, runtime, names)
    parameters = dict(model.base_model.named_parameters())
    # A matrix without a gradient, such as the pooler under MLM, is scored by magnitude.
    scores = {name: weight.abs() for name, weight in prepared.weights.items()}
    for name, view in prunable_views(model.base_model, names).items():
        part = split_name(name)
        gradient = parameters[part.parameter].grad
        if gradient is not None:
            scores[name] = (view * part.of(gradient)).abs()
    prepared.save_tickets(run, scores)


def _accumulate_gradients(
    sources: Sources, prepared: PreparedSearch[SnipSearch], runtime: Runtime, names: list[str]
) -> None:
    """Store the gradient of the mean loss of all batches in `.grad` of the matrices in scope, and of nothing else."""
    config, model = prepared.config, sources.model
    wanted = {split_name(name).parameter for name in names}
    model.requires_grad_(False)
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad_(name in wanted)
    dataset = sources.dataset(config, config.steps)
    weights = sources.objective.weights
    with (
        modes(model, training=False),
        attention_for_training(model, prepared.device, bf16=runtime.bf16),
        progress("gradients", config.steps, quiet=runtime.quiet) as advance,
    ):
        for step in range(config.steps):
            batch = {
                source: {key: value.to(prepared.device) for key, value in part.items()}
                for source, part in dataset[step].items()
            }
            counts = sources.objective.counts(batch)
            with torch.autocast(prepared.device.type, torch.bfloat16, enabled=runtime.bf16):
                sums = sources.objective(model, batch)
            loss = torch.stack([weights[name] * value / counts[name] for name, value in sums.items()]).sum()
            # Gradients of all batches add up; each batch counts 1 / steps.
            torch.autograd.backward(loss / config.steps)
            advance(step + 1, f"loss {float(loss.detach()):.3f}")
