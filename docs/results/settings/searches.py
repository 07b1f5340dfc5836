"""Print steps, seconds, losses and kept weights of searches in a store, as JSON: python searches.py STORE RUN..."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import winning_tickets as wt

KINDS = {
    "embeddings": ("embeddings",),
    "query and key": ("query", "key"),
    "value": ("value",),
    "attention output": ("attention.output",),
    "first FFN": ("intermediate",),
    "second FFN": ("output",),
}


def kind_of(name: str) -> str:
    """Return the kind of a matrix by its name in BERT."""
    return next(kind for kind, parts in KINDS.items() if any(part in name for part in parts))


def described(run: Path) -> dict[str, Any]:
    """Return the steps of a search, its seconds, KD loss by hundred steps, and kept weights by kind of matrix."""
    log = (run / "metrics.jsonl").read_text(encoding="utf-8")
    steps = [record for line in log.splitlines() if "seconds" in (record := json.loads(line))]
    kd = [record["kd"] for record in steps if "kd" in record]
    kept: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    ticket = run if (run / "ticket.json").exists() else run / "sparsity-0.70"
    for name, mask in wt.Ticket.from_pretrained(ticket).masks.items():
        counts = kept[kind_of(name)]
        counts[0] += int(mask.sum())
        counts[1] += mask.numel()
    return {
        "steps": len(steps),
        "seconds": round(sum(record["seconds"] for record in steps), 1),
        "kd": [round(fmean(kd[start : start + 100]), 4) for start in range(0, len(kd), 100)],
        "kept": {kind: {"weights": part, "share": round(part / whole, 4)} for kind, (part, whole) in kept.items()},
    }


if __name__ == "__main__":
    store, *runs = sys.argv[1:]
    print(json.dumps({run: described(Path(store, "runs", run)) for run in runs}, indent=1))
