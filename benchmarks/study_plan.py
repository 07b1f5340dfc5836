"""Time to plan a study: the whole command, and the planning itself.

    python benchmarks/study_plan.py [NAME] [--scale paper] [--rounds 5]

NAME is a recipe or a file; without it the recipe with most runs. It is planned without a store, and with a
store in which two of three runs are done; this store is synthetic and its creation is not timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report_open import fill
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.provenance import machine, versions
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.load import load_study, recipe_names
from winning_tickets.studies.plan import Plan, plan_study
from winning_tickets.studies.status import study_status


def largest(scale: str) -> str:
    """The recipe with most runs at a scale."""
    counts = {}
    for name in recipe_names():
        try:
            counts[name] = len(plan_study(load_study(name), scale).runs)
        except UsageError:
            continue  # not at this scale
    return max(counts, key=lambda name: counts[name])


def median(rounds: int, work: Callable[[], Any]) -> dict[str, Any]:
    """Median seconds of some rounds, and all of them."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return {"median": statistics.median(seconds), "all": seconds}


def command(name: str, scale: str, store: Path) -> None:
    """`tickets study plan` as a process of its own."""
    words = ["study", "plan", name, "--scale", scale, "--store", str(store), "--json"]
    subprocess.run([sys.executable, "-m", "winning_tickets", *words], check=True, capture_output=True)


def partly(plan: Plan) -> Plan:
    """A plan with two of three places in the grid, so that every kind of run is among them."""
    points = tuple(point for index, point in enumerate(plan.points) if index % 3)
    return Plan(plan.study, plan.scale, plan.parameters, plan.runs, points)


def main() -> None:
    """Print one JSON object with the times in seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--scale", default="paper")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    name = given.name or largest(given.scale)
    study = load_study(name)
    plan = plan_study(study, given.scale)
    result = {"study": name, "scale": given.scale, "runs": len(plan.runs), "rounds": given.rounds, "seconds": {}}
    seconds: dict[str, Any] = result["seconds"]
    seconds["load"] = median(given.rounds, lambda: load_study(name))
    seconds["plan"] = median(given.rounds, lambda: plan_study(study, given.scale))
    with tempfile.TemporaryDirectory() as temporary:
        absent, filled = Path(temporary) / "absent", Path(temporary) / "filled"
        fill(filled, partly(plan))
        for what, store in (("absent", absent), ("filled", filled)):
            seconds[f"status_{what}"] = median(given.rounds, lambda store=store: study_status(plan, Store(store)))
            seconds[f"command_{what}"] = median(given.rounds, lambda store=store: command(name, given.scale, store))
    result |= {"machine": machine(), "versions": versions()}
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
