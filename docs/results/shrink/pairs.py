"""Write sentence pairs without labels for a shrunken MRPC model to learn from.

    python docs/results/shrink/pairs.py GLUE pairs.csv

The pairs of MRPC's training set in both orders, and those of STS-B's; none with a sentence of MRPC's dev set.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path


def rows_of(path: Path, first: str, second: str) -> list[tuple[str, str]]:
    """Return two columns of a GLUE file."""
    header, *lines = path.read_text(encoding="utf-8-sig").splitlines()
    places = [header.split("\t").index(name) for name in (first, second)]
    cells = [line.split("\t") for line in lines]
    return [(row[places[0]], row[places[1]]) for row in cells]


def main(glue: Path, out: Path) -> None:
    """Write the pairs, each once."""
    own = rows_of(glue / "MRPC" / "train.tsv", "#1 String", "#2 String")
    others = rows_of(glue / "STS-B" / "train.tsv", "sentence1", "sentence2")
    held_out = {text for pair in rows_of(glue / "MRPC" / "dev.tsv", "#1 String", "#2 String") for text in pair}
    pairs = dict.fromkeys([*own, *((second, first) for first, second in own), *others])
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence1", "sentence2"])
        writer.writerows(pair for pair in pairs if not held_out & set(pair))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
