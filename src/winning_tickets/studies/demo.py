"""`tickets demo`: search, evaluation and fine-tuning with the built-in model, corpus and task."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Self

import torch

from winning_tickets.analysis.evaluate import evaluate
from winning_tickets.config import EvaluateConfig, Runtime, SearchConfig, Settings, TransferConfig
from winning_tickets.data.pydocs import pydocs_info
from winning_tickets.finetuning.transfer import transfer
from winning_tickets.models.loading import resolve_model
from winning_tickets.pruning.search import search
from winning_tickets.runs.directory import RunDirectory, read_log
from winning_tickets.runs.files import write_text
from winning_tickets.runs.identity import run_id
from winning_tickets.runs.provenance import machine, versions
from winning_tickets.studies.demo_report import MASK_TRAINING, build
from winning_tickets.tickets.ticket import Ticket

REPORT = "report.html"


class DemoConfig(Settings):
    """Sizes of the demo."""

    model: str = "builtin:minilm"
    sparsity: float = 0.6
    steps: int = 60  # of the search
    search_corpus: str = "pydocs:docstrings"  # KD in domain is measured on its validation part
    other_corpus: str = "pydocs:topics"  # KD out of domain is measured on single lines of it
    eval_tokens: int = 20_000  # of each KD measurement
    transfer_steps: int = 40
    layers: int | None = None  # first layers of the model; None means all
    batch_tokens: int = 2048  # per search step
    train_size: str | None = None  # training examples of the task
    learning_rate: float = 3e-4  # of the fine-tuning

    @classmethod
    def small(cls) -> Self:
        """The smallest sizes, for tests."""
        return cls(steps=2, eval_tokens=500, transfer_steps=2, layers=1, batch_tokens=256, train_size="64")


def run_demo(config: DemoConfig, out: Path, runtime: Runtime) -> dict[str, Any]:
    """Search a ticket by mask training, by magnitude and at random; evaluate and fine-tune them and the dense model.

    Each search and each transfer is a run of its own under `out`, so that an interrupted demo resumes.
    """
    resolve_model(config.model)  # the most likely problem first
    info = pydocs_info()
    settings = config.model_dump(mode="json")
    run = RunDirectory.claim(out, "demo", run_id(config, "demo", data=str(info["text_hash"])), settings)
    if run.status == "done":
        return run.result()
    start = time.monotonic()
    seconds: dict[str, float] = {}
    for name, method in _METHODS.items():
        _say(runtime, f"search: {name}")
        search_start = time.monotonic()
        search(_search_config(config, method), _folder(out, "tickets", name), runtime)
        seconds[name] = time.monotonic() - search_start
    rows = [_measure(config, name, out, runtime) | {"seconds": seconds.get(name)} for name in ("dense", *_METHODS)]
    names = (MASK_TRAINING, "magnitude")
    trained, magnitude = (Ticket.from_pretrained(_folder(out, "tickets", name)) for name in names)
    log = read_log(_folder(out, "tickets", MASK_TRAINING))
    result = {
        "verb": "demo",
        "model": config.model,
        "sparsity": config.sparsity,
        "steps": config.steps,
        "transfer_steps": config.transfer_steps,
        "seconds": time.monotonic() - start,
        "corpus": {
            "search": config.search_corpus,
            "in_domain": f"{config.search_corpus} (held out, packed:128)",
            "out_of_domain": f"{config.other_corpus} (single lines)",
        },
        "pydocs": info,
        "rows": rows,
        "majority": rows[0]["majority"],
        "search_log": [{"step": record["step"], "kd": record["kd"]} for record in log],
        "transfer_logs": {row["name"]: _accuracies(out, row["name"]) for row in rows},
        "by_matrix": trained.sparsity_by_matrix(),
        "changed_by_kind": changed_by_kind(trained, magnitude),
        "versions": versions(),
        "machine": machine(),
    }
    write_text(out / REPORT, build(result))
    run.finish(result)
    return result


_METHODS = {"random": "random", "magnitude": "magnitude", MASK_TRAINING: "mask-training"}
"""The searches: name in the table and method."""


def _search_config(config: DemoConfig, method: str) -> SearchConfig:
    common = {"model": config.model, "sparsity": config.sparsity, "layers": config.layers, "method": method}
    if method != "mask-training":
        return SearchConfig.of(**common)
    text = {"corpus": config.search_corpus, "steps": config.steps, "batch_tokens": config.batch_tokens}
    return SearchConfig.of(**common, **text, objective="kd")


def _measure(config: DemoConfig, name: str, out: Path, runtime: Runtime) -> dict[str, Any]:
    """One row of the table: KD loss in and out of domain, and accuracy after a short fine-tuning."""
    _say(runtime, f"evaluate and fine-tune: {name}")
    folder = _folder(out, "tickets", name)
    # A ticket has its model and the number of its layers in its files.
    source: dict[str, Any] = {"target": config.model, "layers": config.layers}
    if name != "dense":
        source = {"target": str(folder)}

    def kd(corpus: str, segments: str) -> float:
        settings = EvaluateConfig.of(**source, corpus=corpus, segments=segments, max_tokens=config.eval_tokens)
        return float(evaluate(settings, runtime)["kd_loss"])

    settings = TransferConfig.of(
        **source,
        task="pydocs",
        steps=config.transfer_steps,
        eval_steps=max(1, config.transfer_steps // 4),
        learning_rate=config.learning_rate,
        train_size=config.train_size,
        warmup_ratio=0.1,
    )
    kd_in, kd_out = kd(config.search_corpus, "packed:128"), kd(config.other_corpus, "lines")
    result = transfer(settings, _folder(out, "transfer", name), runtime)
    accuracy = result["metrics"]["accuracy"]
    return {
        "name": name,
        "sparsity": 0.0 if name == "dense" else Ticket.from_pretrained(folder).sparsity,
        "kd_in": kd_in,
        "kd_out": kd_out,
        "accuracy": accuracy["final"]["mean"],
        "accuracy_best": accuracy["best"]["mean"],
        "majority": result["majority"],
    }


def _accuracies(out: Path, name: str) -> list[dict[str, Any]]:
    records = read_log(_folder(out, "transfer", name) / "seed-0")
    return [{"step": r["step"], "accuracy": r["evaluation"]["accuracy"]} for r in records if "evaluation" in r]


def _folder(out: Path, kind: str, name: str) -> Path:
    return out / kind / name.replace(" (KD)", "").replace(" ", "-")


def _say(runtime: Runtime, text: str) -> None:
    if not runtime.quiet:
        print(text, file=sys.stderr, flush=True)  # noqa: T201


_KINDS = ("embeddings", "query", "key", "value", "attention.output", "intermediate", "output")


def changed_by_kind(ticket: Ticket, other: Ticket) -> dict[str, float]:
    """Fraction of mask entries that differ between two tickets, by kind of matrix."""
    changed: dict[str, list[int]] = {}
    for name, mask in ticket.masks.items():
        kind = next(kind for kind in _KINDS if kind in name)
        counts = changed.setdefault(kind, [0, 0])
        counts[0] += int(torch.count_nonzero(mask != other.masks[name]))
        counts[1] += mask.numel()
    return {kind: differing / total for kind, (differing, total) in changed.items()}
