"""Copy the raw JSON of a finished `run.sh` beside this file, without machine paths, and print the table.

Usage: DATA=... OUT=... python docs/results/mask_training/levels/collect.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RAW = HERE / "raw"
ALONE = {s: HERE.parent / "raw" / f"tuned-{s}.wikitext.json" for s in (50, 60, 70, 80)}


def kd(path: Path) -> float:
    """KD loss of one evaluation."""
    found: float = json.loads(path.read_text())["kd_loss"]
    return found


def say(line: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Copy and print."""
    out, data = os.environ["OUT"], os.environ["DATA"]
    RAW.mkdir(exist_ok=True)
    names = [f"ladder-{s}.wikitext.json" for s in (50, 60, 70, 80, 90)] + ["kd240-90-bf16.wikitext.json"]
    sources = {name: Path(out, name) for name in names}
    sources |= {f"ladder.{name}": Path(out, "ladder-240-120", name) for name in ("result.json", "metrics.jsonl")}
    for name, path in sources.items():
        (RAW / name).write_text(path.read_text().replace(out, "$OUT").replace(data, "$DATA"))
    result = json.loads((RAW / "ladder.result.json").read_text())
    say("| sparsity | one search | separate search | ratio | total steps | kept weights also kept by the level below |")
    say("| --- | --- | --- | --- | --- | --- |")
    for rung in result["rungs"]:
        percent = round(100 * rung["sparsity"])
        own = kd(ALONE.get(percent, RAW / "kd240-90-bf16.wikitext.json"))
        found = kd(RAW / f"ladder-{percent}.wikitext.json")
        inside = rung["kept_inside_previous"]
        cells = [f"{percent} %", f"{found:.4f}", f"{own:.4f}", f"{found / own:.3f}", str(rung["steps"])]
        say(f"| {' | '.join(cells)} | {'-' if inside is None else f'{inside:.3f}'} |")
    say(f"{result['steps']} steps; separate searches: {result['steps_of_separate_searches']}")


if __name__ == "__main__":
    main()
