"""Seconds until `import winning_tickets` and `tickets --help` are done, each in a fresh process.

    python benchmarks/start_time.py --json > result.json

Variants, interleaved:
  python  an empty interpreter start
  import  `import winning_tickets`
  help    `tickets --help`
The result also has the modules that take most of the time of `tickets --help`, by `python -X importtime`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from typing import Any

from bench import measured, run, small_options
from interleave import Step

PAIRS = {"import_over_python": ("import", "python"), "help_over_python": ("help", "python")}
COMMANDS = {
    "python": ["-c", "pass"],
    "import": ["-c", "import winning_tickets"],
    "help": ["-m", "winning_tickets", "--help"],
}
HEAVY = ("torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "matplotlib")


def step_of(words: list[str]) -> Step:
    """Return a function that runs Python with these arguments."""

    def step() -> None:
        subprocess.run([sys.executable, *words], check=True, capture_output=True)

    return step


def modules() -> dict[str, float]:
    """Seconds that each module which `--help` imports takes itself, the slowest first."""
    command = [sys.executable, "-X", "importtime", *COMMANDS["help"]]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr)
    seconds = {name: int(microseconds) / 1e6 for microseconds, name in found}
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    imported = modules()
    found = measured({variant: step_of(words) for variant, words in COMMANDS.items()}, PAIRS, options)
    return {
        "seconds_each": {variant: ms / 1000 for variant, ms in found["ms_a_step"].items()},
        "modules": len(imported),
        "slowest_modules": dict(list(imported.items())[:15]),
        "heavy_modules": [name for name in HEAVY if name in imported],
    } | found


if __name__ == "__main__":
    run(small_options(__doc__, rounds=15), report)
