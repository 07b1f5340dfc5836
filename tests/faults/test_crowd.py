"""Eight processes on one store, one token cache and one model that nobody has made yet; one folder for one command."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter

from tools.faults import crowd
from tools.faults.harness import contents
from winning_tickets.runs.files import leftovers
from winning_tickets.runs.store.store import Store


def test_eight_processes_do_every_run_once(lab, tmp_path):
    store, cache, log = tmp_path / "store", tmp_path / "cache", tmp_path / "log"
    workers = [lab.server.start([crowd.WORD, store, log, seed], cache) for seed in range(8)]
    ended = [worker.end() for worker in workers]
    assert [one.code for one in ended] == [0] * 8, [one.err for one in ended]
    runs = sorted(crowd.plan().runs)
    assert Counter(log.read_text().split()) == Counter(runs)
    assert [(record.id, record.status) for record in Store(store).records()] == [(run, "done") for run in runs]
    checked = lab.server.run(["runs", "--store", store, "--verify", "--json"], cache)
    assert checked.code == 0, checked.out
    found = json.loads(checked.out)
    assert (found["ok"], found["unsealed"], found["running"]) == (True, [], [])
    check_cache(lab, cache)
    check_same_as_alone(lab, store, cache, tmp_path)


def check_cache(lab, cache):
    """One entry, whole; nothing left of those that were made in vain."""
    assert list(leftovers(cache)) == []
    (entry,) = (cache / "tokens").iterdir()
    assert sorted(path.name for path in entry.iterdir()) == ["entry.json", "offsets.npy", "tokens.bin"]
    assert (entry / "tokens.bin").stat().st_size == 2 * json.loads((entry / "entry.json").read_text())["tokens"]


def check_same_as_alone(lab, store, cache, tmp_path):
    """Tickets are those of a process that does one run by itself."""
    run = next(iter(crowd.plan().runs))
    config = json.loads((store / "runs" / run / "config.json").read_text())["config"]
    words = ["search", config["model"], "--method", "wanda", "--corpus", config["corpus"], "--seed", config["seed"]]
    words += ["--sparsity", config["sparsity"], "--segments", "packed:16", "--batch-tokens", 64]
    words += ["--calibration-batches", 2, "--out", tmp_path / "alone", "--quiet"]
    assert lab.server.run(words, cache).code == 0
    assert contents(tmp_path / "alone") == contents(store / "runs" / run)


LONG = ("--round-steps", "100000")


def test_a_command_that_is_started_three_times_runs_once(lab):
    lab.clear()
    running = [lab.start("imp", more=LONG) for _ in range(3)]
    ended = []
    while len(ended) < 2:
        for one in list(running):
            if (end := one.ended_within(0.02)) is not None:
                running.remove(one)
                ended.append(end)
    (first,) = running
    said = f"Error: --out {lab.out} is in use by process {first.child} on "
    assert [(one.code, one.out, said in one.err) for one in ended] == [(2, "", True)] * 2, ended
    # Another command does not disturb it either.
    other = lab.run("magnitude", more=("--force",))
    assert (other.code, said in other.err) == (2, True)
    await_step(first, lab.out)
    # What a killed process leaves stops nobody, and Ctrl-C leaves nothing.
    first.signal(signal.SIGKILL)
    assert (lab.out / ".lock").exists()
    again = lab.start("imp", more=LONG)
    assert first.end().code == -signal.SIGKILL
    await_step(again, lab.out)
    again.signal(signal.SIGINT)
    assert again.end().code == 130
    assert not (lab.out / ".lock").exists()
    assert lab.run("magnitude", more=("--force",)).code == 0
    lab.check_tidy()
    lab.clear()


def await_step(command, out):
    """Wait until a command trains."""
    end, before = time.monotonic() + 60, set(out.rglob("checkpoint-*"))
    while not set(out.rglob("checkpoint-*")) - before:
        assert time.monotonic() < end
        assert command.ended_within(0.02) is None
