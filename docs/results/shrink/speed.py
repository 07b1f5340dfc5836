"""Time small models next to the dense one, with all passes in turns: python speed.py DENSE SMALL... > speed.json."""

import json
import sys
from functools import partial

import torch

from winning_tickets.deploy import measure
from winning_tickets.models.loading import load_plm
from winning_tickets.runs.provenance import machine, versions

torch.set_num_threads(2)
plms = [load_plm(name) for name in sys.argv[1:]]
inputs = measure.random_inputs(plms[0], 8, 64, torch.device("cpu"))
seconds = measure.take_turns([partial(one.model.eval(), **inputs) for one in plms], 30, torch.device("cpu"), False)
found = {
    name: {
        "latency_seconds": measure.spread(seconds[:, at]),
        "shortest_seconds": float(seconds[:, at].min()),
        "speedup": measure.spread(seconds[:, 0] / seconds[:, at]),
    }
    for at, name in enumerate(sys.argv[1:])
}
about = {"batch": 8, "length": 64, "threads": 2, "machine": machine(), "versions": versions()}
sys.stdout.write(json.dumps(about | {"models": found}, indent=2) + "\n")
