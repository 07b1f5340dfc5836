"""Where a number comes from: commit, cost, inputs."""

import mmap
import subprocess
from pathlib import Path

import pytest

from winning_tickets.runs import provenance
from winning_tickets.runs.provenance import Account, source


def git(folder, *words):
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    provenance._source.cache_clear()
    return tmp_path


def test_commit_and_changes(here):
    assert source() is None
    git(here, "init")
    (here / "a.txt").write_text("1")
    provenance._source.cache_clear()
    assert source() is None  # no commit yet
    git(here, "add", ".")
    git(here, "commit", "-m", "first")
    provenance._source.cache_clear()
    first = source()
    assert (len(first["commit"]), first["dirty"]) == (40, False)
    (here / "untracked.txt").write_text("1")
    provenance._source.cache_clear()
    assert source() == first
    (here / "a.txt").write_text("2")
    assert source() == first  # the code that this process loaded
    provenance._source.cache_clear()
    assert source() == first | {"dirty": True}


def test_no_git_is_no_failure(here, monkeypatch):
    monkeypatch.setenv("PATH", str(here))
    assert source() is None


def test_an_account_measures_from_its_start(here):
    block = bytearray(60_000_000)
    before = Account()
    high = before.provenance({})["peak_memory"]
    del block
    facts = Account(resumed=True).provenance({"model": "m", "task": None, "data_hash": "d", "seeds": [0]})
    assert 0 < facts["peak_memory"] <= high
    assert 0 <= facts["seconds"] < 60
    assert facts["resumed"] is True
    assert facts["inputs"] == {"model": "m", "data_hash": "d"}
    assert facts["device"] == "cpu"
    assert facts["gpu_peak_memory"] is None
    assert set(facts) >= {"versions", "machine", "source", "finished_at"}


def test_the_peak_of_an_earlier_run_is_forgotten(here):
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not let a process forget its peak")
    with mmap.mmap(-1, 200_000_000) as block:  # not from the heap, which may have that much that is free and resident
        block.write(b"x" * len(block))
        high = Account().provenance({})["peak_memory"]
    assert Account().provenance({})["peak_memory"] < high - 150_000_000


def test_what_was_not_measured_is_not_told(here):
    facts = Account(measured=False).provenance({})
    assert [facts[name] for name in ("seconds", "peak_memory", "gpu_peak_memory", "device")] == [None] * 4


def test_without_proc_the_peak_of_the_process_counts(here, monkeypatch):
    class Elsewhere(type(here)):
        def read_text(self, *args, **kwargs):
            raise OSError

    monkeypatch.setattr(provenance, "Path", Elsewhere)
    assert Account().provenance({})["peak_memory"] > 1_000_000
    monkeypatch.setattr(provenance, "resource", None)
    assert Account().provenance({})["peak_memory"] is None
