"""Processes that share a store and are killed: each run is done once, and nothing is ever unreadable."""

import json
import random
import subprocess
import sys
import time

import pytest

from winning_tickets.deploy.verify import verify
from winning_tickets.runs.store.store import Store

WORKER = """
import sys
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.locks import ClaimedError
from winning_tickets.runs.store.store import Store
store = Store(sys.argv[1])
for number in range(int(sys.argv[2])):
    run_id = f"run-{number:02d}"
    if store.sealed(run_id):
        continue
    try:
        with store.claim(run_id):
            if store.status(run_id) != "done":
                store.describe(run_id, "test", {"number": number})
                run = RunDirectory.claim(store.folder(run_id), "test", run_id, {"number": number})
                for step in range(20):
                    run.log({"step": step})
                with open(sys.argv[3], "a") as log:
                    log.write(f"{run_id}\\n")
                run.finish({"square": number**2})
            store.seal(run_id)
    except ClaimedError:
        continue
"""


def start(store, count, log):
    words = [sys.executable, "-c", WORKER, str(store.path), str(count), str(log)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def check_all_done(store, count):
    records = list(Store(store.path).records())
    assert [(record.id, record.status) for record in records] == [(f"run-{i:02d}", "done") for i in range(count)]
    assert [record.result for record in records] == [{"square": i**2} for i in range(count)]
    result = verify([store.path])
    assert (result["ok"], result["unsealed"], result["running"]) == (True, [], [])
    assert result["files_hashed"] == 3 * count


def test_two_processes_do_each_run_once(tmp_path):
    store, log = Store(tmp_path / "store"), tmp_path / "log"
    workers = [start(store, 12, log) for _ in range(2)]
    assert [worker.communicate()[1] for worker in workers] == ["", ""]
    last = start(store, 12, log)  # both may have passed over a run that the other one held
    assert last.communicate()[1] == ""
    check_all_done(store, 12)
    assert sorted(log.read_text().split()) == [f"run-{i:02d}" for i in range(12)]


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_leave_a_readable_store_and_every_run_ends_done_once(tmp_path, kills):
    store, log, chance = Store(tmp_path / "store"), tmp_path / "log", random.Random(0)
    for _ in range(kills):
        worker = start(store, 20, log)
        while not (store.path / "claims").is_dir():
            time.sleep(0.01)
        time.sleep(0.1 + 0.3 * chance.random())
        worker.kill()
        worker.communicate()
        for record in Store(store.path).records():
            assert record.status in ("done", "unfinished")
            if record.status == "done":
                assert record.result == {"square": int(record.id[-2:]) ** 2}
        kinds = {finding["kind"] for finding in verify([store.path])["findings"]}
        assert kinds <= {"leftover"}
    assert start(store, 20, log).communicate()[1] == ""
    check_all_done(store, 20)
    done = log.read_text().split()
    assert set(done) == {f"run-{i:02d}" for i in range(20)}
    assert len(done) <= 20 + kills  # a kill between the line of the log and the result does one run again
    assert json.loads((store.path / "about" / "run-00" / "files.json").read_text())["algorithm"] == "xxh3-128"
