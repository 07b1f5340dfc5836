"""AdamW whose parameters and moments may be bfloat16.

An update is often smaller than half the distance between neighboring values of such a type, so that rounding to the
nearest value would drop it. Values are therefore rounded up or down at random, so that their expectation is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 20  # entries that are computed at a time in float32
_MANTISSA_BITS = {torch.bfloat16: 7}


def round_at_random(values: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Round float32 values to a neighbor in `dtype` at random, to the nearer one more often, so that the mean stays."""
    if dtype == torch.float32:
        return values
    dropped = 23 - _MANTISSA_BITS[dtype]
    shape, device = values.shape, values.device
    noise = torch.randint(0, 1 << dropped, shape, dtype=torch.int32, device=device, generator=generator)
    bits = noise.add_(values.view(torch.int32)).bitwise_and_(-(1 << dropped))
    return bits.view(torch.float32).to(dtype)


class LowPrecisionAdamW(torch.optim.Optimizer):
    """AdamW that computes in float32, but stores parameters in their own type and moments in the type `moments`.

    The second moment is stored as its root.

    Args:
        groups: groups of contiguous parameters, with `lr` as for any optimizer.
        betas: decay of the two moments.
        epsilon: added to the root of the second moment.
        weight_decay: share of a parameter that a step with a learning rate of 1 removes.
        moments: type of the moments: float32 or bfloat16.
        seed: seed of the rounding; a step that is repeated draws the same numbers.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
        moments: torch.dtype,
        seed: int,
    ) -> None:
        super().__init__(groups, {"lr": 1.0, "betas": betas, "eps": epsilon, "weight_decay": weight_decay})
        self._dtype, self._seed = moments, seed
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = self._fresh(parameter)

    def _fresh(self, parameter: Tensor) -> dict[str, Any]:
        count, device = parameter.numel(), parameter.device
        state: dict[str, Any] = {"step": 0}
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros(count, dtype=self._dtype, device=device)
        return state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for place, parameter in enumerate(group["params"]):
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                state["step"] += 1
                generator = torch.Generator(parameter.device)
                generator.manual_seed((self._seed * 1_000_003 + state["step"]) * 1_000_003 + place)
                flat, gradient = parameter.detach().view(-1), parameter.grad.reshape(-1)
                for start in range(0, len(flat), _CHUNK):
                    self._update(flat, gradient, state, group, part=slice(start, start + _CHUNK), generator=generator)

    def _update(
        self,
        flat: Tensor,
        gradient: Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
        *,
        part: slice,
        generator: torch.Generator,
    ) -> None:
        """Update a chunk of a parameter, in place."""
        (beta1, beta2), rate, step = group["betas"], group["lr"], state["step"]
        now = gradient[part].float()
        mean = state["exp_avg"][part].float().lerp_(now, 1 - beta1)
        root = state["exp_avg_sq"][part].float().square_().mul_(beta2).addcmul_(now, now, value=1 - beta2).sqrt_()
        value = flat[part].float().mul_(1 - rate * group["weight_decay"])
        denominator = (root / (1 - beta2**step) ** 0.5).add_(group["eps"])
        value.addcdiv_(mean, denominator, value=-rate / (1 - beta1**step))
        flat[part] = round_at_random(value, flat.dtype, generator)
        state["exp_avg"][part] = round_at_random(mean, self._dtype, generator)
        state["exp_avg_sq"][part] = round_at_random(root, self._dtype, generator)
