"""Run the training loop of docs/how_to/run_on_several_processes.md on a model: a program for torchrun.

Arguments: the model's folder, and the file for what was found, which process 0 writes.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

from winning_tickets.tickets.selection import pruned_count

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how_to" / "run_on_several_processes.md"


def main() -> None:
    """Take five steps, and compare the counts of the masks with what the sparsity asks for."""
    model, out = sys.argv[1:]
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    there: dict[str, Any] = {}
    exec(code.replace("bert-base-uncased", model), there)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        ids = torch.randint(5, 40, (4, 16), generator=generator)
        there["step"]({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    masks, first = there["optimizer"].whole_masks(), there["masks"]
    if there["rank"] == 0:
        found = {
            "processes": there["world_size"],
            "device": there["device"].type,
            "steps": there["optimizer"].steps,
            "pruned": {name: int(torch.count_nonzero(~mask)) for name, mask in masks.items()},
            "asked": {name: pruned_count(mask.numel(), 0.6) for name, mask in masks.items()},
            "changed": sum(int((mask.cpu() != first[name]).sum()) for name, mask in masks.items()),
        }
        Path(out).write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
