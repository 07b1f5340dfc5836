"""Copy the raw JSON of a finished `run.sh` beside this file, without machine paths, and print the tables as Markdown.

Usage: DATA=... OUT=... python docs/results/mask_training/collect.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RAW = HERE / "raw"


def copy_raw(out: Path, data: str) -> None:
    """Results, evaluations and step logs, with the folders of this machine replaced by $OUT and $DATA."""
    RAW.mkdir(exist_ok=True)
    for path in sorted([*out.glob("*.json"), *out.glob("*/result.json"), *out.glob("*/config.json")]):
        name = path.name if path.parent == out else f"{path.parent.name}.{path.name}"
        _copy(path, name, out, data)
    for path in sorted(out.glob("*-60steps/metrics.jsonl")):
        _copy(path, f"{path.parent.name}.metrics.jsonl", out, data)


def _copy(path: Path, name: str, out: Path, data: str) -> None:
    if path.exists():
        text = path.read_text().replace(str(out), "$OUT").replace(data, "$DATA")
        if text.strip():
            (RAW / name).write_text(text)


def value(name: str, field: str) -> float | None:
    """One number of one evaluation; None where it was not run."""
    path = RAW / name
    found: float | None = json.loads(path.read_text())[field] if path.exists() else None
    return found


def row(label: str, run: str) -> list[Any]:
    """KD in and out of domain and zero-shot similarity of one run, each beside magnitude or dense."""
    sparsity = run.split("-")[1] if "-" in run else None
    wiki, stsb = value(f"{run}.wikitext.json", "kd_loss"), value(f"{run}.stsb.json", "kd_loss")
    pearson = value(f"{run}.stsb.json", "similarity_pearson")
    base_wiki = value(f"magnitude-{sparsity}.wikitext.json", "kd_loss")
    base_stsb = value(f"magnitude-{sparsity}.stsb.json", "kd_loss")
    dense = value("dense.stsb.json", "similarity_pearson")
    cells: list[Any] = [label]
    for found, base in ((wiki, base_wiki), (stsb, base_stsb), (pearson, dense)):
        cells.append("-" if found is None else f"{found:.4f}")
        cells.append("-" if found is None or not base else f"{found / base:.3f}")
    return cells


def table(rows: list[list[Any]]) -> str:
    """A Markdown table."""
    head = ["", "KD WikiText-2", "/ magnitude", "KD STS-B", "/ magnitude", "similarity", "/ dense"]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main() -> None:
    """Copy, then print."""
    copy_raw(Path(os.environ["OUT"]), os.environ["DATA"])
    rows = [row("dense", "dense")]
    rows += [row(f"{m} {s} %", f"{m}-{s}") for s in (50, 60, 70, 80) for m in ("random", "magnitude", "tuned")]
    variants = [row("tuned 60 %, 60 steps", "tuned-60-60steps")]
    names = ("rank-60", "plateau-60", "plateau-60-lr1e-3", "randominit-60", "paper-60", "code-60")
    variants += [row(f"{name}, 60 steps", f"{name}-60steps") for name in names]
    sys.stdout.write("\n\n".join([table(rows), table(variants)]) + "\n")


if __name__ == "__main__":
    main()
