"""Speed of tokenizing a corpus, and the memory for a large one.

    python benchmarks/tokenizing.py --megabytes 100,1000 --json > result.json

Variants, interleaved, over the same lines:
  ours   `load_corpus` and `tokenize` into an empty cache: read twice, fingerprinted, tokenized, hashed, on disk
  plain  all lines in one call of the tokenizer, as lists in memory

Memory: one process per size loads the tokenizer, then reads and tokenizes a text of that size, made by repeating the
lines. Its peak above the level before that must not grow with the text.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench import measured, run, small_options
from memory import measured_apart, peak_of
from texts import lines_of, repeat_to, tokenizer_of
from winning_tickets.data.corpora import load_corpus
from winning_tickets.data.token_cache import clean_cache, tokenize

PAIRS = {"ours_over_plain": ("ours", "plain")}
MEGABYTE = 1_000_000


def speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both ways over the same text."""
    tokenizer = tokenizer_of(options.tokenizer)
    tokenizer.save_pretrained(folder / "tokenizer")
    text = folder / "speed.txt"
    repeat_to(text, lines_of(options.text), int(options.speed_megabytes * MEGABYTE))
    lines = text.read_text(encoding="utf-8").splitlines()

    def ours() -> None:
        clean_cache()
        tokenize(load_corpus(str(text), "train"), tokenizer)

    def plain() -> None:
        tokenizer(lines, add_special_tokens=False, return_attention_mask=False, verbose=False)

    found = measured({"ours": ours, "plain": plain}, PAIRS, options)
    tokens = tokenize(load_corpus(str(text), "train"), tokenizer).n_tokens
    speeds = {variant: 1000 * tokens / value for variant, value in found["ms_a_step"].items()}
    return {"tokens": tokens, "megabytes": options.speed_megabytes, "tokens_a_second": speeds} | found


def one_size(options: argparse.Namespace) -> dict[str, Any]:
    """In this process: tokens, seconds and peak of a text that is there already."""
    tokenizer = tokenizer_of(options.tokenizer)
    tokenize(load_corpus("pydocs", "validation"), tokenizer)  # what is imported or started on first use
    found: dict[str, Any] = {}

    def work() -> None:
        start = time.perf_counter()
        stream = tokenize(load_corpus(options.peak_of, "train"), tokenizer)
        found.update(tokens=stream.n_tokens, lines=stream.n_lines, seconds=time.perf_counter() - start)

    peak = peak_of(work, torch.device("cpu"))
    return found | {"peak_bytes": peak, "text_bytes": Path(options.peak_of).stat().st_size}


def memory(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Each size in a process of its own."""
    found = []
    for size in map(float, options.megabytes.split(",")):
        text = folder / "text.txt"
        repeat_to(text, lines_of(options.text), int(size * MEGABYTE))
        found.append(measured_apart(__file__, ["--peak-of", str(text), "--tokenizer", str(folder / "tokenizer")]))
        found[-1]["tokens_a_second"] = found[-1]["tokens"] / found[-1]["seconds"]
        clean_cache()
    return found


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        os.environ["WINNING_TICKETS_CACHE"] = str(folder / "cache")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        found = speed(options, folder)
        sizes = memory(options, folder)
    growth = sizes[-1]["peak_bytes"] / sizes[0]["peak_bytes"]
    return {"sizes": sizes, "peak_growth": growth, "peak_megabytes": sizes[-1]["peak_bytes"] / MEGABYTE} | found


def main() -> None:
    """Parse the command line, measure, print."""
    parser = small_options(__doc__, rounds=5)
    parser.add_argument("--text", help="a text file; without it the built-in text")
    parser.add_argument("--tokenizer", help="a folder; without it one that is trained on the built-in text")
    parser.add_argument("--speed-megabytes", type=float, default=4, help="size of the text whose time is taken")
    parser.add_argument("--megabytes", default="100,1000", help="sizes of the texts whose peaks are compared")
    parser.add_argument("--folder", type=Path, help="where to write, for the time of the benchmark")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(json.dumps(one_size(options)))
    else:
        run(parser, report)


if __name__ == "__main__":
    main()
