"""Common code of the step benchmarks: shapes, a batch, the command line, and the report of one run."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from interleave import Step, interleaved, ratio
from winning_tickets.runs.provenance import machine, versions

SHAPES = {
    "minilm": dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "bert-base": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
    "tiny": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=500),
}


class Bench:
    """One shape and one batch, the same for all variants.

    Args:
        options: the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.config = BertConfig(**SHAPES[options.shape], max_position_embeddings=max(512, options.length))
        generator = torch.Generator().manual_seed(0)
        shape = (options.batch, options.length)
        ids = torch.randint(1, self.config.vocab_size, shape, generator=generator)
        chosen = torch.rand(shape, generator=generator) < 0.15
        # What a tokenizer returns, and what a corpus without padding gives for MLM.
        self.inputs = {"input_ids": ids.to(self.device), "attention_mask": torch.ones_like(ids).to(self.device)}
        positions = chosen.flatten().nonzero().squeeze(1)
        masked = {"masked_positions": positions, "masked_ids": ids.flatten()[positions]}
        self.batch = {name: value.to(self.device) for name, value in ({"input_ids": ids} | masked).items()}

    def autocast(self) -> Any:
        """bfloat16 autocast if requested."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16)

    def classifier(self) -> BertForSequenceClassification:
        """A model in training, with the same weights at every call."""
        torch.manual_seed(0)
        model: BertForSequenceClassification = BertForSequenceClassification(self.config).to(self.device).train()
        return model

    def fine_tuning(self, model: BertForSequenceClassification, batches: Sequence[Mapping[str, torch.Tensor]]) -> Step:
        """A function that does one optimizer step on each of the batches, which have labels."""
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        batches = [{name: value.to(self.device) for name, value in batch.items()} for batch in batches]

        def step() -> None:
            for batch in batches:
                with self.autocast():
                    loss = model(**batch).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

        return step


def timings(bench: Bench, steps: Mapping[str, Step], pairs: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Time all variants in turns.

    Args:
        bench: shape, device, rounds.
        steps: the variants.
        pairs: names of ratios, and the variants above and below the line.

    Returns:
        Medians, ratios with 95 % intervals, all times, and the conditions of the measurement.
    """
    options = bench.options
    found = measured(steps, pairs, options)
    tokens = options.batch * options.length
    shape = {"model": options.shape, "batch": options.batch, "length": options.length, "dropout": options.dropout}
    speeds = {variant: 1000 * tokens / value for variant, value in found["ms_a_step"].items()}
    return {"shape": shape, "bf16": options.bf16, "tokens_a_second": speeds} | found


def measured(
    steps: Mapping[str, Step],
    pairs: Mapping[str, tuple[str, str]],
    options: argparse.Namespace,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Time arbitrary variants in turns.

    Args:
        steps: the variants.
        pairs: names of ratios, and the variants above and below the line.
        options: the command line, with rounds, warm_up and device.
        clock: seconds so far, of the wall by default.
    Returns:
        Medians, ratios with 95 % intervals, all times, and the conditions of the measurement.
    """
    device = torch.device(options.device)
    seconds = interleaved(steps, options.rounds, options.warm_up, device, options.in_a_row, clock)
    found = {name: ratio(seconds[over], seconds[under]) for name, (over, under) in pairs.items()}
    return {
        "device": options.device if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "in_a_row": options.in_a_row,
        "ms_a_step": {variant: 1000 * float(np.median(values)) for variant, values in seconds.items()},
        "ratios": {name: value for name, (value, _) in found.items()},
        "intervals_95": {name: interval for name, (_, interval) in found.items()},
        "seconds": seconds,
        "machine": machine(),
        "versions": versions(),
    }


def common_options(description: str | None, dropout: float, batch: int = 16) -> argparse.ArgumentParser:
    """Add the options of all step benchmarks."""
    parser = small_options(description, rounds=15)
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dropout", type=float, default=dropout, help="the same in every variant")
    parser.add_argument("--bf16", action="store_true")
    return parser


def small_options(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Add the options of all benchmarks."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--in-a-row", type=int, default=1, help="steps of a turn, timed together: hosts run ahead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's default")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    return parser


def run(parser: argparse.ArgumentParser, report: Callable[[argparse.Namespace], dict[str, Any]]) -> None:
    """Parse the command line, measure, print."""
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    result = report(options)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for name, value in result["ratios"].items():
        low, high = result["intervals_95"][name]
        print(f"{name}: {value:.3f} [{low:.3f}, {high:.3f}]")
    for name, value in result.get("peak_ratios", {}).items():
        print(f"peak memory of {name} over dense: {value:.3f}")
