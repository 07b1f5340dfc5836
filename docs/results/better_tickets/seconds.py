"""Print the training steps of searches in a store and their seconds, as JSON: python seconds.py STORE RUN..."""

import json
import sys
from pathlib import Path

store, *runs = sys.argv[1:]
found = {}
for run in runs:
    log = (Path(store) / "runs" / run / "metrics.jsonl").read_text()
    steps = [record for line in log.splitlines() if "seconds" in (record := json.loads(line))]
    found[run] = {"steps": len(steps), "seconds": round(sum(record["seconds"] for record in steps), 1)}
print(json.dumps(found, indent=1))  # noqa: T201
