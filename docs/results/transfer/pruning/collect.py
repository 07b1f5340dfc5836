"""Copy the raw JSON of a finished `run.sh` beside this file, without machine paths, and print the tables.

Usage: DATA=... MODEL=... OUT=... python docs/results/transfer/pruning/collect.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

RAW = Path(__file__).resolve().parent / "raw"
NAMES = ("random", "magnitude", "imp", "imp-none", "tamt-mlm", "tamt-kd", "tamt-mlmkd")
LEVELS = (50, 60, 70, 80)


def say(line: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{line}\n")


def cell(name: str, level: int, key: str) -> str:
    """One number; a dash where it was not measured."""
    path = RAW / f"{name}-{level}.json"
    return f"{json.loads(path.read_text())[key]:.3f}" if path.exists() else "-"


def main() -> None:
    """Copy and print."""
    paths = {os.environ[name]: f"${name}" for name in ("OUT", "DATA", "MODEL")}
    RAW.mkdir(exist_ok=True)
    out = Path(os.environ["OUT"])
    files = [out / f"{name}-{level}.json" for name in NAMES for level in LEVELS] + [out / "dense.json"]
    files += out.glob("tamt-mlm-steps-step-*.json")
    for path in [*files, *out.glob("*-impmrpc-70-s*/result.json"), *out.glob("imp*/result.json")]:
        if path.exists() and path.stat().st_size:
            text = path.read_text()
            for found, shown in paths.items():
                text = text.replace(found, shown)
            name = path.name if path.parent == out else f"{path.parent.name}.json"
            (RAW / name).write_text(text)
    for key in ("mlm_loss", "mlm_accuracy", "kd_loss"):
        say(f"\n| {key} | " + " | ".join(f"{level} %" for level in LEVELS) + " |\n|" + " --- |" * 5)
        for name in NAMES:
            say(f"| {name} | " + " | ".join(cell(name, level, key) for level in LEVELS) + " |")


if __name__ == "__main__":
    main()
