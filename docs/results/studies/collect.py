"""Copy the reports of a finished `run.sh report` beside this file, and print every claim with its verdict.

Usage: OUT=... python docs/results/studies/collect.py
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LEFT_OUT = ("-dark.svg",)


def say(line: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{line}\n")


def estimate_of(claim: dict[str, Any]) -> str:
    """The estimate with its interval; fractions times 100, correlations and losses as they are."""
    if claim["estimate"] is None:
        return "-"
    interval = claim["interval"] or claim["bootstrap"]
    shown = f"{claim['estimate']:+.3f}"
    return shown if interval is None else f"{shown} [{interval[0]:+.3f}, {interval[1]:+.3f}]"


def main() -> None:
    """Copy and print."""
    say("| study | claim | verdict | estimate | n |\n| --- | --- | --- | --- | --- |")
    for folder in sorted((Path(os.environ["OUT"]) / "reports").iterdir()):
        target = HERE / folder.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target, ignore=lambda _, names: [n for n in names if n.endswith(LEFT_OUT)])
        report = json.loads((folder / "report.json").read_text())
        for claim in report["claims"].values():
            say(
                f"| [{folder.name}]({folder.name}/index.html) | {claim['text']} | {claim['verdict']} | "
                f"{estimate_of(claim)} | {claim['n']} |"
            )


if __name__ == "__main__":
    main()
