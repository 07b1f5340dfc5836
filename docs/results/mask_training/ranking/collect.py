"""Copy the raw JSON of a finished `run.sh` beside this file, without machine paths, and print the table.

Usage: DATA=... OUT=... python docs/results/mask_training/ranking/collect.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

RAW = Path(__file__).resolve().parent / "raw"


def main() -> None:
    """Copy and print."""
    out, data = os.environ["OUT"], os.environ["DATA"]
    RAW.mkdir(exist_ok=True)
    names = [path for path in sorted(Path(out).glob("*.json")) if path.stat().st_size]
    for path in names:
        text = path.read_text().replace(out, "$OUT").replace(data, "$DATA")
        (RAW / path.name).write_text(text.rstrip("\n") + "\n")
    found = {path.stem: json.loads((RAW / path.name).read_text()) for path in names if path.stem.count(".") == 0}
    sys.stdout.write("| ticket | KD loss | MLM loss | MLM accuracy |\n| --- | --- | --- | --- |\n")
    for name, one in found.items():
        if "kd_loss" in one:
            values = (one[key] for key in ("kd_loss", "mlm_loss", "mlm_accuracy"))
            sys.stdout.write(f"| {name} | {' | '.join('-' if v is None else f'{v:.4f}' for v in values)} |\n")


if __name__ == "__main__":
    main()
