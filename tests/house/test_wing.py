"""The library works without the wing of studies and analyses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from samples.tiny_models import make_model

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ("api", "cli", "config", "data", "deploy", "evaluation", "finetuning", "models", "pruning", "report", "runs")
LIBRARY += ("tickets", "training")
"""Folders of tests of the library; tests in them that are about the wing too are skipped where it is not there."""


@pytest.fixture(scope="module")
def without_wing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sources of the library, without those of the wing."""
    folder = tmp_path_factory.mktemp("library")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("studies", "__pycache__"))
    return folder


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python on the sources of a folder."""
    env = os.environ | {"PYTHONPATH": str(folder / "src"), "PYTHONSAFEPATH": "1"}
    return subprocess.run([sys.executable, *words], env=env, cwd=folder, capture_output=True, text=True, check=False)


def test_commands_work_without_the_wing(without_wing: Path) -> None:
    make_model(without_wing / "model")
    words = "-m winning_tickets search model --method magnitude --sparsity 0.5 --out ticket"
    done = run(words.split(), without_wing)
    assert (done.returncode, (without_wing / "ticket" / "ticket.json").is_file()) == (0, True), done.stderr
    shown = run(["-m", "winning_tickets", "--help"], without_wing)
    assert shown.returncode == 0
    assert "search" in shown.stdout
    assert "study" not in shown.stdout
    refused = run(["-m", "winning_tickets", "study", "plan"], without_wing)
    assert (refused.returncode, refused.stderr) == (2, "Error: No such command 'study'.\n")


@pytest.mark.slow
def test_the_tests_of_the_library_pass_without_the_wing(without_wing: Path) -> None:
    shutil.copytree(ROOT / "tests", without_wing / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "docs", "benchmarks"):
        (without_wing / name).symlink_to(ROOT / name)
    done = run(["-m", "pytest", "-q", "-n", "2", *(f"tests/{name}" for name in LIBRARY)], without_wing)
    assert done.returncode == 0, done.stdout[-4000:]
