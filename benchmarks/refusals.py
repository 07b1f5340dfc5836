"""CPU seconds until a command refuses a mistake, in fresh processes, beside the import of transformers' BERT alone.

    python benchmarks/refusals.py --json > result.json

Variants, interleaved: `libraries`, which imports what each command that reads a model has to, and one for each mistake.
Every refusal is checked to be one: exit code 2 or 1, and one line that begins with `Error:`.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import measured, run, small_options
from interleave import Step

MODEL = "builtin:minilm"
MISTAKES = {
    "no_mlm_head": f"search {MODEL} --objective mlm --corpus pydocs",
    "no_mlm_head_evaluate": f"evaluate {MODEL} --objective mlm --corpus pydocs",
    "no_mlm_head_dry_run": f"search {MODEL} --objective mlm --corpus pydocs --dry-run",
    "no_folder": "search ./nobody --method magnitude",
    "no_corpus": f"search {MODEL} --corpus nowhere.txt",
    "long_segments": f"search {MODEL} --corpus pydocs --segments packed:1024",
    "no_layers": f"search {MODEL} --method magnitude --layers 9",
    "not_a_task": f"transfer {MODEL} --task rtee",
    "no_data": f"transfer {MODEL} --task rte --data-dir nowhere",
    "bad_value": f"search {MODEL} --sparsity 1.5",
    "not_a_ticket": "inspect nowhere",
    "not_a_format": f"export {MODEL} --format pdf",
}
LIBRARIES = [sys.executable, "-c", "from transformers import BertForMaskedLM"]


def children_seconds() -> float:
    """Return the CPU seconds of all ended child processes, which other work on the machine hardly changes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def step_of(line: str, folder: Path) -> Step:
    """Return a function that runs a command, which has to refuse."""
    words = line.split()
    out = [] if words[0] in ("evaluate", "inspect") else ["--out", str(folder / "out")]

    def step() -> None:
        command = [sys.executable, "-m", "winning_tickets", *words, *out]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
        last = done.stderr.strip().splitlines()[-1:]
        if done.returncode not in (1, 2) or not last or "Traceback" in done.stderr or (folder / "out").exists():
            raise SystemExit(f"tickets {line} was not refused: {done.returncode}, {done.stderr}")

    return step


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements and the conditions of the measurement."""
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: step_of(line, Path(folder)) for name, line in MISTAKES.items()}
        steps["libraries"] = lambda: subprocess.run(LIBRARIES, check=True, capture_output=True)
        pairs = {f"{name}_over_libraries": (name, "libraries") for name in MISTAKES}
        found = measured(steps, pairs, options, children_seconds)
    seconds = {variant: ms / 1000 for variant, ms in found["ms_a_step"].items()}
    slowest = max(MISTAKES, key=seconds.__getitem__)
    return {"seconds_each": seconds, "slowest": {"name": slowest, "seconds": seconds[slowest]}} | found


if __name__ == "__main__":
    run(small_options(__doc__, rounds=5), report)
