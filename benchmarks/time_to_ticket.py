"""CPU seconds of a whole search, and how good its ticket is, for several settings of mask training: ratios.

    python benchmarks/time_to_ticket.py --model MODEL --corpus FOLDER --lines FILE --bf16 --folder DIR > result.json

Each search is a command in a process of its own with one thread; its CPU seconds are those of the whole process, from
the start of Python to the last file. The ticket is measured on text that the search did not see: the validation part of
the corpus, and the lines of a file (short questions, for example). With `--tasks` it is also fine-tuned.
  2048    the batches, the learning rate and the optimizer of `tuned` in version 0.1.0
  tuned   what `tuned` is now
A further setting is given as JSON: `--setting '1024={"batch_tokens": 1024}'`. A search or measurement whose result lies
in `--folder` is not repeated, so a killed benchmark resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from winning_tickets.data.corpora import load_corpus
from winning_tickets.runs.provenance import machine, versions

BEFORE = {"batch_tokens": 2048, "learning_rate": 2e-4, "adam_beta1": 0.9, "adam_beta2": 0.999}


class Arms:
    """All measurements of one model, each made once.

    Args:
        options: the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, Path(options.folder)
        self.running = ["--bf16"] if options.bf16 else []

    def command(self, words: list[str], out: Path) -> dict[str, Any]:
        """Return the result of a command of `tickets` and its CPU seconds; run it if they are not in the folder."""
        kept = out.with_suffix(".json")
        if not kept.exists():
            environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            words = [
                sys.executable,
                "-m",
                "winning_tickets",
                *words,
                *self.running,
                "--out",
                str(out),
                "--force",
                "--json",
            ]
            print(" ".join(words[2:]), file=sys.stderr, flush=True)
            process = subprocess.Popen([*words, "--quiet"], stdout=subprocess.PIPE, text=True, env=environment)
            assert process.stdout is not None
            text = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"The command failed: {' '.join(words)}")
            kept.write_text(json.dumps({"cpu_seconds": usage.ru_utime + usage.ru_stime, "result": json.loads(text)}))
        found: dict[str, Any] = json.loads(kept.read_text())
        return found

    def search(self, name: str, values: dict[str, Any], seed: int) -> dict[str, Any]:
        """Return what one search took and how good its ticket is."""
        options = self.options
        out = self.folder / f"{name}-{seed}"
        config = self.folder / f"{name}.config.json"
        steps = str(values.get("steps", options.steps))
        config.write_text(json.dumps({key: value for key, value in values.items() if key != "steps"}))
        words = ["search", options.model, "--method", "mask-training", "--objective", options.objective]
        words += ["--sparsity", str(options.sparsity), "--corpus", options.corpus, "--steps", steps]
        words += ["--seed", str(seed), "--config", str(config)]
        measured = {"cpu_seconds": self.command(words, out)["cpu_seconds"]}
        for where, text in {"text": [options.corpus], "lines": [options.lines, "--segments", "lines"]}.items():
            words = ["evaluate", str(out), "--objective", options.measure, "--corpus", *text]
            words += ["--max-tokens", str(options.max_tokens)]
            result = self.command(words, self.folder / f"{name}-{seed}-{where}")["result"]
            measured[where] = result[options.key]
        for task in filter(None, options.tasks.split(",")):
            words = ["transfer", str(out), "--task", task, "--data-dir", options.data_dir, "--seeds", str(seed)]
            words += ["--train-size", str(options.train_size), "--epochs", str(options.epochs)]
            result = self.command(words, self.folder / f"{name}-{seed}-{task}")["result"]
            measured[task] = result["metrics"][result["primary_metric"]]["final"]["mean"]
        return measured


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Return all measurements, their means, and what each setting takes beside that of version 0.1.0."""
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"2048": BEFORE, "tuned": {}}
    settings |= {name: json.loads(values) for name, _, values in (one.partition("=") for one in options.setting)}
    arms = Arms(options)
    # Seeds are the outer loop, so that each setting meets the same state of the machine.
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    for seed in range(options.seeds):
        for name, values in settings.items():
            rows[name].append(arms.search(name, values, seed))
    means = {
        name: {key: statistics.mean(one[key] for one in found) for key in found[0]} for name, found in rows.items()
    }
    before = means["2048"]["cpu_seconds"]
    return {
        "benchmark": "time_to_ticket",
        "settings": settings,
        "searches": rows,
        "means": means,
        "ratios": {f"{name}_over_2048": mean["cpu_seconds"] / before for name, mean in means.items() if name != "2048"},
        "options": {name: value for name, value in vars(options).items() if name not in ("folder", "json")}
        | {
            name: Path(value).name
            for name, value in vars(options).items()
            if name in ("model", "corpus", "lines", "data_dir")
        },
        "versions": versions(),
        "machine": machine(),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:minilm")
    parser.add_argument("--corpus", default="pydocs")
    parser.add_argument("--lines", help="a file with a text on each line; without it, short lines of the built-in text")
    parser.add_argument("--objective", default="kd")
    parser.add_argument("--measure", default="kd", help="objective of `tickets evaluate`")
    parser.add_argument("--key", default="kd_loss", help="of its result")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=20_000)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--tasks", default="")
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--train-size", type=int, default=2500)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folder", help="for tickets and measurements; without it they are not kept")
    parser.add_argument("--json", action="store_true", help="for `all.py`; the output is always JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or temporary
        if options.lines is None:
            options.lines = str(Path(temporary) / "lines.txt")
            short = [line for line in load_corpus("pydocs", "validation").lines if 4 <= len(line.split()) <= 16]
            Path(options.lines).write_text("\n".join(short) + "\n", encoding="utf-8")
        print(json.dumps(report(options), indent=1))


if __name__ == "__main__":
    main()
