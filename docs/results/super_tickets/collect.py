"""Copy the raw JSON and figures of a finished `run.sh` beside this file, without machine paths, and print the tables.

Usage: DATA=... OUT=... python docs/results/super_tickets/collect.py
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TASKS = ("rte", "mrpc", "cola", "stsb")


def say(line: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{line}\n")


def score(facts: dict[str, Any], part: str) -> str:
    """Mean x100, with the deviation where there are several seeds."""
    std = facts[part]["std"]
    return f"{100 * facts[part]['mean']:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def table(result: dict[str, Any], part: str) -> None:
    """One task: a row for each selection, a column for each level."""
    levels = [f"{level:g}" for level in result["levels"]]
    winning = result["selections"]["winning"]
    say(
        f"\n| {result['task']}: {result['metric']}, full model {score(result['full'], part)} | "
        + " | ".join(levels)
        + " |"
    )
    say("| --- |" + " --- |" * len(levels))
    say(
        "| weight remaining | "
        + " | ".join(f"{100 * winning[level]['weight_remaining']:.1f}" for level in levels)
        + " |"
    )
    for name, by_level in result["selections"].items():
        say(f"| {name} | " + " | ".join(score(by_level[level], part) for level in levels) + " |")


def main() -> None:
    """Copy and print."""
    raw, out = HERE / "raw", Path(os.environ["OUT"])
    raw.mkdir(exist_ok=True)
    paths = {os.environ[name]: f"${name}" for name in ("OUT", "DATA")}
    for task in TASKS:
        for source, name in (
            (out / f"pilot-{task}-3e-4" / "result.json", f"pilot-{task}-3e-4.json"),
            (out / f"super-{task}" / "result.json", f"super-{task}.json"),
            (out / f"dense-{task}" / "result.json", f"dense-{task}.json"),
            (out / f"measure-{task}.json", f"measure-{task}.json"),
        ):
            if source.exists() and source.stat().st_size:
                text = source.read_text()
                for found, shown in paths.items():
                    text = text.replace(found, shown)
                (raw / name).write_text(text)
        if (out / f"super-{task}" / "phases.svg").exists():
            shutil.copy(out / f"super-{task}" / "phases.svg", HERE / f"phases-{task}.svg")
        if (raw / f"super-{task}.json").exists():
            result = json.loads((raw / f"super-{task}.json").read_text())
            table(result, "whole")
            best = result["super_ticket"]
            say(
                f"super ticket: level {best['level']:g}, rest {score(best, 'rest')}, "
                f"full {score(result['full'], 'rest')}"
            )
            say(json.dumps(best["against"]["full"]))
        if (raw / f"measure-{task}.json").exists():
            for shape in json.loads((raw / f"measure-{task}.json").read_text())["shapes"]:
                say(
                    json.dumps(
                        {key: shape[key] for key in ("batch", "length", "flops_ratio", "speedup") if key in shape}
                    )
                )


if __name__ == "__main__":
    main()
