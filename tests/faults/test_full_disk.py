"""A disk that is full at any write: one error that names the path, nothing half there, and the same command goes on."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager

import pytest

from faults.test_kills import MOMENTS, RUNS, SLOW, finish
from tools.faults.harness import stamps
from winning_tickets.runs.files import leftovers

pytestmark = pytest.mark.timeout(1800)
FULL = "No space left on device"
LIMIT = "File too large"
TORCH = "is the disk full?"
"""As torch's writer does not say why."""
KIB = 1024


def check_told(ended, why, place):
    """The command ended with one message of why and where; remarks on the trainings before it may precede it."""
    assert (ended.code, ended.out) == (1, ""), ended.err
    assert why in ended.err or TORCH in ended.err
    assert str(place) in ended.err
    told = [line for line in ended.err.splitlines() if not line.startswith("Warning: ")]
    assert told[0].startswith("Error: "), ended.err
    assert "Traceback" not in ended.err


def check_nothing_half(lab):
    """No temporary file is left; what there is can be opened."""
    assert list(leftovers(lab.out.parent)) == []
    for ticket in lab.out.rglob("ticket.json"):
        assert lab.server.run(["inspect", ticket.parent], lab.cache).code == 0


@pytest.mark.parametrize(
    ("name", "count"),
    [("magnitude", 2), ("mask-training", 1), ("transfer", 2)]
    + [pytest.param(name, MOMENTS, marks=SLOW) for name in RUNS],
)
def test_a_refusal_at_any_write(lab, name, count):
    events = lab.whole(name).events
    for at in range(0, len(events), -(-len(events) // count)):
        lab.clear()
        ended = lab.run(name, kind="refuse", at=at)
        check_told(ended, FULL, lab.folder)
        check_nothing_half(lab)
        finish(lab, name, {} if "seeds failed" in ended.err else stamps(lab.out))


@pytest.mark.parametrize(
    ("name", "limits"),
    [("fit-head", (60 * KIB,))]
    + [pytest.param(name, (4 * KIB, 60 * KIB, 100 * KIB, 150 * KIB, 200 * KIB), marks=SLOW) for name in RUNS],
)
def test_a_limit_on_the_size_of_files(lab, name, limits):
    """Every library writes its own way; here the kernel refuses, wherever a file grows too large."""
    lab.whole(name)
    for limit in limits:
        lab.clear()
        ended = lab.run(name, limit=limit)
        if ended.code != 0:
            check_told(ended, LIMIT, lab.out)
            check_nothing_half(lab)
        finish(lab, name, {} if "seeds failed" in ended.err else stamps(lab.out))


@contextmanager
def small_disk(place, size):
    """A file system of so many bytes."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True)
    if os.geteuid() != 0 or done.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def grow(place, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_small_disk(lab, name):
    """The disk grows from attempt to attempt until the command comes to its end."""
    lab.whole(name)
    with small_disk(lab.out.parent, 8 * KIB):
        done, refusals = {}, 0
        for size in (64 * KIB, 250 * KIB, 600 * KIB, 1500 * KIB, 64 * KIB**2):
            ended = lab.run(name)
            assert done.items() <= stamps(lab.out).items() or "seeds failed" in ended.err
            if ended.code == 0:
                break
            refusals += 1
            check_told(ended, "", lab.out)
            check_nothing_half(lab)
            done = {} if "seeds failed" in ended.err else stamps(lab.out)
            grow(lab.out.parent, size)
        assert refusals
        finish(lab, name, done)
        lab.clear()


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 8, 16, 40])
def test_a_store_on_a_full_disk(lab, size):
    """The driver tells of it, wherever it meets it; with more space the study goes on."""
    lab.whole("study")
    with small_disk(lab.out.parent, size * KIB):
        ended = lab.run("study")
        assert ended.code in (1, 2), ended.err
        assert ended.out == ""
        assert "Traceback" not in ended.err
        if ended.code == 1:
            assert str(lab.out) in ended.err
            assert FULL in ended.err or "runs failed" in ended.err
        else:  # refused before the first run, as the plan does not fit
            assert f"are free at {lab.out.parent}" in ended.err
        grow(lab.out.parent, 64 * KIB**2)
        ended = lab.start("study", more=["--retry-failed"]).end()
        assert ended.code == 0, ended.err
        lab.check_same("study", inside="runs/")
        lab.clear()


def test_a_token_cache_on_a_full_disk(lab, tmp_path):
    lab.whole("wanda")
    with small_disk(tmp_path, 4 * KIB):
        ended = lab.start("wanda", cache=tmp_path).end()
        check_told(ended, FULL, tmp_path)
        assert "set WINNING_TICKETS_CACHE to another folder" in ended.err
        assert list(leftovers(tmp_path)) == []
    finish(lab, "wanda", {})
