"""Counts of a long run of the fuzz tests, from its junit files: `counts.json` beside this file, and a table.

Usage: pytest -m slow tests/fuzz --junitxml=FILE; python docs/results/hostile_input/collect.py FILE...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Read, write, print."""
    found: dict[str, dict[str, int]] = {}
    for case in (case for file in sys.argv[1:] for case in ElementTree.parse(file).iter("testcase")):
        name = str(case.get("name"))
        if name.startswith("test_very_many_damaged_files["):
            for value in case.iter("property"):
                if value.get("name") == "found":
                    reader = name.split("[", 1)[1].rstrip("]")
                    found[reader] = dict(sorted(json.loads(str(value.get("value"))).items()))
    (HERE / "counts.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    lines = ["| reader | inputs | read | refused |", "| --- | ---: | ---: | ---: |"]
    for reader, counts in found.items():
        total, valid = sum(counts.values()), counts.get("valid", 0)
        lines.append(f"| {reader} | {total:,} | {valid:,} | {total - valid:,} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
