"""Damaged and hostile files: one of our errors, with the place, or a valid object; nothing else, ever."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.fuzz.fuzzing import Fuzzer
from tools.fuzz.guard import Violation
from tools.fuzz.mutate import FORMS
from tools.fuzz.readers import READERS, Reader

EXAMPLES = {100_000: 50, 10_000: 12, 1_000: 3}
"""Of the short run, by the inputs of the long one."""


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_or_read(name, tmp_path):
    fuzzer = Fuzzer(READERS[name], tmp_path)

    @settings(max_examples=EXAMPLES[READERS[name].inputs], deadline=None, database=None,
              derandomize=True)  # fmt: skip
    @given(st.randoms(use_true_random=False), st.booleans(), st.booleans())
    def damaged(rng, meaning, seal):
        fuzzer.try_one(fuzzer.damage(rng, meaning), seal)

    damaged()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", READERS)
def test_very_many_damaged_files(name, tmp_path, record_property):
    """With `--junitxml=FILE` the counts are in FILE."""
    reader = READERS[name]
    found = Fuzzer(reader, tmp_path).run(reader.inputs, seed=int(os.environ.get("FUZZ_SEED", "0")))
    record_property("found", json.dumps(found))
    assert sum(found.values()) == reader.inputs
    assert found.keys() <= {"valid", "ContentError", "UsageError"}


@pytest.mark.parametrize("form", FORMS)
def test_damage_comes_from_the_seed_alone_and_changes_something(form, tmp_path):
    reader = next(reader for reader in READERS.values() if reader.form == form)
    reader.make(tmp_path)
    valid = (tmp_path / reader.file).read_bytes()
    first, second = ([FORMS[form](valid, random.Random(seed)) for seed in range(20)] for _ in range(2))
    if form != "pt":  # archives carry the time
        assert first == second
    assert sum(content != valid for content in first) >= 15


def _write_outside(folder: Path) -> None:
    (folder.parent / "made").write_text("x")


def _work() -> None:
    end = time.process_time() + 5
    while time.process_time() < end:
        pass


def _allocate(folder: Path) -> None:
    bytearray(2**31)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda folder: os.system("true"), Violation, "os.system"),
        (_write_outside, Violation, "for writing"),
        (lambda folder: (folder.parent / "outside" / "secret").read_text(), Violation, "content of the file named"),
        (lambda folder: (folder.parent / "outside" / "secret").unlink(), Violation, "os.remove"),
        (lambda folder: (folder.parent / "new").mkdir(), Violation, "os.mkdir"),
        (lambda folder: _work(), Violation, "more than"),
        (_allocate, MemoryError, None),
        (lambda folder: [][0], IndexError, None),
    ],
)  # fmt: skip
def test_the_guard_sees_what_no_reader_may_do(tmp_path, monkeypatch, act, error, message):
    monkeypatch.setattr("tools.fuzz.guard.SECONDS", 0.3)
    made = Fuzzer(Reader(lambda folder: (folder / "x").write_text("x"), "x", "text", lambda folder: None), tmp_path)
    bad = Fuzzer.__new__(Fuzzer)
    bad.__dict__ = {**made.__dict__, "reader": Reader(made.reader.make, "x", "text", act)}
    with pytest.raises(error, match=message):
        bad.try_one(b"y")
    assert not (tmp_path / "made").exists()
    assert (tmp_path / "outside" / "secret").exists()
