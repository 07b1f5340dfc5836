"""The page that says what each number is checked against names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "explanation" / "parity.md"


def test_every_test_it_names_is_there():
    named = re.findall(r"`(\w+/test_\w+\.py)::(\w+)`", PAGE.read_text())
    assert len(named) > 30
    lost = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (TESTS / file).read_text()]
    assert lost == []


def test_it_names_all_tests_of_parity():
    """Those of whole files that are about nothing else."""
    page = PAGE.read_text()
    for file in ("finetuning/test_parity_training.py", "tickets/test_parity_tickets.py", "pruning/test_precisions.py"):
        for name in re.findall(r"^def (test_\w+)\(", (TESTS / file).read_text(), re.MULTILINE):
            assert f"`{file}::{name}`" in page, name
