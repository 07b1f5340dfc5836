"""Counts of a long run of the fuzz tests, from its junit files: `counts.json` beside this file, and a table of totals.

Usage: pytest -m slow tests/fuzz --junitxml=FILE; python docs/results/robustness/collect_hostile_input.py FILE...
Without a FILE the table is printed from the stored `counts.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

COUNTS = Path(__file__).resolve().parent / "counts.json"
KINDS = {
    "tickets, importances, saved weights and models": (
        *("ticket description", "ticket description as it is", "masks", "mlm head", "ticket to verify", "mask.pt"),
        *("structured ticket", "gates", "state", "importance", "importance tensors", "shared model"),
        "task of a saved model",
    ),
    "configurations, studies and task files": (
        *("search configuration", "share configuration", "transfer configuration", "study", "task file"),
    ),
    "data sets and text": (
        *("CSV", "TSV", "CoNLL", "JSONL of words", "JSONL with sets of classes", "corpus", "GLUE test set"),
        *("MT-DNN objects", "MT-DNN rows", "MT-DNN words", "CoLA", "RTE", "STS-B", "SNLI", "SciTail", "SQuAD"),
    ),
    "results, logs and settings of runs": (
        *("result", "result of a seed", "result of two seeds", "evaluation", "log", "settings of a run"),
    ),
    "files of a store": (
        *("stored result", "stored settings", "stored description", "stored provenance", "stored error"),
        *("stored hashes", "stored result on a page", "stored provenance on a page", "cached index of a store"),
        *("claim", "marker of a store"),
    ),
}


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
    if sys.argv[1:]:
        COUNTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    found = json.loads(COUNTS.read_text(encoding="utf-8"))
    unknown = found.keys() - {reader for readers in KINDS.values() for reader in readers}
    if unknown:
        sys.exit(f"These readers are in no row of the table, add them to KINDS: {', '.join(sorted(unknown))}")
    lines = ["| kind of file | readers | inputs | read | refused |", "| --- | ---: | ---: | ---: | ---: |"]
    for kind, readers in {**KINDS, "all": tuple(found)}.items():
        counts = [found[reader] for reader in readers if reader in found]
        total, valid = sum(sum(one.values()) for one in counts), sum(one.get("valid", 0) for one in counts)
        lines.append(f"| {kind} | {len(counts)} | {total:,} | {valid:,} | {total - valid:,} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
