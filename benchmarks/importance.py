"""Cost of importances of heads and FFNs compared with the passes that they need: ratios of one run.

    python benchmarks/importance.py --json > result.json

Variants, interleaved:
  passes      forward, and backward to the input of the lowest gate, weights frozen: the unavoidable part
  importance  the same with the gradients of all gates of heads and FFNs added up by token, sample and batch
  neurons     the same and in addition those of all neurons
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import BertForSequenceClassification

from bench import Bench, common_options, run, timings
from interleave import Step
from winning_tickets.models.architectures import ARCHITECTURES
from winning_tickets.models.loading import PLM
from winning_tickets.models.structure import structure_of
from winning_tickets.pruning.importance import add_up
from winning_tickets.tickets.masking import modes
from winning_tickets.training.objectives.task import TaskObjective

PAIRS = {"importance_over_passes": ("importance", "passes"), "neurons_over_passes": ("neurons", "passes")}
VARIANTS = ("passes", "importance", "neurons")


class ImportanceBench(Bench):
    """The variants on one shape, each over the same two batches."""

    batches = 2

    def make(self, variant: str) -> Step:
        """A function that goes over the batches once."""
        torch.manual_seed(0)
        model = BertForSequenceClassification(self.config).to(self.device)
        plm = PLM(model, None, ARCHITECTURES["bert"], "benchmark", None, None, True)
        structure = structure_of(plm)
        objective = TaskObjective("classification")
        batch = self.batch | {"labels": torch.zeros(self.options.batch, dtype=torch.long, device=self.device)}
        units = ["heads", "ffns", *(["neurons"] if variant == "neurons" else [])]

        def importances() -> None:
            add_up(model, structure, objective, [batch] * self.batches, units=units, bf16=self.options.bf16)

        def passes() -> None:
            lowest = model.base_model.get_submodule(structure.context_module(0))
            handle = lowest.register_forward_pre_hook(lambda _, inputs: inputs[0].detach().requires_grad_())
            model.requires_grad_(False)
            with modes(model, training=False):
                for _ in range(self.batches):
                    with self.autocast():
                        (loss,) = objective(model, batch).values()
                    loss.backward()
            handle.remove()

        return passes if variant == "passes" else importances


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    bench = ImportanceBench(options)
    steps = {variant: bench.make(variant) for variant in VARIANTS}
    return {"batches": bench.batches} | timings(bench, steps, PAIRS)


if __name__ == "__main__":
    run(common_options(__doc__, dropout=0.1), report)
