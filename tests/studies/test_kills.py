"""Workers and drivers of a study killed at random moments: every run ends done once, with the undisturbed numbers.

Each process that is started again imports torch, so even a few kills take too long for the default suite; there
`test_store_kills` kills workers that import nothing heavy.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from samples.study_samples import InlineEngine, little, planned
from winning_tickets.deploy.verify import verify
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.run import run_study

pytestmark = pytest.mark.usefixtures("one_thread")  # workers share the cores, so they have fewer threads
PATIENCE_SECONDS = 300.0
"""So long nothing may change in a store that somebody works on."""


def study(seeds):
    """Searches that train and that do not, fine-tunings of their tickets, evaluations, a comparison."""
    trained = {"corpus": "tiny:text", "segments": "packed:16", "batch_tokens": 64, "steps": 30}
    stages = little()["stages"]
    stages["search"]["over"] = {
        "method": {"magnitude": {"method": "magnitude"}, "mask-training": {"method": "mask-training"} | trained}
    }
    stages["transfer"]["over"]["seed"] = "${seeds}"
    smoke = {"model": "tiny:bert", "sparsities": [0.5, 0.7], "tasks": ["rte", "mrpc"], "steps": 30, "seeds": seeds}
    return little(scales={"smoke": smoke}, stages=stages)


@contextmanager
def driver_of(file, store):
    """The driver as a process of its own, with two workers; it does not outlive the `with` block."""
    words = ["study", "run", str(file), "--scale", "smoke", "--store", str(store.path), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "winning_tickets", *words, "--retry-failed", "--checkpoint-steps", "5", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def events(store):
    """What lies in a store, as a set that changes whenever somebody gets anywhere."""
    found = set()
    for folder, _, files in os.walk(store.path):  # folders may go at any moment; this passes over them
        for file in files:
            with suppress(FileNotFoundError):
                found.add((folder, file, (Path(folder) / file).stat().st_size))
    return found


def wait_for_events(store, count, driver):
    """Until a store has changed so often, or the driver has ended: moments that do not hang on the machine's speed."""
    seen, since = events(store), time.monotonic()
    while count and driver.poll() is None:
        assert time.monotonic() - since < PATIENCE_SECONDS, "nothing happens any more"
        time.sleep(0.01)
        if (now := events(store)) != seen:
            seen, since, count = now, time.monotonic(), count - 1


def workers_of(store):
    """Processes that hold a run now."""
    found = []
    for path in store.path.glob("claims/*.lock"):
        with suppress(OSError, ValueError):
            pid = int(path.read_text().partition("\n")[0])
            if Path(f"/proc/{pid}/cmdline").read_bytes():  # a zombie has none
                found.append(pid)
    return found


def disturb(file, store, chance, kills):
    """Run a study to its end, whatever dies.

    Args:
        file: its YAML.
        store: where to.
        chance: decides who is killed, and when.
        kills: at most so many.

    Returns:
        How many drivers and how many workers were killed.
    """
    drivers = workers = 0
    while True:
        with driver_of(file, store) as driver:
            while drivers + workers < kills:
                # As likely soon after a start, when claims are made, as far into a training.
                wait_for_events(store, int(2 ** (7.5 * chance.random())), driver)
                time.sleep(0.1 * chance.random())
                if driver.poll() is not None:
                    break
                busy = workers_of(store)
                if not busy or chance.random() < 0.4:
                    driver.kill()
                    drivers += 1
                    break
                os.kill(chance.choice(busy), signal.SIGKILL)
                workers += 1
            wait_for_events(store, math.inf, driver)
            out, err = driver.communicate()
        if driver.returncode == 0:
            assert json.loads(out)["failed"] == {}
            return drivers, workers
        # Killed; or a run has lost its worker three times, and is tried again.
        assert driver.returncode == -signal.SIGKILL or "Its worker died (SIGKILL)" in err, err


def check(plan, store, undisturbed):
    """Each run is done once, with the numbers of the undisturbed study, and nothing lies around."""
    assert store.ids() == sorted(plan.runs)
    for run in plan.runs:
        assert (store.status(run), store.sealed(run)) == ("done", True)
        assert numbers(store, run) == numbers(undisturbed, run), run
        assert tickets(store, run) == tickets(undisturbed, run), run
        assert not (store.path / "claims" / f"{run}.lock").exists()
    end = time.monotonic() + PATIENCE_SECONDS
    while workers_of(store):  # one whose driver was killed has just sealed its run
        assert time.monotonic() < end
        time.sleep(0.01)
    found = verify([store.path])
    assert (found["findings"], found["unsealed"], found["running"]) == ([], [], [])
    assert found["runs"] == len(plan.runs)
    rubbish = [*store.path.rglob("*.tmp"), *store.path.rglob(".scratch")]
    assert rubbish == []


def numbers(store, run):
    """What a run has found, without times, places and what hashes of places make."""
    return without(store.result(run), str(store.path))


def without(value, place):
    """A result with folders of the store made equal, and without what no two runs share."""
    if isinstance(value, dict):
        return {key: without(one, place) for key, one in value.items() if key not in OWN}
    if isinstance(value, list):
        return [without(one, place) for one in value]
    return value.replace(place, "STORE") if isinstance(value, str) else value


OWN = ("seconds", "train_seconds", "run_id", "parents", "config")


def tickets(store, run):
    """The bytes of all masks of a run."""
    folder = store.folder(run)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("ticket.safetensors")}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kills", [3, 50])
@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="elsewhere a dead process is noticed after a minute only"
)
def test_kills_of_workers_and_drivers_change_nothing(tmp_path, kills):
    chance = random.Random(kills)
    seeds = list(range(2 if kills < 10 else 6))
    plan, file = planned(study(seeds)), tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study(seeds), sort_keys=False))
    undisturbed = Store(tmp_path / "undisturbed")
    assert run_study(plan, undisturbed, InlineEngine())["failed"] == {}
    done, round_number = [0, 0], 0
    while sum(done) < kills:
        store = Store(tmp_path / f"store-{round_number}")
        round_number += 1
        for index, count in enumerate(disturb(file, store, chance, kills - sum(done))):
            done[index] += count
        check(plan, store, undisturbed)
    assert sum(done) == kills
    assert kills < 10 or min(done) > 0  # chance may take one kind only
