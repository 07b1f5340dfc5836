"""Model FLOPs utilization: speed of a step's products relative to one large product on the same machine."""

from __future__ import annotations

import numpy as np
import torch

from bench import Bench
from interleave import interleaved
from winning_tickets.deploy.measure import forward_flops
from winning_tickets.models.loading import PLM

CPU_SIZE, GPU_SIZE = 2048, 8192
"""Rows and columns of the large product; a larger product is not faster."""


def model_flops(bench: Bench, plm: PLM, mlm_head: bool) -> int:
    """Operations of a training step of a dense model: the forward pass, and twice as much backward.

    Additional work of a step (a teacher's pass, a full head, masks in the graph) does not count.

    Args:
        bench: its batch says how many positions the head must see.
        plm: the model.
        mlm_head: whether the loss needs the MLM head, at masked positions.
    """
    forward = forward_flops(plm, bench.options.batch, bench.options.length)
    if mlm_head:
        hidden, vocabulary = bench.config.hidden_size, bench.config.vocab_size
        forward += 2 * len(bench.batch["masked_positions"]) * hidden * (hidden + vocabulary)
    return 3 * forward


def product_flops_a_second(bench: Bench) -> float:
    """The speed of one large square product, in bfloat16 where the steps are."""
    size = GPU_SIZE if bench.device.type == "cuda" else CPU_SIZE
    kind = torch.bfloat16 if bench.options.bf16 else torch.float32
    left, right = (torch.randn(size, size, device=bench.device).to(kind) for _ in range(2))
    options = bench.options
    steps = {"product": lambda: left @ right}
    found = interleaved(steps, options.rounds, options.warm_up, bench.device, options.in_a_row)
    return 2 * size**3 / float(np.median(found["product"]))
