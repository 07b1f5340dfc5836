"""Adamax as MT-DNN has it, which is not `torch.optim.Adamax`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class MTDNNAdamax(torch.optim.Optimizer):
    """The Adamax that MT-DNN, and with it the super tickets, were trained with.

    m <- b1 m + (1 - b1) g, u <- max(b2 u, |g| + eps), w <- w - lr (m / (u + eps) + weight_decay w). No bias correction:
    the first steps are a tenth as long as those of `torch.optim.Adamax` (Kingma and Ba 2014), which also adds the
    decay to the gradient. No step is counted, so a parameter that joins late is treated like any other.

    Args:
        groups: parameter groups.
        lr: learning rate.
        betas: decay of m and of u.
        eps: keeps u away from zero.
        weight_decay: times the parameter, added to the update.
    """

    def __init__(
        self,
        groups: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
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
