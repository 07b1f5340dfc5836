"""Folders that may not be written, caches that vanish or are another version's, clocks that go backwards."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from faults.test_full_disk import check_told, small_disk
from faults.test_kills import finish
from tools.faults.harness import stamps

ANY = 64 * 1024**2


def read_only(place):
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


def entries(cache):
    return sorted((cache / "tokens").iterdir())


def test_a_folder_that_may_not_be_written(lab):
    lab.whole("magnitude")
    with small_disk(lab.out.parent, ANY):
        read_only(lab.out.parent)
        ended = lab.run("magnitude")
        check_told(ended, "Read-only file system", lab.out)
        subprocess.run(["mount", "-o", "remount,rw", str(lab.out.parent)], check=True)
        lab.run("magnitude", kind="kill", at=2)
        read_only(lab.out.parent)
        check_told(lab.run("magnitude"), "Read-only file system", lab.out)
        subprocess.run(["mount", "-o", "remount,rw", str(lab.out.parent)], check=True)
        finish(lab, "magnitude", {})
        whole = stamps(lab.out)
        read_only(lab.out.parent)
        finish(lab, "magnitude", whole)  # a finished run is only read


@pytest.mark.slow
def test_a_training_whose_folder_becomes_read_only(lab):
    lab.whole("transfer")
    with small_disk(lab.out.parent, ANY):
        lab.run("transfer", kind="kill", at=6)
        read_only(lab.out.parent)
        check_told(lab.run("transfer"), "Read-only file system", lab.out)
        subprocess.run(["mount", "-o", "remount,rw", str(lab.out.parent)], check=True)
        finish(lab, "transfer", {})
        lab.clear()


def test_a_cache_that_vanishes(lab, tmp_path):
    """Between two attempts, and in the middle of one: what is in use stays in use."""
    lab.whole("mask-training")
    cache = tmp_path / "cache"
    ended = lab.run("mask-training", cache=cache, kind="kill", at=8)
    assert ended.code == -9
    assert entries(cache)
    shutil.rmtree(cache)
    ended = lab.run("mask-training", cache=cache, kind="forget", at=4, path=str(cache))
    assert ended.code == 0, ended.err
    assert not cache.exists()
    lab.check_same("mask-training")


def test_a_cache_of_another_version_is_made_again(lab, tmp_path):
    lab.whole("wanda")
    cache = tmp_path / "cache"
    assert lab.run("wanda", cache=cache).code == 0
    (entry,) = entries(cache)
    before = (entry / "entry.json").read_bytes()
    (entry / "entry.json").write_text(json.dumps(json.loads(before) | {"format_version": 99}))
    lab.clear()
    assert lab.run("wanda", cache=cache).code == 0
    lab.check_same("wanda")
    assert entries(cache) == [entry]
    assert (entry / "entry.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask-training", "transfer"])
def test_a_clock_that_goes_backwards(lab, name):
    """By an hour at the start, and by one more at every write."""
    whole = lab.whole(name)
    ended = lab.run(name, clock=-3600.0, kind="kill", at=len(whole.events) // 2)
    assert ended.code == -9
    ended = lab.run(name, clock=-7200.0)
    assert (ended.code, "Traceback" in ended.err) == (0, False)
    lab.check_same(name)
    for log in lab.out.rglob("metrics.jsonl"):
        times = [json.loads(line).get("seconds", 0.0) for line in log.read_text().splitlines()]
        assert min(times) >= 0
