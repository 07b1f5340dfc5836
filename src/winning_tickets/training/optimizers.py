"""Optimizers of fine-tuning by name: AdamW, Adamax, and the Adamax of MT-DNN."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class MTDNNAdamax(torch.optim.Optimizer):
    """The Adamax of MT-DNN, with which the super tickets were trained."""

    # m <- b1 m + (1 - b1) g, u <- max(b2 u, |g| + eps), w <- w - lr (m / (u + eps) + weight_decay w). No bias
    # correction: the first steps are a tenth as long as those of `torch.optim.Adamax` (Kingma and Ba 2014), which also
    # adds the decay to the gradient. Steps are not counted, so a parameter that joins late is treated like any other.

    def __init__(
        self,
        groups: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        *,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("MTDNNAdamax does not support closures.")
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_inf"] = torch.zeros_like(parameter)
                mean, largest = state["exp_avg"], state["exp_inf"]
                mean.mul_(beta1).add_(parameter.grad, alpha=1 - beta1)
                scratch = parameter.grad.abs().add_(group["eps"])
                torch.maximum(largest.mul_(beta2), scratch, out=largest)
                torch.add(largest, group["eps"], out=scratch)
                torch.div(mean, scratch, out=scratch)
                if group["weight_decay"]:
                    scratch.add_(parameter, alpha=group["weight_decay"])
                parameter.sub_(scratch, alpha=group["lr"])


_EPSILON = {"adamw": 1e-8, "adamax": 1e-8, "adamax-mtdnn": 1e-6}


def make_optimizer(kind: str, groups: Iterable[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Make the optimizer `adamw`, `adamax` (both torch's) or `adamax-mtdnn`; each kind has its own epsilon."""
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, eps=_EPSILON[kind], fused=True)
    made = MTDNNAdamax if kind == "adamax-mtdnn" else torch.optim.Adamax
    return made(groups, lr=learning_rate, eps=_EPSILON[kind])


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Group the trained parameters: matrices decay, biases and norms never do."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.dim() > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Make AdamW for all trained parameters; like that of the Hugging Face Trainer it never decays biases and norms."""
    # A table of relative positions is called a bias, although it is a matrix.
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decays = {name: parameter.dim() > 1 and "bias" not in name for name, parameter in trained}
    groups: list[dict[str, Any]] = [
        {"params": [parameter for name, parameter in trained if decays[name]], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in trained if not decays[name]], "weight_decay": 0.0},
    ]
    return make_optimizer("adamw", [group for group in groups if group["params"]], learning_rate)
