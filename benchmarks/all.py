"""Run all benchmarks one after the other; write a JSON file for each, and one table.

    python benchmarks/all.py --out DIR [--quick] [--only mask_step,selection] [--device cuda] [--table]

Nothing else should run on the machine. Ratios compare variants that took turns inside one process; they can be
compared between machines, seconds cannot. `--quick` runs everything at tiny sizes: its numbers mean nothing.
`--table` runs nothing and makes the table from the JSON files in DIR.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from registry import BENCHMARKS, Benchmark, Row

HERE = Path(__file__).parent
HEAD = ("what", "ours", "beside", "ratio [95 %]", "asked, met")


def words_of(benchmark: Benchmark, quick: bool, device: str) -> list[str]:
    """Return the arguments of a benchmark's script."""
    words = [*(benchmark.quick if quick else benchmark.full)]
    if benchmark.takes_device:
        words += ["--device", device, *(benchmark.on_gpu if device != "cpu" and not quick else ())]
    return words


def run_one(benchmark: Benchmark, out: Path, quick: bool, device: str) -> bool:
    """Run a benchmark, keep its JSON and return whether it succeeded. Errors are on stderr."""
    words = words_of(benchmark, quick, device)
    command = [sys.executable, str(HERE / f"{benchmark.script}.py"), *words]
    print(" ".join(["python", f"benchmarks/{benchmark.script}.py", *words]), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        (out / f"{benchmark.name}.json").write_text(done.stdout, encoding="utf-8")
    else:
        print(f"{benchmark.name} failed with exit code {done.returncode}.", file=sys.stderr)
    return done.returncode == 0


def look_up(result: Any, path: str) -> Any:
    """Return the value at a dotted path of a JSON object, or None."""
    for key in path.split("."):
        result = result.get(key) if isinstance(result, dict) else None
    return result


def cells(row: Row, result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    ours, beside, ratio, interval = None, None, None, None
    if row.ratio is not None:
        over, _, under = row.ratio.partition("_over_")
        ratio = look_up(result, f"ratios.{row.ratio}")
        interval = look_up(result, f"intervals_95.{row.ratio}")
        ours, beside = (look_up(result, f"ms_a_step.{variant}") for variant in (over, under))
    if row.ours is not None:
        ours = look_up(result, row.ours)
    if row.beside is not None:
        beside = look_up(result, row.beside)
    if row.share is not None:
        ratio = look_up(result, row.share)
    if row.asked_of_gpu is not None and result.get("device", "cpu") != "cpu":
        row = replace(row, asked=row.asked_of_gpu)
    judged = ours if row.ratio is None and row.share is None else ratio
    unit = row.unit if row.ratio is None or row.ours is not None else "ms"
    return [
        row.name,
        _number(ours, unit),
        _number(beside, unit),
        _with_interval(ratio, interval),
        _asked(row, judged),
    ]


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _with_interval(ratio: float | None, interval: Sequence[float] | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")


def _asked(row: Row, value: float | None) -> str:
    """Return the bound, and whether the value meets it."""
    if row.asked is None:
        return ""
    bound = f"{row.asked:g}" if row.ratio is not None or row.share is not None else f"{row.asked:g} {row.unit}"
    met = "not measured"
    if value is not None:
        met = "yes" if (value >= row.asked if row.at_least else value <= row.asked) else "**no**"
    return f"{'≥' if row.at_least else '≤'}{bound}: {met}"


def table(out: Path, chosen: Sequence[Benchmark]) -> str:
    """Return the Markdown table of the JSON files in a folder; a row without a number and a bound is left out."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|---:|---:|---:|---|"]
    for benchmark in chosen:
        file = out / f"{benchmark.name}.json"
        if file.is_file():
            result = json.loads(file.read_text(encoding="utf-8"))
            rows = [cells(row, result) for row in benchmark.rows]
            lines += [f"| {' | '.join(row)} |" for row in rows if any(row[1:])]
    return "\n".join(lines) + "\n"


def chosen_by(only: str | None) -> list[Benchmark]:
    """Return the selected benchmarks.

    Raises:
        SystemExit: one of them does not exist.
    """
    names = [benchmark.name for benchmark in BENCHMARKS]
    wanted = names if only is None else only.split(",")
    unknown = [name for name in wanted if name not in names]
    if unknown:
        sys.exit(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(names)}.")
    return [benchmark for benchmark in BENCHMARKS if benchmark.name in wanted]


def main() -> None:
    """Run the selected benchmarks and print the table. Exit with code 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the JSON files and table.md")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--only", help="names, with commas")
    parser.add_argument("--device", default="cpu", help="where to compute, for those that can be told")
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    chosen = chosen_by(options.only)
    options.out.mkdir(parents=True, exist_ok=True)
    failed = (
        []
        if options.table
        else [
            benchmark.name for benchmark in chosen if not run_one(benchmark, options.out, options.quick, options.device)
        ]
    )
    text = table(options.out, chosen)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text, end="")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}.")


if __name__ == "__main__":
    main()
