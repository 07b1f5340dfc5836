"""Time of fine-tuning with batches of similar lengths, compared with random batches; both padded to their longest.

    python benchmarks/grouping_step.py --json > result.json

Variants, interleaved, over batches of random tokens whose lengths are distributed as those of a task's training set:
  TASK_grouped  as `transfer` batches by default
  TASK_random   as the papers do
Whole optimizer steps. Of the batches of an epoch of 200 those at even quantiles of their size are taken.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from bench import Bench, common_options, run, timings
from interleave import Step
from winning_tickets.data.mixing import grouped_order, trainer_order

LENGTHS = {
    "sst2": (3, 4, 4, 5, 5, 6, 7, 7, 8, 9, 10, 11, 13, 14, 16, 18, 20, 23, 27, 33, 39, 44, 49, 56, 66),
    "mnli": (5, 14, 18, 20, 23, 25, 27, 29, 31, 33, 35, 37, 40, 42, 45, 48, 51, 55, 61, 70, 82, 98, 115, 128, 128),
}
"""Quantiles `SHARES` of the lengths in training sets of GLUE, in tokens of BERT (uncased), special ones included."""
SHARES = (*np.arange(20) / 20, 0.975, 0.99, 0.995, 0.999, 1.0)
VARIANTS = tuple(f"{task}_{way}" for task in LENGTHS for way in ("grouped", "random"))
PAIRS = {f"{task}_grouped_over_random": (f"{task}_grouped", f"{task}_random") for task in LENGTHS}
EPOCH = 200  # batches


def lengths_of(task: str, count: int, longest: int) -> list[int]:
    """Draw lengths from the distribution of a task, at most `longest`."""
    found = np.interp(np.random.default_rng(0).random(count), SHARES, LENGTHS[task]).round().astype(int)
    return [int(length) for length in np.minimum(found, longest)]


class GroupingBench(Bench):
    """The variants on one shape."""

    batches = 6

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.config.hidden_dropout_prob = self.config.attention_probs_dropout_prob = options.dropout
        self.shapes = {variant: self._shapes(variant) for variant in VARIANTS}

    def _shapes(self, variant: str) -> list[list[int]]:
        """The lengths of the examples of each batch."""
        task, way = variant.split("_")
        size = self.options.batch
        lengths = lengths_of(task, EPOCH * size, self.options.length)
        order = (grouped_order(lengths, size) if way == "grouped" else trainer_order)(0, 0, len(lengths))
        every = [[lengths[place] for place in order[start : start + size]] for start in range(0, len(order), size)]
        every.sort(key=max)
        return [every[int((number + 0.5) / self.batches * EPOCH)] for number in range(self.batches)]

    def make(self, variant: str) -> Step:
        """A function that does one optimizer step on each of the batches."""
        model = self.classifier()
        batches = []
        for lengths in self.shapes[variant]:
            mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
            ids = torch.randint(1, self.config.vocab_size, mask.shape) * mask
            labels = torch.arange(len(lengths)) % self.config.num_labels
            batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
        return self.fine_tuning(model, batches)


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    bench = GroupingBench(options)
    found = timings(bench, {variant: bench.make(variant) for variant in VARIANTS}, PAIRS)
    padded = {
        variant: sum(len(lengths) * max(lengths) for lengths in shapes) for variant, shapes in bench.shapes.items()
    }
    return {"batches": bench.batches, "padded_tokens": padded} | found


if __name__ == "__main__":
    run(common_options(__doc__, dropout=0.1, batch=32), report)
