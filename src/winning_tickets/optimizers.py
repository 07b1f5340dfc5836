"""What moves weights, by name: AdamW, and the two kinds of Adamax."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from winning_tickets.adamax import MTDNNAdamax

_EPSILON = {"adamw": 1e-8, "adamax": 1e-8, "adamax-mtdnn": 1e-6}


def make_optimizer(
    kind: str,
    groups: Iterable[dict[str, Any]],
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float | None = None,
) -> torch.optim.Optimizer:
    """An optimiser over parameter groups.

    Args:
        kind: `adamw` and `adamax` are torch's, `adamax-mtdnn` is `MTDNNAdamax`, which the super tickets were trained
            with.
        groups: parameter groups, each with its `weight_decay`.
        learning_rate: peak rate.
        betas: decay of the moments.
        epsilon: None takes the kind's own.
    """
    epsilon = _EPSILON[kind] if epsilon is None else epsilon
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=True)
    made = MTDNNAdamax if kind == "adamax-mtdnn" else torch.optim.Adamax
    return made(groups, lr=learning_rate, betas=betas, eps=epsilon)


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of those that are trained: matrices decay, biases and norms never do."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.dim() > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
