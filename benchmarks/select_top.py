"""Exact selection of the highest scores compared with `torch.topk` and `torch.kthvalue`: ratios of one run.

    python benchmarks/select_top.py --scores 1e8 --json > result.json

Variants, interleaved; each makes a mask that keeps the same number of entries:
  ours            `keep_top`: exact, ties by the larger weight, then by the lower index
  topk            `torch.topk`, and a mask from its indices: exact, ties in any order
  kthvalue        entries above `torch.kthvalue`: all ties are pruned, so with ties the count is not exact
  ours_ties, topk_ties, kthvalue_ties   the same with scores of a thousand different values
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from bench import measured, run, small_options
from interleave import Step
from winning_tickets.tickets.selection import keep_top, pruned_count

WAYS = ("ours", "topk", "kthvalue")
VARIANTS = (*WAYS, *(f"{way}_ties" for way in WAYS))
PAIRS = {f"ours{end}_over_{other}{end}": (f"ours{end}", f"{other}{end}") for end in ("", "_ties") for other in WAYS[1:]}
VALUES = 1000


class SelectionBench:
    """Scores, weights that decide between ties, and the ways to select.

    Args:
        options: the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.sparsity = options.sparsity
        generator = torch.Generator().manual_seed(0)
        size = int(options.scores)
        self.scores = {"": torch.randn(size, generator=generator).to(self.device)}
        self.scores["ties"] = torch.randint(0, VALUES, (size,), generator=generator, dtype=torch.int16).float()
        self.scores["ties"] = self.scores["ties"].to(self.device)
        self.weights = torch.randn(size, generator=generator).to(self.device)
        self.pruned = pruned_count(size, options.sparsity)

    def mask(self, variant: str) -> Tensor:
        """Return the selection of a variant."""
        way, _, kind = variant.partition("_")
        scores = self.scores[kind]
        if way == "ours":
            return keep_top({"all": scores}, self.sparsity, weights={"all": self.weights})["all"]
        if way == "kthvalue":
            return scores > scores.kthvalue(self.pruned).values
        kept = torch.zeros(scores.shape, dtype=torch.bool, device=self.device)
        kept[scores.topk(len(scores) - self.pruned, sorted=False).indices] = True
        return kept

    def make(self, variant: str) -> Step:
        """A function that selects once."""

        def step() -> None:
            self.mask(variant)

        return step

    def check(self) -> None:
        """Check that all variants select the same number of entries.

        Raises:
            RuntimeError: a count is not exact, or without ties other entries are kept.
        """
        for end in ("", "_ties"):
            kept = self.mask(f"ours{end}")
            if int(kept.sum()) != len(kept) - self.pruned:
                raise RuntimeError(f"{int(kept.sum())} of {len(kept)} entries are kept, {self.pruned} were to go.")
        values, ours = self.scores[""], self.mask("ours")
        if not float(values[ours].min()) >= float(values[~ours].max()):
            raise RuntimeError("A score that is kept is lower than one that is not.")


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    bench = SelectionBench(options)
    bench.check()
    about = {"scores": int(options.scores), "sparsity": options.sparsity, "different_values_with_ties": VALUES}
    return about | measured({variant: bench.make(variant) for variant in VARIANTS}, PAIRS, options)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = small_options(__doc__, rounds=5)
    parser.add_argument("--scores", type=float, default=1e8, help="how many")
    parser.add_argument("--sparsity", type=float, default=0.6)
    run(parser, report)


if __name__ == "__main__":
    main()
