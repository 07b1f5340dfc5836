"""Run every recipe at scale miniature in one store, check runs and pages, and write a JSON file for each recipe.

Finished runs are not done again, so it can be stopped and started. Usage, in a checkout:
python docs/results/miniature/prove.py --store STORE [--workers N] [--reports DIR] [RECIPE ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "tests"))

from samples.behavior import check  # noqa: E402
from winning_tickets.runs.store.store import Store  # noqa: E402
from winning_tickets.studies.engines import EngineOptions, make_engine  # noqa: E402
from winning_tickets.studies.estimates import Estimator  # noqa: E402
from winning_tickets.studies.load import load_study, recipe_names  # noqa: E402
from winning_tickets.studies.plan import Plan, plan_study  # noqa: E402
from winning_tickets.studies.report import report_study  # noqa: E402
from winning_tickets.studies.run import run_study  # noqa: E402

SHOWN = ("verdict", "reason", "n", "planned", "degenerate")


def prove(plan: Plan, store: Store, workers: int, reports: Path, before: set[str]) -> dict[str, Any]:
    """Run a recipe, and return what its runs took and what is wrong; `before` are the runs of earlier recipes."""
    result = run_study(plan, store, make_engine("local", EngineOptions(workers=workers), store.path))
    report = report_study(plan, store, reports / plan.study.name, ["md", "csv", "svg", "png", "html"], force=True)
    seconds = {record.id: record.seconds or 0.0 for record in store.records() if record.id in plan.runs}
    return {
        "study": plan.study.name,
        "scale": plan.scale,
        "runs": len(plan.runs),
        "failed": result["failed"],
        "new_runs": len(plan.runs.keys() - before),
        "seconds": round(sum(seconds.values()), 1),
        "estimated_seconds": round(Estimator(plan, {}).estimate(plan.runs, 1)["seconds"], 1),
        "new_seconds": round(sum(value for run, value in seconds.items() if run not in before), 1),
        "differences": plan.differences,
        "verdicts": {
            name: {key: claim[key] for key in SHOWN if claim[key] != []} for name, claim in report["claims"].items()
        },
        "problems": check(plan, store, report),
    }


def table(found: list[dict[str, Any]]) -> str:
    """The rows of the README."""
    lines = []
    for one in found:
        words = [claim["verdict"] for claim in one["verdicts"].values()]
        verdicts = ", ".join(
            f"{words.count(word)} {word}" for word in ("holds", "contradicted", "inconclusive") if word in words
        )
        wrong = ", ".join(f"{name}: {len(problems)}" for name, problems in one["problems"].items() if problems)
        failed = f"{len(one['failed'])} failed; " if one["failed"] else ""
        lines.append(
            f"| `{one['study']}` | {one['runs']} | {one['new_runs']} | {one['seconds'] / 60:.1f} | "
            f"{one['estimated_seconds'] / 60:.1f} | "
            f"{one['new_seconds'] / 60:.1f} | {verdicts or 'no claims'} | {failed}{wrong or 'all hold'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prove all recipes, or those that are named, and print a row for each that has a file."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("recipes", nargs="*")
    arguments.add_argument("--store", type=Path, required=True)
    arguments.add_argument("--reports", type=Path, default=Path("miniature-reports"))
    arguments.add_argument("--workers", type=int, default=2)
    given = arguments.parse_args()
    names = [name for name in recipe_names() if name != "demo"]
    before: set[str] = set()
    for name in names:
        plan = plan_study(load_study(name), "miniature")
        if not given.recipes or name in given.recipes:
            one = prove(plan, Store(given.store), given.workers, given.reports, before)
            (HERE / f"{name}.json").write_text(json.dumps(one, indent=1) + "\n", encoding="utf-8")
            sys.stdout.write(f"{table([one])}\n")
            sys.stdout.flush()
        before |= plan.runs.keys()


if __name__ == "__main__":
    main()
