"""Tests for a CUDA device: `make gpu`, or `pytest tests/gpu -m gpu`; `--device cpu` runs them without one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Products are only deterministic with a workspace of fixed size, which has to be chosen before CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from samples.commands import make_world


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", choices=("cuda", "cpu"), help="where the tests of tests/gpu compute")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where to compute; without a CUDA device the test is skipped."""
    wanted: str = request.config.getoption("device", default="cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA device")
    return wanted


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Kernels that add in a fixed order; one that has none raises an error."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
