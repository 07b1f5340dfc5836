"""Several processes, each with its own GPU, through NCCL; weights that FSDP2 shards over one or two of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from samples.commands import words_of
from winning_tickets import Ticket, search
from winning_tickets.config import Runtime, SearchConfig
from winning_tickets.runs.directory import read_log

pytestmark = pytest.mark.gpu

SECONDS = 150


def launch(count: int, words: list[str], device: str) -> str:
    """Start processes as people do, and return what they print; a fork could not use CUDA again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(count),
        "--master-port",
        str(port),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [*command, *words], env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def two(device: str) -> int:
    """Two processes; on GPUs there have to be two, as NCCL does not let processes share one."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip(f"{torch.cuda.device_count()} CUDA device: NCCL needs one for each process")
    return 2


@pytest.mark.parametrize("how", [(), ("--shard",)], ids=["whole", "sharded"])
def test_two_processes_train_the_masks_of_one(
    device: str, two: int, world: dict[str, Path], tmp_path: Path, how: tuple[str, ...]
) -> None:
    config = SearchConfig(
        model=str(world["bert"]),
        method="mask-training",
        objective="kd,mlm",
        corpus=str(world["text"]),
        sparsity=0.5,
        steps=4,
        segments="packed:16",
        batch_tokens=128,
    )
    settings = {"objective": "kd,mlm", "corpus": config.corpus, "sparsity": 0.5, "steps": 4, "segments": "packed:16"}
    settings |= {"batch_tokens": 128, "out": tmp_path / "two", "device": device}
    options = [str(word) for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    launch(two, ["-m", "winning_tickets", "search", config.model, *options, *how, "--quiet"], device)
    expected = search(config, tmp_path / "one", Runtime(device=device, quiet=True))
    found = Ticket.from_pretrained(tmp_path / "two")
    different = sum(int((found.masks[name] != mask).sum()) for name, mask in expected.masks.items())
    assert different <= expected.total * 1e-3
    for one, other in zip(read_log(tmp_path / "two"), read_log(tmp_path / "one"), strict=True):
        for name in ("kd", "mlm"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("case", ["transfer", "imp"])
def test_two_processes_fine_tune_and_prune(
    device: str, two: int, world: dict[str, Path], tmp_path: Path, case: str
) -> None:
    printed = launch(two, ["-m", "winning_tickets", *words_of(case, world, tmp_path / "out", device)], device)
    assert json.loads(printed)["verb"] in ("transfer", "search")


def test_masks_of_sharded_weights(device: str, world: dict[str, Path], tmp_path: Path) -> None:
    """The training loop of the docs, with as many processes as there are GPUs, at most two."""
    count = min(2, torch.cuda.device_count()) if device == "cuda" else 2
    script = Path(__file__).with_name("sharded_masks.py")
    launch(count, [str(script), str(world["bert"]), str(tmp_path / "found.json")], device)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["processes"] == count
    assert found["device"] == device
    assert found["steps"] == 5
    assert found["pruned"] == found["asked"]
    assert found["changed"] > 0
