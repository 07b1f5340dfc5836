"""Copy the raw JSON of a finished `run.sh` beside this file, without machine paths, and print the tables.

Usage: DATA=... OUT=... FULL=... python docs/results/sharing/collect.py
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

RAW = Path(__file__).resolve().parent / "raw"
TASKS = ("rte", "mrpc", "cola", "stsb")
SEEDS = (0, 1)
WAYS = {
    "single-task": "single-{task}-s{seed}",
    "MT-DNN": "mtdnn-s{seed}",
    "MT-DNN + fine-tuning": "mtdnn-tuned-{task}-s{seed}",
    "Ticket-Share": "shared-s{seed}",
    "Ticket-Share + fine-tuning": "shared-tuned-{task}-s{seed}",
}


def say(line: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{line}\n")


def read(name: str) -> dict[str, Any] | None:
    """A copied result; None where it was not run."""
    path = RAW / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def metrics_of(way: str, task: str, seed: int) -> dict[str, Any] | None:
    """Final metrics of one task by one way with one seed; those of shared models stand by task."""
    result = read(WAYS[way].format(task=task, seed=seed))
    if result is None:
        return None
    found = result["tasks"][task] if "tasks" in result else result
    return {name: kinds["final"]["values"][0] for name, kinds in found["metrics"].items()}


def cell(way: str, task: str) -> tuple[str, float | None]:
    """All metrics of a task, means over seeds; and the mean of the metrics, which is what the paper averages."""
    seeds = [found for seed in SEEDS if (found := metrics_of(way, task, seed)) is not None]
    if not seeds:
        return "-", None
    means = {name: statistics.fmean(found[name] for found in seeds) for name in seeds[0]}
    return " / ".join(f"{100 * value:.1f}" for value in means.values()), statistics.fmean(means.values())


def main() -> None:
    """Copy and print."""
    paths = {os.environ[name]: f"${name}" for name in ("OUT", "DATA", "FULL")}
    RAW.mkdir(exist_ok=True)
    for path in sorted(Path(os.environ["OUT"]).glob("*/result.json")):
        text = path.read_text()
        for found, shown in paths.items():
            text = text.replace(found, shown)
        (RAW / f"{path.parent.name}.json").write_text(text)
    say("| | " + " | ".join(TASKS) + " | average | seeds |\n|" + " --- |" * (len(TASKS) + 3))
    for way in WAYS:
        cells = [cell(way, task) for task in TASKS]
        scores = [score for _, score in cells if score is not None]
        average = f"{100 * statistics.fmean(scores):.1f}" if len(scores) == len(TASKS) else "-"
        count = min(sum(metrics_of(way, task, seed) is not None for seed in SEEDS) for task in TASKS)
        say(f"| {way} | " + " | ".join(text for text, _ in cells) + f" | {average} | {count} |")
    shared = read("shared-s0")
    if shared is not None:
        of_each = {task: round(100 * shared["tasks"][task]["weight_remaining"], 1) for task in TASKS}
        say(f"\nweight remaining: {100 * shared['weight_remaining']:.1f}; {json.dumps(of_each)}")


if __name__ == "__main__":
    main()
