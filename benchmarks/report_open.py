"""Time to make the report of a study with many runs, and to open it in a browser.

    python benchmarks/report_open.py [--runs 10000] [--formats html,md,csv,tex,svg,png] [--keep DIR]

The study and its results are synthetic and are written to a temporary store first; that is not timed.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from winning_tickets.runs.provenance import machine, versions
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.load import load_study
from winning_tickets.studies.plan import Plan, plan_study
from winning_tickets.studies.report import FORMATS, report_study

TASKS = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
SPARSITIES = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
METHODS = ("random", "magnitude", "snip", "wanda", "mask-training")


def plan_of(runs: int) -> Plan:
    """Return a study with at least the given number of transfers."""
    seeds = math.ceil(runs / (len(TASKS) * len(SPARSITIES) * len(METHODS)))
    transfer = {"stage": "transfer", "average": ["task"]}
    body: dict[str, Any] = {
        "name": "many-runs",
        "title": "Many runs",
        "scales": {"paper": {"model": "tiny:bert", "seeds": list(range(seeds))}},
        "stages": {
            "search": {
                "verb": "search",
                "with": {"model": "${model}"},
                "over": {"method": {name: {"method": name} for name in METHODS}, "sparsity": SPARSITIES},
            },
            "transfer": {
                "verb": "transfer",
                "with": {"target": "@search"},
                "over": {"task": TASKS, "seed": "${seeds}"},
            },
        },
        "tables": {
            "main": {"stage": "transfer", "rows": ["sparsity", "method"], "columns": "task", "mean_column": "mean"}
        },
        "figures": {"scores": {"kind": "line", "x": "sparsity", "series": "method", **transfer}},
        "claims": {
            "better": {
                "text": "Trained masks transfer better than magnitude.",
                "stage": "transfer",
                "better": {"axis": "method", "first": "mask-training", "second": "magnitude"},
                "pair_by": ["task", "sparsity", "seed"],
            }
        },
    }
    return plan_study(load_study(body), "paper")


def fill(path: Path, plan: Plan) -> None:
    """Write a finished run for each grid point, in the format of the verbs."""
    store = Store(path)
    first = next(iter(plan.runs.values()))
    store.describe(first.id, first.verb, first.config)
    versions_here, machine_here = versions(), machine()
    for number, point in enumerate(plan.points):
        run = plan.runs[point.run]
        folder = store.folder(run.id)
        folder.mkdir(parents=True, exist_ok=True)
        value = 0.5 + (number % 97) / 400
        kinds = {kind: {"mean": value, "std": None, "values": [value]} for kind in ("final", "best")}
        result = {"verb": run.verb, "run_id": run.id, "metrics": {"accuracy": kinds}, "primary_metric": "accuracy"}
        result |= {"task": point.axes.get("task", "rte"), "ticket_id": None, "sparsity": 0.0}
        result |= {"method": point.axes.get("method", "random"), "scope": "encoder"}
        result |= {"seeds": [point.axes.get("seed", 0)], "failed_seeds": [], "versions": {"python": "3"}}
        about = path / "about" / run.id
        about.mkdir(exist_ok=True)
        described = {"verb": run.verb, "id": run.id, "config": run.config}
        labels = {"study": plan.study.name, "scale": plan.scale, "stage": run.stage}
        provenance = {"seconds": 60.0 + number % 7, "versions": versions_here, "machine": machine_here}
        for file, content in (
            (about / "run.json", described | {"labels": labels}),
            (about / "provenance.json", provenance),
            (folder / "config.json", described | {"config": run.settings.model_dump(mode="json")}),
            (folder / "result.json", result),
        ):
            file.write_text(json.dumps(content))


def timed_report(path: Path, plan: Plan, out: Path, formats: list[str]) -> float:
    """Seconds of one report, from opening the store to the last file."""
    start = time.perf_counter()
    report_study(plan, Store(path), out, formats)
    return time.perf_counter() - start


def timed_browser(page: Path, profile: Path) -> float | None:
    """Seconds in which headless Chromium starts, loads the page and runs its script; None without Chromium."""
    if shutil.which("chromium") is None:
        return None
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    start = time.perf_counter()
    subprocess.run([*command, "--dump-dom", page.as_uri()], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Print one JSON object with the times in seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--keep", type=Path, help="a folder for the store and the report, which stay")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = given.keep or Path(temporary)
        start = time.perf_counter()
        plan = plan_of(given.runs)
        planned = time.perf_counter() - start
        fill(root / "store", plan)
        out, formats = root / "report", given.formats.split(",")
        result = {
            "runs": len(plan.runs),
            "plan_seconds": planned,
            "first_seconds": timed_report(root / "store", plan, out, formats),
            "again_seconds": timed_report(root / "store", plan, out, formats),
        }
        if "html" in formats:
            result["page_bytes"] = (out / "index.html").stat().st_size
            result["browser_seconds"] = timed_browser(out / "index.html", Path(temporary) / "profile")
    result |= {"machine": machine(), "versions": versions()}
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
