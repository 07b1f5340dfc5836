"""Seconds to save, load and apply a ticket, and the bytes that it takes, at the shape of BERT-base.

    python benchmarks/ticket_files.py --json > result.json

Steps, interleaved:
  save      all files of the ticket, synced to disk
  load      the ticket opened and checked: its own checksums, its shapes
  apply     the weights checked against the ticket's hashes, and the pruned ones set to zero
  savez     the masks as numpy bool arrays in a compressed file, for comparison
  loadz     that file opened
  multiply  the weights times the masks, with nothing checked, for comparison
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from bench import SHAPES, measured, run, small_options
from interleave import Step
from winning_tickets.config import SearchConfig
from winning_tickets.models.architectures import ARCHITECTURES, prunable_views
from winning_tickets.models.loading import PLM, prunable_names
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.selection import keep_top, write_masked_
from winning_tickets.tickets.ticket import Ticket

PAIRS = {"save_over_savez": ("save", "savez"), "load_over_loadz": ("load", "loadz")}
PAIRS |= {"apply_over_multiply": ("apply", "multiply")}
SPARSITY = 0.7


class TicketBench:
    """A model, a magnitude ticket of its encoder and embeddings, and a folder for both forms of it.

    Args:
        options: the command line.
        folder: an empty one.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        model = BertModel(BertConfig(**SHAPES[options.shape])).to(options.device).eval()
        plm = PLM(model, None, ARCHITECTURES["bert"], "benchmark", None, None, True)
        self.model = model
        self.weights = prunable_views(model, prunable_names(plm))
        self.masks = keep_top({name: weight.abs() for name, weight in self.weights.items()}, SPARSITY)
        for name, weight in self.weights.items():  # so that the weights are the ticket's again after each application
            write_masked_(weight, weight, self.masks[name])
        config = SearchConfig(model="benchmark", method="magnitude").model_dump(mode="json")
        info = TicketInfo(
            method="magnitude",
            scope="encoder+embeddings",
            config=config,
            applies_to=BaseModelInfo.of(model, "benchmark", "bert", None, layers=None),
            seed=0,
        )
        self.ticket = Ticket({name: mask.cpu() for name, mask in self.masks.items()}, info)

    def steps(self) -> dict[str, Step]:
        """Each of what is timed; both forms are on the disk already."""
        arrays = {name: mask.cpu().numpy() for name, mask in self.masks.items()}
        file = self.folder / "masks.npz"
        steps: dict[str, Step] = {
            "save": lambda: self.ticket.save_pretrained(self.folder / "ticket"),
            "savez": lambda: np.savez_compressed(file, **arrays),
        }
        for step in steps.values():
            step()
        opened = Ticket.from_pretrained(self.folder / "ticket")

        def multiply() -> None:
            for name, weight in self.weights.items():
                weight.mul_(self.masks[name])

        def loadz() -> None:
            with np.load(file) as found:
                for name in found:
                    torch.from_numpy(found[name])

        return steps | {
            "load": lambda: Ticket.from_pretrained(self.folder / "ticket"),
            "loadz": loadz,
            "apply": lambda: opened.apply_(self.model),
            "multiply": multiply,
        }


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        bench = TicketBench(options, Path(temporary))
        found = measured(bench.steps(), PAIRS, options)
        size = sum(file.stat().st_size for file in (bench.folder / "ticket").iterdir())
        packed = bench.ticket.total / 8
        about = {
            "shape": {"model": options.shape},
            "weights": bench.ticket.total,
            "bytes": size,
            "bytes_over_packed": size / packed,
            "compressed_bytes": (bench.folder / "masks.npz").stat().st_size,
            "seconds_each": {step: ms / 1000 for step, ms in found["ms_a_step"].items()},
        }
    return about | found


def main() -> None:
    """Parse the command line, measure, print."""
    parser = small_options(__doc__, rounds=10)
    parser.add_argument("--shape", choices=SHAPES, default="bert-base")
    parser.add_argument("--folder", type=Path, help="where to write, for the time of the benchmark")
    run(parser, report)


if __name__ == "__main__":
    main()
