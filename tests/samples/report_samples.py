"""A made-up demo result, for tests of the report only; its numbers mean nothing."""

from __future__ import annotations

import math
from typing import Any

NAMES = ("dense", "random", "magnitude", "mask training (KD)")


def demo_result() -> dict[str, Any]:
    """A result of the demo's shape: obviously synthetic curves, never measured."""
    kd = {"dense": (0.0, 0.0), "random": (0.75, 0.8), "magnitude": (0.25, 0.275), "mask training (KD)": (0.075, 0.125)}
    ends = {"dense": 0.64, "random": 0.16, "magnitude": 0.48, "mask training (KD)": 0.56}
    rows = [
        {
            "name": name,
            "sparsity": 0.0 if name == "dense" else 0.6,
            "kd_in": kd[name][0],
            "kd_out": kd[name][1],
            "accuracy": ends[name],
            "accuracy_best": ends[name] + 0.01,
            "seconds": None if name == "dense" else 12.0,
        }
        for name in NAMES
    ]
    logs = {
        name: [{"step": step, "accuracy": ends[name] * (1 - math.exp(-step / 12))} for step in (10, 20, 30, 40)]
        for name in NAMES
    }
    search = [
        {"step": step, "kd": 0.08 + 0.17 * math.exp(-step / 15) + 0.03 * math.sin(7 * step)} for step in range(1, 61)
    ]
    kinds = ("query", "key", "value", "attention.output", "intermediate", "output", "embeddings")
    return {
        "verb": "demo",
        "model": "builtin:minilm",
        "sparsity": 0.6,
        "steps": 60,
        "transfer_steps": 40,
        "seconds": 251.0,
        "corpus": {
            "search": "pydocs:docstrings",
            "in_domain": "pydocs:docstrings, validation",
            "out_of_domain": "pydocs:topics, validation",
        },
        "pydocs": {"python": "3.11.2", "hash": "00ff" * 8, "words": 150_000, "labels": ["asyncio", "email", "json"]},
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
        "rows": rows,
        "majority": 0.08,
        "search_log": search,
        "transfer_logs": logs,
        "by_matrix": {"a.weight": 0.6, "b.weight": 0.599975},
        "changed_by_kind": {kind: 0.0 if kind == "embeddings" else 0.004 * (i + 1) for i, kind in enumerate(kinds)},
    }
