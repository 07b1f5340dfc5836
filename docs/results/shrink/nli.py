"""Write the sentences of MNLI and SNLI, each once: python nli.py DATA FILE, with folders glue and snli in DATA."""

import csv
import json
import sys
from pathlib import Path

data, file = map(Path, sys.argv[1:])
columns = ("sentence1", "sentence2")
with (data / "glue" / "MNLI" / "train.tsv").open(encoding="utf-8", newline="") as lines:
    rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
with (data / "snli" / "snli_1.0_train.jsonl").open(encoding="utf-8") as lines:
    rows += map(json.loads, lines)
texts = dict.fromkeys(row[column].strip() for row in rows for column in columns)
file.write_text("".join(f"{text}\n" for text in texts if text), encoding="utf-8")
