"""AdamW whose parameters and moments take one or two bytes each: bfloat16, or 8-bit floats with a scale per block.

An update is often smaller than half the distance between neighboring values of such a type, so that rounding to the
nearest value would drop it. Values are therefore rounded up or down at random, so that their expectation is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_BLOCK = 256  # entries that share a scale
_CHUNK = 1 << 20  # entries that are computed at a time in float32
_LARGEST, _SMALLEST = 240.0, 2.0**-9  # of a scaled 8-bit float: below the maximum of 448, and the least above zero
_MANTISSA_BITS = {torch.bfloat16: 7, torch.float8_e4m3fn: 3}
SCALE = "_scale"  # suffix of the name of a moment, for its scales


def bytes_of_moment(dtype: torch.dtype) -> float:
    """Return the bytes that one entry of a moment takes, with its share of the scale of its block."""
    return dtype.itemsize + (4 / _BLOCK if dtype == torch.float8_e4m3fn else 0)


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

    The second moment is stored as its root. An 8-bit float is multiplied by the scale of its block of 256
    entries: 1 + 4 / 256 bytes per entry.

    Args:
        groups: groups of contiguous parameters, with `lr` as for any optimizer.
        epsilon: added to the root of the second moment.
        weight_decay: share of a parameter that a step with a learning rate of 1 removes.
        moments: type of the moments: float32, bfloat16 or float8_e4m3fn.
        seed: seed of the rounding; a step that is repeated draws the same numbers.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], epsilon: float, weight_decay: float, moments: torch.dtype, seed: int
    ) -> None:
        super().__init__(groups, {"lr": 1.0, "betas": (0.9, 0.999), "eps": epsilon, "weight_decay": weight_decay})
        self._dtype, self._seed = moments, seed
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = self._fresh(parameter)

    def _fresh(self, parameter: Tensor) -> dict[str, Any]:
        count, device = parameter.numel(), parameter.device
        state: dict[str, Any] = {"step": 0}
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros(count, dtype=self._dtype, device=device)
            if self._dtype == torch.float8_e4m3fn:
                state[name + SCALE] = torch.zeros(-(-count // _BLOCK), device=device)
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
                    self._update(flat, gradient, state, group, slice(start, start + _CHUNK), generator)

    def _update(
        self,
        flat: Tensor,
        gradient: Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
        part: slice,
        generator: torch.Generator,
    ) -> None:
        """Update a chunk of a parameter, in place."""
        (beta1, beta2), rate, step = group["betas"], group["lr"], state["step"]
        now = gradient[part].float()
        mean = self._read(state, "exp_avg", part).lerp_(now, 1 - beta1)
        root = self._read(state, "exp_avg_sq", part).square_().mul_(beta2).addcmul_(now, now, value=1 - beta2).sqrt_()
        value = flat[part].float().mul_(1 - rate * group["weight_decay"])
        denominator = (root / (1 - beta2**step) ** 0.5).add_(group["eps"])
        value.addcdiv_(mean, denominator, value=-rate / (1 - beta1**step))
        flat[part] = round_at_random(value, flat.dtype, generator)
        self._write(state, "exp_avg", part, mean, generator)
        self._write(state, "exp_avg_sq", part, root, generator)

    def _read(self, state: dict[str, Any], name: str, part: slice) -> Tensor:
        values: Tensor = state[name][part].float()
        if name + SCALE in state:
            blocks = state[name + SCALE][part.start // _BLOCK : -(-part.stop // _BLOCK)]
            values.mul_(blocks.repeat_interleave(_BLOCK)[: len(values)])
        return values

    def _write(self, state: dict[str, Any], name: str, part: slice, values: Tensor, generator: torch.Generator) -> None:
        if name + SCALE in state:
            padded = torch.nn.functional.pad(values, (0, -len(values) % _BLOCK)).view(-1, _BLOCK)
            scales = padded.abs().amax(1) / _LARGEST
            state[name + SCALE][part.start // _BLOCK : part.start // _BLOCK + len(scales)] = scales
            values = (padded / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).view(-1)[: len(values)]
            if name == "exp_avg_sq":  # zero would make the step arbitrarily long
                values = values.clamp(min=_SMALLEST)
        state[name][part] = round_at_random(values, self._dtype, generator)
