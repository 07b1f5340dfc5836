"""Write the results of runs in a folder as one JSON file by name, without the folders of this machine.

    python docs/results/collect.py OUT docs/results/mask_training/raw/quality.json DATA=FOLDER

OUT is that of a `run.sh`. Each `OUT/NAME.json` and `OUT/NAME/result.json` is a record of the file. Folders that are
given as NAME=FOLDER are written as $NAME, and OUT as $OUT. `tables.py` makes the tables from these files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    """Read and write."""
    out, target = Path(sys.argv[1]), Path(sys.argv[2])
    folders = {str(out): "$OUT"} | {
        folder: f"${name}" for name, _, folder in (one.partition("=") for one in sys.argv[3:])
    }
    records = {}
    for path in sorted([*out.glob("*.json"), *out.glob("*/result.json")]):
        text = path.read_text(encoding="utf-8")
        for folder, name in folders.items():
            text = text.replace(folder, name)
        if text.strip():
            records[path.stem if path.parent == out else path.parent.name] = json.loads(text)
    target.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
