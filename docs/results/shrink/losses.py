"""What a layer loses with fewer neurons or heads: measured, and as the sum of importances: python losses.py FOLDER.

FOLDER is the out folder of a `tickets shrink`, or OUT/importances-nli of compare.py. The sums are scaled so that the
last layer without its FFN has the same loss as measured.
"""

import json
import sys
from pathlib import Path

from winning_tickets.pruning.budget import Losses
from winning_tickets.pruning.importance import Importance

folder = Path(sys.argv[1])
stored = json.loads((folder / "removal_losses.json").read_text())
found = Importance.load(folder).values["sample"]
sums = Losses.of({unit: found[unit].square() for unit in ("heads", "neurons")}, stored["sizes"])
scale = stored["neurons"][-1][0] / sums.neurons[-1, 0]
rows = {
    unit: {"kept": kept, "measured": stored[unit], "sums of importances": (scale * getattr(sums, unit)).tolist()}
    for unit, kept in (("heads", list(range(sums.heads.shape[1]))), ("neurons", stored["sizes"]))
}
rounded = json.loads(json.dumps(rows), parse_float=lambda number: round(float(number), 5))
sys.stdout.write(json.dumps(rounded) + "\n")
