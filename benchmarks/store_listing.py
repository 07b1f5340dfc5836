"""Time of listing the runs of a large store: from its index, beside reading the files of all runs.

    python benchmarks/store_listing.py [--runs 20000] [--rounds 3]

The store is made in a temporary folder, with descriptions, results and provenance of the size that a transfer has. CPU
seconds of this process are counted, without its start.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from winning_tickets.runs.provenance import machine, versions
from winning_tickets.runs.store.store import Store

TASKS = ("rte", "mrpc", "cola")


def fill(path: Path, runs: int) -> None:
    """Write a store with runs that are done."""
    path.mkdir()
    (path / "store.json").write_text(json.dumps({"what": "winning-tickets store", "format_version": 1}))
    settings = {f"setting_{number}": number / 3 for number in range(50)}
    package_versions = {f"package-{number}": "1.0.0" for number in range(20)}
    scores = {kind: {"mean": 0.5, "std": None, "values": [0.5]} for kind in ("final", "best")}
    for number in range(runs):
        run_id, seed = f"transfer-s{number % 5}-{number:012x}", number % 5
        about, run = path / "about" / run_id, path / "runs" / run_id
        about.mkdir(parents=True)
        run.mkdir(parents=True)
        config = settings | {"task": TASKS[number % 3], "seeds": [seed]}
        described = {"verb": "transfer", "id": run_id, "config": config, "labels": {"stage": "transfer"}}
        cost = {"seconds": 1.5, "resumed": False, "peak_memory": 10**9, "versions": package_versions}
        result = {
            "verb": "transfer",
            "task": TASKS[number % 3],
            "ticket_id": None,
            "sparsity": 0.0,
            "primary_metric": "accuracy",
            "metrics": {"accuracy": scores, "f1": scores},
            "seeds": [seed],
            "failed_seeds": [],
            "versions": package_versions,
            "config": config,
            "history": [{"step": step, "loss": 1 / (step + 1)} for step in range(30)],
        }
        for file, content in (
            (about / "run.json", described),
            (about / "provenance.json", cost),
            (run / "config.json", {"verb": "transfer", "id": run_id, "config": config}),
            (run / "result.json", result),
        ):
            file.write_text(json.dumps(content))


def cpu_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {"without_index": [], "listed": [], "where": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        fill(path, given.runs)
        for number in range(given.rounds):
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr)
            shutil.rmtree(path / "cache", ignore_errors=True)
            seconds["without_index"].append(cpu_seconds(lambda: Store(path).listed()))
            seconds["listed"].append(cpu_seconds(lambda: Store(path).listed()))
            seconds["where"].append(cpu_seconds(lambda: list(Store(path).records(["task=rte", "config.seeds=3"]))))
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "runs": given.runs,
        "cpu_seconds": seconds,
        "median": middle,
        "share_of_reading": middle["listed"] / middle["without_index"],
        "machine": machine(),
        "versions": versions(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
