"""Time of a training step in bfloat16 with the attention that trainings choose, compared with torch's fused attention.

    python benchmarks/attention_step.py --bf16 --json > result.json

Variants, interleaved, whole optimizer steps on the same batch:
  chosen  what `winning_tickets.training.execution.attention_for_training` leaves: plain operations on a CPU in bfloat16
  fused   `scaled_dot_product_attention`, the default of transformers
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

import torch
from transformers import BertForSequenceClassification

from bench import Bench, common_options, run, timings
from interleave import Step
from winning_tickets.training.execution import attention_for_training

VARIANTS = ("chosen", "fused")
PAIRS = {"chosen_over_fused": ("chosen", "fused")}


class AttentionBench(Bench):
    """The variants on one shape and batch."""

    def make(self, variant: str) -> Step:
        """A function that does one optimizer step."""
        self.config.hidden_dropout_prob = self.config.attention_probs_dropout_prob = self.options.dropout
        torch.manual_seed(0)
        model = BertForSequenceClassification(self.config).to(self.device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        labels = torch.zeros(self.options.batch, dtype=torch.long, device=self.device)

        def step() -> None:
            chosen = attention_for_training(model, self.device, self.options.bf16)
            with chosen if variant == "chosen" else nullcontext():
                with self.autocast():
                    loss = model(**self.inputs, labels=labels).loss
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    bench = AttentionBench(options)
    return timings(bench, {variant: bench.make(variant) for variant in VARIANTS}, PAIRS)


if __name__ == "__main__":
    run(common_options(__doc__, dropout=0.0), report)
