"""Claims of runs in a store: one process works on a run at a time, and a dead one cannot keep it."""

import re
import subprocess
import sys
import threading

import pytest

from samples.claims import held_by_another
from winning_tickets.runs.locks import ClaimedError
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
    made = Store(tmp_path / "store")
    made.describe("run", "search", {})
    return made


def files(store):
    return sorted(path.name for path in (store.path / "claims").iterdir())


def test_a_process_keeps_its_claim_until_it_is_killed(store):
    with held_by_another(store.folder("run")) as pid:
        assert Store(store.path).status("run") == "running"
        with pytest.raises(ClaimedError, match=rf"^The run run is in use by process {pid} on "), store.claim("run"):
            pass
    assert files(store) == ["run.lock"]
    assert store.status("run") == "unfinished"
    with store.claim("run") as claim:
        assert claim.is_held()
    assert files(store) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_claims_end_with_exceptions(store, error):
    with pytest.raises(error), store.claim("run"):
        raise error
    assert files(store) == []


def test_claims_are_one_a_run(store):
    with store.claim("a"), store.claim("b"):
        assert [store.status(run_id) for run_id in "ab"] == ["running", "running"]


def test_of_twenty_racing_threads_one_wins(store):
    start, end, won, refused = threading.Barrier(20), threading.Event(), [], []

    def race():
        start.wait()
        try:
            with Store(store.path).claim("run"):
                won.append(threading.get_ident())
                end.wait()
        except ClaimedError as error:
            refused.append(error)
        if len(refused) == 19:
            end.set()

    threads = [threading.Thread(target=race) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 19)
    assert files(store) == []


@pytest.mark.slow
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
