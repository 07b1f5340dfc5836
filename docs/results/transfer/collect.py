"""Copy the raw JSON of a finished `run.sh` beside this file, without machine paths, and print the table.

Usage: DATA=... TICKETS=... HEAD=... OUT=... python docs/results/transfer/collect.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RAW = HERE / "raw"
TASKS = ("sst2", "mrpc", "stsb")


def say(line: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Copy and print."""
    paths = {os.environ[name]: f"${name}" for name in ("OUT", "TICKETS", "DATA", "HEAD")}
    out = os.environ["OUT"]
    RAW.mkdir(exist_ok=True)
    for path in sorted([*Path(out).glob("*/result.json"), *Path(out).glob("*.json")]):
        name = path.name if path.parent == Path(out) else f"{path.parent.name}.json"
        text = path.read_text()
        for found, shown in paths.items():
            text = text.replace(found, shown)
        if text.strip():
            (RAW / name).write_text(text)
    say("| | " + " | ".join(TASKS) + " |\n| --- | --- | --- | --- |")
    for group in ("dense", "magnitude-70", "tuned-70", "mlm-70", "mlmkd-70", "magnitude-60", "tuned-60"):
        cells = [", ".join(values(task, group)) or "-" for task in TASKS]
        if set(cells) != {"-"}:
            say(f"| {group} | {' | '.join(cells)} |")


def values(task: str, group: str) -> list[str]:
    """The final primary metric of each seed, times 100."""
    found = []
    for path in sorted(RAW.glob(f"{task}-{group}-s*.json")):
        result: dict[str, Any] = json.loads(path.read_text())
        found += [f"{100 * v:.1f}" for v in result["metrics"][result["primary_metric"]]["final"]["values"]]
    return found


if __name__ == "__main__":
    main()
