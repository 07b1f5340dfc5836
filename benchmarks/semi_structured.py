"""Inference of an exported 2:4 ticket with the sparse kernels of a GPU compared with dense ones: ratios of one run.

    python benchmarks/semi_structured.py --device cuda --shape bert-base --length 512 --bf16 --json > result.json

A model with random weights, its magnitude ticket of 2 in 4 weights, exported as an ordinary model with zeros and loaded
from there. Variants, interleaved, forward passes of the encoder without gradients, in bfloat16:
  dense   as it was loaded: kernels multiply by the zeros too
  sparse  the same with the pruned matrices as `torch.sparse.to_sparse_semi_structured` packs them
The states of both are compared before they are timed. A CPU has no such kernels: there the matrices are packed,
unpacked and compared to the bit, and only the dense variant is timed.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, BertForMaskedLM
from transformers.utils import logging as transformers_logging

from bench import Bench, common_options, run, timings
from interleave import Step
from texts import tokenizer_of
from winning_tickets import SearchConfig, Ticket, export, search
from winning_tickets.config import Runtime

PAIRS = {"dense_over_sparse": ("dense", "sparse")}
TOLERANCE = 0.02
"""Relative distance of the states of the two variants, whose sums bfloat16 rounds in another order."""


class SparseBench(Bench):
    """The two variants of an exported ticket."""

    def export(self, folder: Path) -> tuple[Ticket, Path]:
        """Find the 2:4 ticket of a random model, and export it."""
        model, tokenizer = folder / "model", tokenizer_of(None)
        transformers_logging.disable_progress_bar()
        self.config.vocab_size = max(self.config.vocab_size, len(tokenizer))
        torch.manual_seed(0)
        BertForMaskedLM(self.config).save_pretrained(model)
        tokenizer.save_pretrained(model)
        config = SearchConfig(model=str(model), method="magnitude", pattern="2:4", scope="encoder")
        ticket = search(config, folder / "ticket", Runtime(device="cpu", quiet=True))
        export(folder / "ticket", "masked", folder / "exported")
        return ticket, folder / "exported"

    def encoders(self, folder: Path) -> dict[str, nn.Module]:
        """Return the exported encoder, with ordinary and with packed matrices."""
        ticket, exported = self.export(folder)
        whole = AutoModelForMaskedLM.from_pretrained(exported, dtype=torch.bfloat16)
        dense: nn.Module = whole.base_model.to(self.device).eval()
        sparse = copy.deepcopy(dense)
        for name in ticket.masks:
            module = sparse.get_submodule(name.removesuffix(".weight"))
            module.weight = nn.Parameter(packed(module.weight.detach()), requires_grad=False)
        return {"dense": dense, "sparse": sparse}

    def forward(self, encoder: nn.Module) -> Tensor:
        """Return the last states of a pass, `(batch, seq, hidden)`."""
        with torch.inference_mode():
            states: Tensor = encoder(self.batch["input_ids"], self.batch.get("attention_mask")).last_hidden_state
        return states


def packed(weight: Tensor) -> Tensor:
    """Return a matrix with 2 zeros in every 4 entries of a row, packed for the sparse kernels of its device."""
    if weight.device.type == "cuda":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*prototype.*")
            sparse: Tensor = torch.sparse.to_sparse_semi_structured(weight)
        return sparse
    from torch.sparse import _semi_structured_conversions as conversions

    unpacked = conversions.sparse_semi_structured_to_dense_cutlass(
        *conversions.sparse_semi_structured_from_dense_cutlass(weight)
    )
    if not torch.equal(unpacked, weight):
        raise RuntimeError("A matrix of the ticket has more than 2 weights in some 4: packing it lost some.")
    return unpacked


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the length of the difference relative to that of what is expected."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement.

    Raises:
        RuntimeError: the variants do not compute the same.
    """
    bench = SparseBench(options)
    with tempfile.TemporaryDirectory() as folder:
        encoders = bench.encoders(Path(folder))
    found = distance(bench.forward(encoders["sparse"]), bench.forward(encoders["dense"]))
    if not found <= TOLERANCE:
        raise RuntimeError(f"The states of the sparse kernels differ by {found:.3g} of their length from the dense.")
    has_kernels = bench.device.type == "cuda"
    steps: dict[str, Step] = {
        variant: lambda encoder=encoder: bench.forward(encoder)
        for variant, encoder in encoders.items()
        if variant == "dense" or has_kernels
    }
    timed = timings(bench, steps, PAIRS if has_kernels else {})
    return {"kernels": has_kernels, "distance": found, "tolerance": TOLERANCE} | timed


if __name__ == "__main__":
    run(common_options(__doc__, dropout=0.0), report)
