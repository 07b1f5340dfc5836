"""Time several variants of a step in shuffled turns in one process; compute ratios with intervals."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

Step = Callable[[], object]


def interleaved(
    steps: Mapping[str, Step],
    rounds: int,
    warm_up: int,
    device: torch.device,
    in_a_row: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of a step of each variant; the order inside a round is shuffled, so noise affects all equally.

    On a turn a variant takes `in_a_row` steps, and a GPU is waited for only after the last one.
    """
    seconds: dict[str, list[float]] = {variant: [] for variant in steps}
    order = random.Random(0)
    for index in range(warm_up + rounds):
        for variant in order.sample(list(steps), len(steps)):
            gc.collect()
            _wait(device)
            start = clock()
            for _ in range(in_a_row):
                steps[variant]()
            _wait(device)
            if index >= warm_up:
                seconds[variant].append((clock() - start) / in_a_row)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(over: list[float], under: list[float]) -> tuple[float, list[float]]:
    """Ratio of medians with a 95 % bootstrap interval; rounds are resampled together, since they share the machine."""
    generator = np.random.default_rng(0)
    above, below = np.array(over), np.array(under)
    picks = generator.integers(0, len(above), (2000, len(above)))
    draws = np.median(above[picks], axis=1) / np.median(below[picks], axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(np.median(above) / np.median(below)), [float(low), float(high)]
