"""Claims: one process works on a run, a dead one cannot keep it, and a slow one cannot push out its successor."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from winning_tickets.runs.errors import TrainingError, UsageError
from winning_tickets.runs.store import claims
from winning_tickets.runs.store import claims as processes
from winning_tickets.runs.store.claims import ClaimedError, Holder
from winning_tickets.runs.store.store import Store

CLAIMER = """
import sys
from winning_tickets.runs.store.claims import ClaimedError
from winning_tickets.runs.store.store import Store
store = Store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    with store.claim("run") as claim:
        print("mine", flush=True)
        sys.stdin.readline()
except ClaimedError as error:
    print(error, flush=True)
"""

needs_proc = pytest.mark.skipif(processes.namespace() is None, reason="processes can be looked up on Linux only")


class Process:
    """Another process that claims the run `run` when it is told to."""

    def __init__(self, path):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, "-c", CLAIMER, path], stdin=pipe, stdout=pipe, text=True)
        assert self.read() == "ready"

    def read(self):
        return self.process.stdout.readline().strip()

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def others(tmp_path):
    """Make other processes; they are gone at the end."""
    started = []

    def start():
        started.append(Process(str(tmp_path / "store")))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture
def store(tmp_path):
    """A store whose claims grow old fast."""
    return Store(tmp_path / "store", heartbeat_seconds=0.05, dead_after_seconds=0.2)


def foreign_claim(store, age=0.0, **changes):
    """A claim of a process on another machine, whose last sign of life is `age` seconds old."""
    store.describe("run", "search", {})
    holder = replace(Holder.me(), host="elsewhere", namespace="another boot", token="t", since="then", **changes)
    path = store.path / "claims" / "run" / "000001.json"
    path.parent.mkdir()
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def files(store):
    return sorted(path.name for path in (store.path / "claims" / "run").iterdir())


def try_claim(store):
    """The claim's exit is left to the caller."""
    holding = store.claim("run")
    return holding, holding.__enter__()


@needs_proc
def test_a_living_process_keeps_its_claim_and_a_killed_one_does_not(store, others):
    other = others()
    other.go()
    assert other.read() == "mine"
    time.sleep(0.3)  # older than dead_after_seconds: what counts on this machine is the process
    assert store.status("run") == "running"
    with pytest.raises(
        ClaimedError,
        match=rf"^The run run is claimed by process {other.process.pid} on .+ since \S+\+00:00\. Wait for it, or stop",
    ):
        try_claim(store)
    other.process.send_signal(signal.SIGKILL)
    while processes.started(other.process.pid) is not None:  # a zombie is dead, although nobody has waited for it
        time.sleep(0.01)
    assert store.status("run") == "absent"
    with store.claim("run") as claim:
        assert claim.still_mine()
        assert files(store) == ["000002.json"]
    assert files(store) == ["000002.released"]


@needs_proc
def test_a_number_that_another_process_uses_again_is_not_the_holder(store):
    path = foreign_claim(store)
    holder = replace(Holder.me(), started=processes.started(os.getpid()) - 1)
    path.write_text(json.dumps(asdict(holder)))
    assert store.status("run") == "unfinished"
    path.write_text(json.dumps(asdict(Holder.me())))
    assert store.status("run") == "running"


@needs_proc
def test_processes_are_told_apart():
    assert processes.started(os.getpid()) == processes.started(os.getpid()) > 0
    assert processes.started(2**22 + 1) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert processes.started(child.pid) >= processes.started(os.getpid())
    child.kill()
    child.communicate()
    assert processes.started(child.pid) is None


def test_a_claim_within_the_same_process_is_refused_too(store):
    with store.claim("run") as claim:
        assert isinstance(ClaimedError("x"), UsageError)
        with pytest.raises(ClaimedError, match=f"claimed by process {os.getpid()} on "):
            try_claim(Store(store.path))
        assert claim.still_mine()


def test_claims_end_with_exceptions(store):
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        holding, _ = try_claim(store)
        assert holding.__exit__(error, error(), None) is False
        assert store.status("run") == "absent"
    assert files(store) == ["000003.released"]


def test_claims_are_one_a_run(store):
    with store.claim("a"), store.claim("b"):
        assert [store.status(run_id) for run_id in "ab"] == ["running", "running"]


def test_a_claim_shows_signs_of_life(store):
    with store.claim("run") as claim:
        before = claim.path.stat().st_mtime_ns
        end = time.monotonic() + 5
        while claim.path.stat().st_mtime_ns == before:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_young_claim_of_another_machine_is_kept(store):
    foreign_claim(store)
    assert store.status("run") == "running"
    with pytest.raises(ClaimedError, match=f"by process {os.getpid()} on elsewhere since then"):
        try_claim(store)


def test_an_old_claim_of_another_machine_is_taken_over(store):
    foreign_claim(store, age=60)
    assert store.status("run") == "unfinished"
    with store.claim("run"):
        assert files(store) == ["000002.json"]


@pytest.mark.parametrize("age", [60, -3600])
def test_a_claim_that_shows_life_while_it_is_watched_is_kept(store, age):
    """Clocks jump forwards (the claim looks old) and backwards (it comes from the future)."""
    path = foreign_claim(store, age)
    stop = threading.Event()

    def live():
        stamp = time.time() - age
        while not stop.wait(0.01):
            stamp += 0.01
            os.utime(path, (stamp, stamp))

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ClaimedError, match="on elsewhere"):
            try_claim(store)
    finally:
        stop.set()
        thread.join()


def test_a_dead_claim_from_the_future_is_taken_over_after_watching_it(store):
    foreign_claim(store, age=-3600)
    assert store.status("run") == "running"  # one look cannot tell
    with store.claim("run") as claim:
        assert claim.still_mine()


@pytest.mark.parametrize("content", ["", '{"host"', "[]", '{"host": "x"}'])
def test_a_claim_that_was_cut_off_counts_while_it_is_young(store, content):
    path = foreign_claim(store)
    path.write_text(content)
    with pytest.raises(ClaimedError, match="is claimed by a process that has just begun"):
        try_claim(store)
    os.utime(path, (1, 1))
    with store.claim("run"):
        assert files(store) == ["000002.json"]


@pytest.mark.parametrize("dead", [False, True])
def test_of_twenty_racing_takers_one_wins(store, dead):
    if dead:
        foreign_claim(store, age=60)
    else:
        store.describe("run", "search", {})
    start, won, refused = threading.Barrier(20), [], []

    def race():
        mine = Store(store.path, heartbeat_seconds=0.02, dead_after_seconds=30)
        start.wait()
        try:
            won.append(try_claim(mine))
        except ClaimedError as error:
            refused.append(error)

    threads = [threading.Thread(target=race) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 19)
    holding, claim = won[0]
    assert claim.still_mine()
    assert files(store) == [claim.path.name]
    holding.__exit__(None, None, None)


@pytest.mark.slow
@needs_proc
def test_of_twenty_racing_processes_one_takes_over_from_a_killed_one(store, others):
    victim = others()
    victim.go()
    assert victim.read() == "mine"
    racers = [others() for _ in range(20)]
    victim.end()
    for racer in racers:
        racer.go()
    said = [racer.read() for racer in racers]
    winner = said.index("mine")
    assert said.count("mine") == 1
    named = {re.search(r"process (\d+)|just begun", line)[0] for line in said if line != "mine"}
    assert named <= {f"process {racers[winner].process.pid}", "just begun"}


def test_a_slow_taker_cannot_push_out_the_one_that_came_after_the_claim_it_judged(store, monkeypatch):
    """It saw the first claim dead, slept, and meanwhile others took, released and tidied up."""
    old = foreign_claim(store, age=60)
    with store.claim("run"):
        pass
    with store.claim("run") as successor:
        assert files(store) == ["000003.json"]
        seen = [old]
        look = claims.Claims.latest
        slow = Store(store.path)
        monkeypatch.setattr(slow._claims, "latest", lambda run: seen.pop() if seen else look(slow._claims, run))
        monkeypatch.setattr(slow._claims, "_watched", lambda path, age: False)
        with pytest.raises(ClaimedError, match=f"by process {os.getpid()}"):
            try_claim(slow)
        assert seen == []
        assert successor.still_mine()
        assert files(store) == ["000003.json"]


def test_a_lost_claim_is_noticed_and_left_to_its_new_holder(store):
    with store.claim("run") as claim:
        (claim.path.parent / "000002.json").write_text(json.dumps(asdict(Holder.me())))
        assert claim.lost.wait(5)
        assert not claim.still_mine()
    assert files(store) == ["000001.json", "000002.json"]


def test_a_claim_whose_file_was_deleted_is_lost(store):
    with store.claim("run") as claim:
        claim.path.unlink()
        assert not claim.still_mine()
    assert files(store) == []


def refusing(monkeypatch, times, number=errno.EMFILE):
    """The next reads of a claim fail, so many of them; says how many are left."""
    left, read = [None] * times, Holder.read

    def fail(path):
        if left:
            left.pop()
            raise OSError(number, os.strerror(number), str(path))
        return read(path)

    monkeypatch.setattr(Holder, "read", fail)
    return left


def test_a_claim_that_cannot_be_read_for_a_moment_is_not_lost(store, monkeypatch):
    with store.claim("run") as claim:
        left = refusing(monkeypatch, 3)
        end = time.monotonic() + 5
        while left and time.monotonic() < end:
            time.sleep(0.01)
        assert not left  # the heartbeats met them
        assert not claim.lost.is_set()
        refusing(monkeypatch, 2)
        assert claim.still_mine()
        claim._over.set()  # no heartbeat takes what the release is to meet
        claim._thread.join()
        refusing(monkeypatch, 2, errno.EIO)
    assert files(store) == ["000001.released"]


def test_a_claim_that_can_never_be_read_is_told(store, monkeypatch):
    with store.claim("run") as claim, monkeypatch.context() as patch:
        claim._over.set()
        claim._thread.join()
        refusing(patch, 100)
        with pytest.raises(TrainingError, match=r"000001\.json: Too many open files"):
            claim.still_mine()
        assert store.status("run") == "running"  # young; others still see it
    assert files(store) == ["000001.released"]


def test_a_rename_that_shows_both_names_for_a_moment_is_over(store):
    with store.claim("run") as claim:
        Path(claim.path.with_suffix(".released")).touch()
        assert store.status("run") == "absent"
