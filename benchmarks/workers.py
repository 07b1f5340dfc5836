"""Speed-up of two local workers over one on a grid of single-threaded runs.

    python benchmarks/workers.py [--workers 2] [--seeds 12] [--steps 150] [--rounds 3]

A study at `smoke`: two searches, then fine-tunings of their tickets on two tasks with the given number of seeds.
Each round runs it with one worker and with several, in shuffled order, each time in a new store; `tickets study run` is
timed from its start to its end, with the start of its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from interleave import ratio
from winning_tickets.runs.provenance import machine, versions
from winning_tickets.runs.store.store import Store


def study(seeds: int, steps: int) -> dict[str, Any]:
    """The grid, as the content of a study's file; JSON is YAML."""
    return {
        "name": "workers",
        "title": "A grid of small runs",
        "scales": {"smoke": {"seeds": list(range(seeds)), "steps": steps}},
        "stages": {
            "search": {
                "verb": "search",
                "with": {"model": "tiny:bert", "sparsity": 0.5},
                "over": {"method": ["magnitude", "random"]},
            },
            "transfer": {
                "verb": "transfer",
                "with": {"target": "@search", "data_dir": "tiny:glue", "steps": "${steps}"},
                "over": {"task": ["rte", "mrpc"], "seed": "${seeds}"},
            },
        },
    }


def timed(file: Path, store: Path, workers: int) -> dict[str, Any]:
    """Seconds of the whole command, and the sum of those that its runs took."""
    words = ["study", "run", str(file), "--scale", "smoke", "--store", str(store), "--workers", str(workers), "--json"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "winning_tickets", *words, "--quiet"],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    seconds = time.perf_counter() - start
    records = list(Store(store).records(status="done"))
    assert len(records) == json.loads(done.stdout)["runs"]
    own = [record.seconds or 0.0 for record in records]
    return {"seconds": seconds, "runs": len(own), "run_seconds": sum(own), "first_run_seconds": max(own)}


def main() -> None:
    """Print one JSON object with the times in seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    order, rounds = random.Random(0), {1: [], given.workers: []}
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "study.yaml"
        file.write_text(json.dumps(study(given.seeds, given.steps)))
        for number in range(given.rounds):
            for workers in order.sample(list(rounds), len(rounds)):
                rounds[workers].append(timed(file, Path(temporary) / f"store-{number}-{workers}", workers))
    seconds = {workers: [one["seconds"] for one in found] for workers, found in rounds.items()}
    faster, interval = ratio(seconds[1], seconds[given.workers])
    result = {
        "workers": given.workers,
        "runs": rounds[1][0]["runs"],
        "rounds": given.rounds,
        "seconds": {workers: statistics.median(values) for workers, values in seconds.items()},
        "ratios": {"one_over_several": faster},
        "intervals_95": {"one_over_several": interval},
        "all": rounds,
        "machine": machine(),
        "versions": versions(),
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
