"""Peak memory of whole searches compared with dense fine-tuning, at the shape of BERT-base: ratios.

    python benchmarks/search_memory.py --json > result.json

Each variant runs in a separate process, from loading the model to the last file, with the same steps on the same text.
The peak is above the level after all imports.
  dense     all weights trained on MLM with AdamW: `fit-head --train-encoder`
  kd_mask   `search --method mask-training --objective kd`
  mlm_mask  `search --method mask-training --objective mlm`
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, BertModel
from transformers.utils import logging as transformers_logging

from bench import SHAPES, run, small_options
from memory import measured_apart, peak_of
from texts import tokenizer_of
from winning_tickets.config import FitHeadConfig, Runtime, SearchConfig
from winning_tickets.finetuning.fit_head import fit_head
from winning_tickets.pruning.search import search
from winning_tickets.runs.provenance import machine, versions

VARIANTS = ("dense", "kd_mask", "mlm_mask")


def make_models(shape: str, folder: Path) -> None:
    """The same random encoder with an MLM head, and without one, which `fit-head` asks for."""
    tokenizer = tokenizer_of(None)
    config = BertConfig(**SHAPES[shape] | {"vocab_size": max(len(tokenizer), SHAPES[shape].get("vocab_size", 30522))})
    transformers_logging.disable_progress_bar()
    for name, kind in (("head", BertForMaskedLM), ("none", BertModel)):
        torch.manual_seed(0)
        kind(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def work(options: argparse.Namespace) -> int:
    """Peak bytes of one variant in this process."""
    folder = Path(options.models)
    shared: dict[str, Any] = {"corpus": "pydocs", "steps": options.steps, "batch_tokens": options.batch_tokens}
    shared |= {"segments": f"packed:{options.length}"}
    runtime = Runtime(device=options.device, bf16=options.bf16, quiet=True)

    def dense() -> None:
        few = options.batch_tokens  # of the validation part, which is not what is measured
        fit_head(
            FitHeadConfig(model=str(folder / "none"), train_encoder=True, max_tokens=few, **shared),
            folder / "out-dense",
            runtime,
        )

    def masks(objective: str) -> None:
        config = SearchConfig(
            model=str(folder / "head"), method="mask-training", objective=objective, sparsity=0.6, **shared
        )
        search(config, folder / f"out-{objective}", runtime)

    which = options.peak_of
    return peak_of(
        dense if which == "dense" else lambda: masks(which.removesuffix("_mask")), torch.device(options.device)
    )


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        make_models(options.shape, Path(temporary))
        os.environ["WINNING_TICKETS_CACHE"] = str(Path(temporary) / "cache")
        words = [*sys.argv[1:], "--models", temporary, "--peak-of"]
        peaks = {variant: measured_apart(__file__, [*words, variant]) for variant in VARIANTS}
    return {
        "shape": {"model": options.shape, "batch_tokens": options.batch_tokens, "length": options.length},
        "steps": options.steps,
        "device": options.device,
        "peak_bytes": peaks,
        "peak_megabytes": {variant: peak / 1e6 for variant, peak in peaks.items()},
        "peak_ratios": {variant: peaks[variant] / peaks["dense"] for variant in VARIANTS if variant != "dense"},
        "ratios": {},
        "intervals_95": {},
        "machine": machine(),
        "versions": versions(),
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = small_options(__doc__, rounds=1)
    parser.add_argument("--shape", choices=SHAPES, default="bert-base")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to write, for the time of the benchmark")
    parser.add_argument("--models", help=argparse.SUPPRESS)
    parser.add_argument("--peak-of", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(json.dumps(work(options)))
    else:
        run(parser, report)


if __name__ == "__main__":
    main()
