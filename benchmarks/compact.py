"""Speed-up of a compact model compared with the speed-up predicted by its FLOPs: ratios of one run.

    python benchmarks/compact.py --shape bert-base --batch 8 --length 128 --json > result.json

Variants, interleaved, forward passes of the encoder without gradients:
  dense    the whole model
  compact  half of all heads and half of all FFNs removed, drawn at random, so that layers are uneven
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import BertModel

from bench import Bench, common_options, run, timings
from interleave import Step
from winning_tickets.deploy.measure import forward_flops
from winning_tickets.models.architectures import ARCHITECTURES
from winning_tickets.models.compact import compact_
from winning_tickets.models.loading import PLM
from winning_tickets.models.structure import structure_of
from winning_tickets.pruning.importance import close_gates, random_unit_scores

PAIRS = {"dense_over_compact": ("dense", "compact")}
VARIANTS = ("dense", "compact")


class CompactBench(Bench):
    """The variants on one shape."""

    def plm(self, variant: str) -> PLM:
        """The model, whole or with half of its units."""
        torch.manual_seed(0)
        model = BertModel(self.config).to(self.device).eval()
        plm = PLM(model, None, ARCHITECTURES["bert"], "benchmark", None, None, True)
        if variant == "compact":
            structure = structure_of(plm)
            layers = len(structure.layers)
            counts = {"heads": layers * structure.per_layer("heads") // 2, "ffns": layers // 2}
            scores = random_unit_scores(structure, list(counts), seed=0)
            compact_(model, close_gates(scores, counts, structure, 0))
        return plm

    def make(self, variant: str) -> Step:
        """A forward pass."""
        return self.forward(self.plm(variant))

    def forward(self, plm: PLM) -> Step:
        """A forward pass of a model."""

        def step() -> None:
            with torch.inference_mode(), self.autocast():
                plm.model(**self.inputs)

        return step


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    bench = CompactBench(options)
    plms = {variant: bench.plm(variant) for variant in VARIANTS}
    flops = {variant: forward_flops(plm, options.batch, options.length) for variant, plm in plms.items()}
    found = timings(bench, {variant: bench.forward(plm) for variant, plm in plms.items()}, PAIRS)
    promised = flops["dense"] / flops["compact"]
    low, high = found["intervals_95"]["dense_over_compact"]
    found["ratios"]["reached_of_promised"] = found["ratios"]["dense_over_compact"] / promised
    found["intervals_95"]["reached_of_promised"] = [low / promised, high / promised]
    return {"flops": flops, "flops_ratio": promised} | found


if __name__ == "__main__":
    run(common_options(__doc__, dropout=0.0, batch=8), report)
