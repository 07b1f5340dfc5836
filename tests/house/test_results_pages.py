"""The tables of docs/results and the sentences of the README with numbers are those of the committed raw numbers."""

from __future__ import annotations

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
