"""Time that the store adds to a run: describe it, claim it, hash its files, seal it.

    python benchmarks/store_overhead.py [--others 1000] [--megabytes 3] [--rounds 20]

A run here only writes files: a result, a log and a ticket of the given megabytes. The benchmark times all work of the
worker and the driver around it, in a store that already has other runs. The first run of a process also looks up the
repository's commit; this is reported separately and counted in full.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.provenance import machine, source, versions
from winning_tickets.runs.store.store import Store

MINUTE = 60.0
PARTS = ("open", "describe", "claim", "status", "release", "seal")


class Clock:
    """Accumulate the seconds of each part."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside for a part."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


def one_run(path: Path, run_id: str, content: bytes) -> dict[str, float]:
    """What the driver and its worker do for a run, as `study.jobs.perform` does; seconds of each part.

    Args:
        path: of the store, which the driver and each worker open anew.
        run_id: a new one.
        content: of its ticket.
    """
    clock = Clock()
    with clock.part("open"):
        driver, store = Store(path), Store(path)
    config = {"target": "@search", "task": "rte", "seeds": [0]}
    with clock.part("describe"):
        driver.describe(run_id, "transfer", config, {"study": "s", "scale": "smoke", "stage": "transfer"})
    start = time.perf_counter()
    with store.claim(run_id):
        clock.seconds["claim"] += time.perf_counter() - start
        with clock.part("status"):
            assert store.status(run_id) != "done"
        work(store, run_id, content)
        with clock.part("seal"):
            store.seal(run_id)
        start = time.perf_counter()
    clock.seconds["release"] += time.perf_counter() - start
    with clock.part("status"):  # the driver's, before and after
        assert driver.status(run_id) == "done"
        assert driver.status(run_id) == "done"
    return clock.seconds


def work(store: Store, run_id: str, content: bytes) -> None:
    """Write the files of a verb, as it would without a store."""
    run = RunDirectory.claim(store.folder(run_id), "transfer", run_id, {"task": "rte"})
    for step in range(100):
        run.log({"step": step, "loss": 0.5})
    (run.path / "ticket.safetensors").write_bytes(content)
    scores = {"mean": 0.5, "std": None, "values": [0.5]}
    kinds = {"accuracy": {"final": scores, "best": scores}}
    about = {"verb": "transfer", "task": "rte", "ticket_id": None, "sparsity": 0.0}
    run.finish({**about, "metrics": kinds, "primary_metric": "accuracy", "seeds": [0]})


def main() -> None:
    """Print one JSON object with the seconds of each part and their share of a minute."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", type=int, default=1_000, help="runs that are there before")
    parser.add_argument("--megabytes", type=float, default=3.0, help="of the ticket; MiniLM's has 2.8")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary) / "store"
        start = time.perf_counter()
        source()
        first = time.perf_counter() - start
        for number in range(given.others):
            one_run(store, f"other-{number}", b"")
        content = os.urandom(int(1e6 * given.megabytes))
        rounds = [one_run(store, f"run-{number}", content) for number in range(given.rounds)]
    seconds = {part: statistics.median(one[part] for one in rounds) for part in PARTS}
    totals = [first + sum(one.values()) for one in rounds]  # as if each worker did one run only
    result = {
        "others": given.others,
        "megabytes": given.megabytes,
        "rounds": given.rounds,
        "seconds": seconds,
        "total_seconds": statistics.median(totals),
        "all_totals": totals,
        "once_a_process_seconds": first,
        "share_of_a_minute": statistics.median(totals) / MINUTE,
        "machine": machine(),
        "versions": versions(),
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
