"""Time of fine-tuning with padding to the longest example of a batch, compared with padding to `--length`.

    python benchmarks/padding_step.py --json > result.json

Variants, interleaved, over the same batches of the built-in task in the same order, whole optimizer steps:
  longest     as `transfer` pads by default
  max_length  every batch to the full length, as in the released code
"""

from __future__ import annotations

import argparse
from typing import Any

from bench import Bench, common_options, run, timings
from interleave import Step
from texts import tokenizer_of
from winning_tickets.data.encode import encode, make_collator
from winning_tickets.data.mixing import TaskBatches
from winning_tickets.data.pydocs import pydocs_task

VARIANTS = ("longest", "max_length")
PAIRS = {"longest_over_max_length": ("longest", "max_length")}


class PaddingBench(Bench):
    """The variants on one shape, each over the same few batches of real text."""

    batches = 4

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.config.hidden_dropout_prob = self.config.attention_probs_dropout_prob = options.dropout
        tokenizer, data = tokenizer_of(None), pydocs_task()
        self.config.vocab_size, self.config.num_labels = len(tokenizer), len(data.task.labels)
        examples = encode(data.train, tokenizer, options.length)
        lengths = {"longest": None, "max_length": options.length}
        self.texts = {
            variant: [
                TaskBatches(examples, make_collator(tokenizer, length), options.batch, seed=0)[i]
                for i in range(self.batches)
            ]
            for variant, length in lengths.items()
        }
        real = sum(int(batch["attention_mask"].sum()) for batch in self.texts["longest"])
        self.share = real / (self.batches * options.batch * options.length)

    def make(self, variant: str) -> Step:
        """A function that does one optimizer step on each of the batches."""
        return self.fine_tuning(self.classifier(), self.texts[variant])


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    bench = PaddingBench(options)
    found = timings(bench, {variant: bench.make(variant) for variant in VARIANTS}, PAIRS)
    return {"batches": bench.batches, "share_of_real_tokens": bench.share} | found


if __name__ == "__main__":
    run(common_options(__doc__, dropout=0.1, batch=32), report)
