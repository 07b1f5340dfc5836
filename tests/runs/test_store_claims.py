"""Claims: one process works on a run, a dead one cannot keep it, and a slow one cannot push out its successor."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease

from samples.claims import wait_shortly
from winning_tickets.runs.errors import TrainingError, UsageError
from winning_tickets.runs.locks import ClaimedError
from winning_tickets.runs.store.claims import Claims
from winning_tickets.runs.store.store import Store

CLAIMER = """
import sys
from winning_tickets.runs.locks import ClaimedError
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

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up on Linux only")


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


def marker(store):
    return store.path / "claims" / "run" / "lease"


def foreign_claim(store, age=0.0, host="elsewhere", pid=1, start=None):
    """A claim of another process, whose last sign of life is `age` seconds old."""
    store.describe("run", "search", {})
    path = marker(store)
    path.parent.mkdir(exist_ok=True)
    text = f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken=t\nduration=0.2\n"
    path.write_text(text + ("" if start is None else f"start={start}\n"))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def own_record(tmp_path):
    """This process as filelock records it."""
    with SoftFileLease(tmp_path / "probe") as lease:
        return lease.owner


def files(store):
    return sorted(path.name for path in marker(store).parent.iterdir())


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
    said = rf"^The run run is claimed by process {other.process.pid} on {re.escape(socket.gethostname())} since "
    with pytest.raises(ClaimedError, match=said):
        try_claim(store)
    other.process.send_signal(signal.SIGKILL)
    other.process.wait()
    assert store.status("run") == "absent"
    with store.claim("run") as claim:
        assert claim.is_held()
        assert files(store) == ["lease"]
    assert files(store) == []


@needs_proc
def test_a_number_that_another_process_uses_again_is_not_the_holder(store, tmp_path):
    me = own_record(tmp_path)
    foreign_claim(store, host=me.hostname, pid=me.pid, start=me.start - 1)
    assert store.status("run") == "unfinished"
    foreign_claim(store, host=me.hostname, pid=me.pid, start=me.start)
    assert store.status("run") == "running"


def test_a_claim_within_the_same_process_is_refused_too(store):
    with store.claim("run") as claim:
        assert isinstance(ClaimedError("x"), UsageError)
        with pytest.raises(ClaimedError, match=f"claimed by process {os.getpid()} on "):
            try_claim(Store(store.path))
        assert claim.is_held()


def test_claims_end_with_exceptions(store):
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        holding, _ = try_claim(store)
        assert holding.__exit__(error, error(), None) is False
        assert store.status("run") == "absent"
    assert files(store) == []


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
    store = Store(store.path, heartbeat_seconds=0.05, dead_after_seconds=30)
    foreign_claim(store)
    assert store.status("run") == "running"
    with pytest.raises(ClaimedError, match="by process 1 on elsewhere"):
        try_claim(store)


def test_an_old_claim_of_another_machine_is_taken_over(store):
    foreign_claim(store, age=60)
    assert store.status("run") == "unfinished"
    with store.claim("run") as claim:
        assert claim.is_held()


@needs_proc
def test_a_living_process_without_signs_of_life_loses_its_claim(store, tmp_path):
    """It was stopped, or filelock left a marker that nobody holds."""
    me = own_record(tmp_path)
    foreign_claim(store, age=60, host=me.hostname, pid=me.pid, start=me.start)
    assert store.status("run") == "running"
    with store.claim("run") as claim:
        assert claim.is_held()


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
        assert claim.is_held()


@pytest.mark.parametrize("content", ["", "filelock/2\npid=", "[]", "filelock/2\npid=1\nhost=h\nmode=lease\n"])
def test_a_claim_that_was_cut_off_counts_while_it_is_young(store, content, monkeypatch):
    wait_shortly(monkeypatch)
    store = Store(store.path, heartbeat_seconds=0.05, dead_after_seconds=30)
    path = foreign_claim(store)
    path.write_text(content)
    with pytest.raises(ClaimedError, match="is claimed by a process that has just begun"):
        try_claim(store)
    os.utime(path, (1, 1))
    with store.claim("run") as claim:
        assert claim.is_held()


@needs_proc
@pytest.mark.parametrize("dead", [False, True])
def test_of_twenty_racing_takers_one_wins(store, dead, tmp_path):
    if dead:
        me = own_record(tmp_path)
        foreign_claim(store, age=60, host=me.hostname, pid=me.pid, start=me.start - 1)
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
    assert claim.is_held()
    assert files(store) == ["lease"]
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
    """It saw the first claim dead, slept, and meanwhile another process took over."""
    foreign_claim(store, age=60)
    slow, acquire = Store(store.path, heartbeat_seconds=0.05, dead_after_seconds=0.2), SoftFileLease.acquire
    taken = []

    def late(lease, *args, **kwargs):
        if not taken:
            taken.append(None)
            taken.append(try_claim(store))
        return acquire(lease, *args, **kwargs)

    monkeypatch.setattr(SoftFileLease, "acquire", late)
    with pytest.raises(ClaimedError, match=f"by process {os.getpid()}"):
        try_claim(slow)
    holding, successor = taken[1]
    assert successor.is_held()
    holding.__exit__(None, None, None)


def test_a_lost_claim_is_noticed_and_left_to_its_new_holder(store):
    with store.claim("run") as claim:
        claim.path.unlink()
        foreign_claim(store)
        assert not claim.is_held()
        before = claim.path.read_text()
    assert marker(store).read_text() == before


def test_a_claim_whose_file_was_deleted_is_lost(store):
    with store.claim("run") as claim:
        claim.path.unlink()
        assert not claim.is_held()
    assert files(store) == []


def refusing(monkeypatch, times, number=errno.EMFILE):
    """The next reads of a claim fail, so many of them; says how many are left."""
    left, read = [None] * times, Path.read_text

    def fail(path, *args, **kwargs):
        if path.name == "lease" and left:
            left.pop()
            raise OSError(number, os.strerror(number), str(path))
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", fail)
    return left


def test_a_claim_that_cannot_be_read_for_a_moment_is_not_lost(store, monkeypatch):
    with store.claim("run") as claim:
        left = refusing(monkeypatch, 2)
        assert claim.is_held()
        assert not left
    assert files(store) == []


def test_a_claim_that_can_never_be_read_is_told(store, monkeypatch):
    with store.claim("run") as claim, monkeypatch.context() as patch:
        refusing(patch, 100)
        with pytest.raises(TrainingError, match=r"lease: Too many open files"):
            claim.is_held()
        assert store.status("run") == "running"  # others still see it
    assert files(store) == []


def test_a_folder_that_may_not_be_written_is_told(tmp_path):
    (tmp_path / "claims").write_text("")
    with pytest.raises(TrainingError, match="Could not write"):
        Claims(tmp_path / "claims", 1, 3).take("run")
