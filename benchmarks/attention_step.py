"""Time of a training step in bfloat16 with the attention that trainings choose, beside fused attention and float32.

    python benchmarks/attention_step.py --bf16 --json > result.json

Variants, interleaved, whole optimizer steps on the same batch:
  chosen  what `winning_tickets.training.execution.attention_for_training` leaves: plain operations on a CPU in bfloat16
  fused   `scaled_dot_product_attention`, the default of transformers
  float32 what trainings choose without bfloat16, which is the faster one on some CPUs without AMX
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from bench import Bench, common_options, run, timings
from interleave import Step
from winning_tickets.training.execution import attention_for_training

PAIRS = {"chosen_over_fused": ("chosen", "fused"), "chosen_over_float32": ("chosen", "float32")}


class AttentionBench(Bench):
    """The variants on one shape and batch."""

    def make(self, variant: str) -> Step:
        """A function that does one optimizer step."""
        self.config.hidden_dropout_prob = self.config.attention_probs_dropout_prob = self.options.dropout
        model = self.classifier()
        labels = torch.zeros(self.options.batch, dtype=torch.long)
        step = self.fine_tuning(model, [self.inputs | {"labels": labels}])

        def with_chosen_attention() -> None:
            with attention_for_training(model, self.device, bf16=self.options.bf16):
                step()

        return with_chosen_attention if variant == "chosen" else step


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    bench = AttentionBench(options)
    float32 = AttentionBench(argparse.Namespace(**(vars(options) | {"bf16": False})))
    steps = {"chosen": bench.make("chosen"), "fused": bench.make("fused"), "float32": float32.make("chosen")}
    return timings(bench, steps, PAIRS)


if __name__ == "__main__":
    run(common_options(__doc__, dropout=0.0), report)
