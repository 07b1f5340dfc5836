"""One seed on one machine gives the same bits twice: whatever else draws random numbers or changes PyTorch's state."""

import json
import os
import random
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from samples.ambient_states import everything, seen
from samples.commands import CASES, make_world, words_of
from winning_tickets.cli import app
from winning_tickets.config import METHODS


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def run(words):
    """In this process; the global generators are wherever the last run, or somebody else, left them."""
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return untimed(done.stdout)


def untimed(text):
    """JSON without what a clock says."""

    def without(pairs):
        return {key: value for key, value in pairs if not key.endswith("seconds")}

    return json.loads(text, object_pairs_hook=without)


def bits(folder):
    """Every file below: JSON without times, all others byte for byte."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = untimed(content)
        elif path.suffix == ".jsonl":
            content = [untimed(line) for line in content.splitlines()]
        found[str(path.relative_to(folder))] = content
    return found


def disturb(number):
    """Somebody else uses the global generators."""
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def differing(first, second):
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def test_every_method_is_run_twice():
    assert {case.partition(" ")[0] for case in CASES} == {*METHODS, "fit-head", "transfer", "share", "super"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case == "super" else []) for case in CASES]
)
def test_twice_the_same_bits(tmp_path, monkeypatch, world, case):
    """In the same place, since some files name it; the second time with a cache of its own, in every ambient state."""
    out, found = tmp_path / "out", []
    for number, around in ((1, nullcontext), (2, everything)):
        monkeypatch.setenv("WINNING_TICKETS_CACHE", str(tmp_path / f"cache-{number}"))
        with around():
            disturb(number)
            before = seen()
            printed = run(words_of(case, world, out))
            assert seen() == before
        found.append((printed, bits(out)))
        out.rename(tmp_path / f"out-{number}")
    assert found[0][1]
    assert differing(found[0][1], found[1][1]) == []
    assert found[0] == found[1]


@pytest.mark.parametrize("case", ["random", "mask-training", "transfer"])
def test_another_seed_gives_other_bits(tmp_path, world, case):
    """Or the comparison above would prove nothing."""
    found = []
    for seed in (5, 6):
        words = words_of(case, world, tmp_path / f"{seed}")
        if case == "transfer":
            words[words.index("0,1")] = str(seed)
        else:
            words += ["--seed", str(seed)]
        run(words)
        found.append([p.read_bytes() for p in sorted((tmp_path / f"{seed}").rglob("*.safetensors"))])
    assert len(found[0]) == len(found[1]) >= 1
    assert all(a != b for a, b in zip(*found, strict=True))


ELSEWHERE = (
    {"PYTHONHASHSEED": "1", "TOKENIZERS_PARALLELISM": "false"},
    {"PYTHONHASHSEED": "2", "TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "4"},
)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_same_in_other_processes_with_other_hashes_and_tokenizer_workers(tmp_path, world, case):
    """Also the corpus that the tokenizer wrote into the cache, whose threads come and go in any order."""
    found = []
    for number, settings in enumerate(ELSEWHERE):
        out, cache, place = tmp_path / "out", tmp_path / f"cache-{number}", tmp_path / f"place-{number}"
        place.mkdir()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "WINNING_TICKETS_CACHE": str(cache)} | settings
        words = [sys.executable, "-m", "winning_tickets", *words_of(case, world, out)]
        done = subprocess.run(words, env=environment, cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        tokens = {path.name: path.read_bytes() for path in cache.rglob("*") if path.suffix in (".bin", ".npy")}
        found.append((untimed(done.stdout), bits(out), tokens))
        out.rename(tmp_path / f"out-{number}")
    assert differing(found[0][1], found[1][1]) == []
    assert found[0] == found[1]
    assert bool(found[0][2]) == ("{text}" in CASES[case])
