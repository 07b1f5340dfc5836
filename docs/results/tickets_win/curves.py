"""Print the score after each epoch of all fine-tunings in a store, as JSON: python curves.py STORE."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def curve(seed: Path) -> dict[str, Any]:
    """Return what was fine-tuned, and its evaluations by step."""
    result = json.loads((seed / "result.json").read_text(encoding="utf-8"))
    config = json.loads((seed.parent / "config.json").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in (seed / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    named = ("task", "method", "sparsity", "seed", "search_seed", "steps", "train_seconds", "base_hash", "ticket_id")
    settings = config.get("config", config)
    evaluations = [record for record in log if "learning_rate" not in record]
    return {
        **{name: result[name] for name in named},
        "learning_rate": settings["learning_rate"],
        "epochs": settings["epochs"],
        "dropout": settings["dropout"],  # None is the default of the profile
        "evaluations": evaluations,
    }


if __name__ == "__main__":
    found = [curve(path.parent) for path in sorted(Path(sys.argv[1]).glob("runs/transfer-*/seed-*/result.json"))]
    json.dump(found, sys.stdout, indent=1)
