"""The tables of docs/results and the sentences of the README with numbers are those of the committed raw numbers."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.mark.skipif(not (RESULTS / "decoders/raw").is_dir(), reason="a source distribution has no raw numbers")
def test_the_raw_numbers_give_every_table():
    command = [sys.executable, str(RESULTS / "tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "run python docs/results/tables.py"


@pytest.mark.skipif(not (RESULTS / "decoders/raw").is_dir(), reason="a source distribution has no raw numbers")
def test_the_raw_numbers_give_every_figure():
    """Colors and words are compared, not places: fonts may be measured otherwise on another machine."""
    sys.path.insert(0, str(RESULTS))
    try:
        figures = importlib.import_module("figures")
    finally:
        sys.path.remove(str(RESULTS))
    drawn = {name: draw() for name, draw in figures.FIGURES.items()}
    assert {name for name, made in drawn.items() if name.endswith(".png")} == {"sharing/pies.png"}
    for name in set(drawn) - {"sharing/pies.png"}:
        committed, made = (RESULTS / name).read_text(encoding="utf-8"), drawn[name]["svg"].decode()
        assert looks_of(made) == looks_of(committed), f"run python docs/results/figures.py for {name}"


def looks_of(svg):
    return re.findall(r">([^<>]*\S[^<>]*)<", svg), re.findall(r"#[0-9a-fA-F]{6}\b", svg)
