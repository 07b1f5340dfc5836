"""A run that is killed and started again ends with the same bits, with deterministic algorithms also on a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from samples.learning import Killed, killed_after
from winning_tickets import search_all
from winning_tickets.config import Runtime, SearchConfig

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("deterministic")]

SEARCHES: dict[str, dict[str, Any]] = {
    "masks": {"method": "mask-training", "objective": "kd,mlm", "sparsity": (0.5, 0.7), "rung_steps": 3, "steps": 4},
    "masks with dropout": {"method": "mask-training", "objective": "mlm", "profile": "paper", "steps": 6},
    "gates": {"method": "mask-training", "objective": "kd", "prune_heads": (2,), "steps": 6},
    "imp": {"method": "imp", "objective": "mlm", "sparsity": (0.3, 0.6), "round_steps": 3},
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_killed_search_ends_with_the_same_bits(
    device: str, world: dict[str, Path], tmp_path: Path, name: str
) -> None:
    settings = {"corpus": str(world["text"]), "segments": "packed:16", "batch_tokens": 64, "learning_rate": 1e-3}
    config = SearchConfig(model=str(world["bert"]), **settings | SEARCHES[name])
    runtime = Runtime(device=device, quiet=True, checkpoint_steps=2)
    search_all(config, tmp_path / "whole", runtime)
    with pytest.raises(Killed), killed_after(5):
        search_all(config, tmp_path / "killed", runtime)
    search_all(config, tmp_path / "killed", runtime)
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")


def bits(out: Path) -> dict[str, Any]:
    """The tickets to the byte, and the log without times."""
    files = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.safetensors"))}
    logs: dict[str, Any] = {}
    for path in sorted(out.rglob("metrics.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        logs[str(path.relative_to(out))] = [
            {key: value for key, value in record.items() if key != "seconds"} for record in records
        ]
    assert files
    assert logs
    return files | logs
