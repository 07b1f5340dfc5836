"""Every method and verb from its command line to its files, on a pretend GPU that refuses to mix devices."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from samples.commands import CASES, make_world, words_of
from tools.pretend_gpu import PretendGPU
from winning_tickets.cli import app
from winning_tickets.tickets.ticket import Ticket

ON_TEXT = "--corpus {text} --batch-tokens 64 --segments packed:16"
TIED = {
    "magnitude": "--method magnitude",
    "wanda": f"--method wanda {ON_TEXT}",
    "snip": f"--method snip --steps 2 {ON_TEXT}",
    "snip 2:4": f"--method snip --steps 2 {ON_TEXT} --pattern 2:4 --scope encoder",
    "snip by row": f"--method snip --steps 2 {ON_TEXT} --ranking row",
    "imp": f"--method imp --objective mlm --round-steps 2 --sparsity 0.2,0.5 --learning-rate 1e-12 {ON_TEXT}",
    "mask-training": f"--objective kd --steps 2 {ON_TEXT}",
    "mask-training 2:4": f"--objective kd --steps 2 {ON_TEXT} --pattern 2:4 --scope encoder --score-init plateau",
    "mask-training by row": f"--objective kd --steps 2 {ON_TEXT} --ranking row --score-init plateau",
    "mask-training global": f"--objective kd --steps 2 {ON_TEXT} --ranking global --score-init plateau",
}
"""Searches in which many scores are equal, so that the weights decide."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `samples.commands` has, and `tied`, a model whose weights have few values."""
    folder = tmp_path_factory.mktemp("world")
    found = make_world(folder)
    tied = found["tied"] = folder / "tied"
    tied.mkdir()
    for path in found["bert"].iterdir():
        (tied / path.name).write_bytes(path.read_bytes())
    weights = load_file(tied / "model.safetensors")
    rounded = {name: (value * 8).round() / 8 for name, value in weights.items()}
    save_file(rounded, tied / "model.safetensors", metadata={"format": "pt"})
    return found


@pytest.fixture
def gpu() -> Iterator[PretendGPU]:
    with PretendGPU() as made:
        yield made


def run(words: list[str]) -> Any:
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_a_command_mixes_no_devices(gpu: PretendGPU, world: dict[str, Path], tmp_path: Path, case: str) -> None:
    assert run(words_of(case, world, tmp_path / "out", "cuda"))


@pytest.mark.parametrize("case", TIED)
def test_ties_are_decided_as_on_the_cpu(world: dict[str, Path], tmp_path: Path, case: str) -> None:
    words = ["search", str(world["tied"]), *shlex.split(TIED[case].format(**world)), "--quiet", "--json"]
    run([*words, "--out", str(tmp_path / "cpu"), "--device", "cpu"])
    with PretendGPU():
        run([*words, "--out", str(tmp_path / "gpu"), "--device", "cuda"])
    found = {path.parent.relative_to(tmp_path / "gpu"): path.parent for path in tmp_path.glob("gpu/**/ticket.json")}
    assert found
    for place, folder in found.items():
        here, there = (Ticket.from_pretrained(one) for one in (folder, tmp_path / "cpu" / place))
        different = sum(int((mask != there.masks[name]).sum()) for name, mask in here.masks.items())
        assert here.pruned == there.pruned
        # The products of both are those of one CPU; scores may still differ in their last bits.
        assert different <= here.total * 1e-3


@pytest.mark.parametrize("objective", ["kd,mlm", "logits", "attention", "contrastive"])
def test_evaluate(gpu: PretendGPU, world: dict[str, Path], tmp_path: Path, objective: str) -> None:
    run(words_of("magnitude", world, tmp_path / "ticket", "cuda"))
    words = ["evaluate", str(tmp_path / "ticket"), "--objective", objective, "--corpus", str(world["text"])]
    words += ["--segments", "packed:16", "--batch-tokens", "64", "--quiet", "--json"]
    here, there = (run([*words, "--device", device]) for device in ("cuda", "cpu"))
    numbers = {name for name, value in there.items() if name.endswith(("_loss", "_accuracy"))}
    assert numbers
    for name in numbers:
        assert here[name] is there[name] is None or here[name] == pytest.approx(there[name], rel=1e-4), name
    assert gpu.counts.numbers[0] > 100
