"""Copy the raw JSON of a finished `run.sh` beside this file, without machine paths, and print the table.

Usage: DATA=... OUT=... python docs/results/mask_training/structured/collect.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

RAW = Path(__file__).resolve().parent / "raw"


def say(line: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{line}\n")


def cell(name: str, level: int) -> str:
    """One KD loss; a dash where it was not measured."""
    path = RAW / f"{name}-{level}.json"
    return f"{json.loads(path.read_text())['kd_loss']:.4f}" if path.exists() else "-"


def main() -> None:
    """Copy and print."""
    paths = {os.environ[name]: f"${name}" for name in ("OUT", "DATA")}
    RAW.mkdir(exist_ok=True)
    out = Path(os.environ["OUT"])
    names = sorted(path.parent.name for path in out.glob("*/result.json"))
    files = {path: path.name for path in out.glob("*.json")}
    files |= {out / name / "result.json": f"{name}.result.json" for name in names}
    files |= {path: f"{path.parts[-3]}-{path.parts[-2]}.jsonl" for path in out.glob("*/level-*/metrics.jsonl")}
    for path, name in files.items():
        if path.stat().st_size:
            text = path.read_text()
            for found, shown in paths.items():
                text = text.replace(found, shown)
            (RAW / name).write_text(text)
    say("| KD loss | 30 % | 50 % |\n|" + " --- |" * 3)
    for name in names:
        say(f"| {name} | {cell(name, 30)} | {cell(name, 50)} |")


if __name__ == "__main__":
    main()
