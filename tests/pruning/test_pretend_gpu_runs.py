"""Every method and verb from its command line to its files, on a pretend GPU that refuses to mix devices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from samples.commands import CASES, make_world, words_of
from samples.pretend_gpu import PretendGPU
from winning_tickets.cli import app


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_world(tmp_path_factory.mktemp("world"))


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
