"""Importance that knows the inputs: |W_ij| * ||x_j|| (Wanda, Sun et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from winning_tickets.models.architectures import split_name
from winning_tickets.tickets.masking import modes
from winning_tickets.training.objectives.base import Batch


@torch.no_grad()
def input_norms(model: Any, names: Sequence[str], batches: Iterable[Batch], device: torch.device) -> dict[str, Tensor]:
    """The l2 norm of each input feature of each linear layer, over all unpadded tokens.

    Args:
        model: the dense model.
        names: matrices of its encoder; those that are not linear layers (embeddings) are passed over.
        batches: text to run.
        device: where the model is.

    Returns:
        `(in_features,)` by name.
    """
    squares: dict[str, Tensor] = {}  # by parameter: the parts of one share its input
    kept: Tensor | None = None

    def hook(name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            states = inputs[0].detach().float()
            if kept is not None and states.dim() == 3:
                if states.shape[:2] != kept.shape:
                    return  # DeBERTa projects its relative positions with the same matrices; they are no tokens
                states = states[kept]
            # A pooler sees one position of each segment, which is never padding.
            squares[name] = squares.get(name, 0.0) + states.reshape(-1, states.shape[-1]).square().sum(0)

        return add

    encoder = model.base_model
    parameters = {name: split_name(name).parameter for name in names}
    modules = {name: encoder.get_submodule(name.removesuffix(".weight")) for name in set(parameters.values())}
    handles = [m.register_forward_hook(hook(n)) for n, m in modules.items() if isinstance(m, nn.Linear)]
    try:
        with modes(model, training=False):
            for batch in batches:
                kept = batch["attention_mask"].to(device).bool()
                encoder(batch["input_ids"].to(device), batch["attention_mask"].to(device))
    finally:
        for handle in handles:
            handle.remove()
    return {name: squares[parameter].sqrt() for name, parameter in parameters.items() if parameter in squares}


def activation_importance(weights: dict[str, Tensor], norms: dict[str, Tensor]) -> dict[str, Tensor]:
    """|W_ij| * ||x_j|| where the norms are known, |W_ij| elsewhere.

    Args:
        weights: `(out, in)` by name.
        norms: `(in,)` by name.
    """
    return {n: w.abs() * norms[n].to(w.device) if n in norms else w.abs() for n, w in weights.items()}
