"""Killed at any moment and started again, a command ends as if nothing had been, to the bit."""

from __future__ import annotations

import random
import shutil
import signal
from itertools import product

import pytest

from tools.faults.commands import APART, COMMANDS
from tools.faults.harness import hidden, stamps

SLOW = pytest.mark.slow
pytestmark = pytest.mark.timeout(1800)
RUNS = [name for name in COMMANDS if name != "study"]
TRAININGS = [*APART, "mask-training", "gates", "imp", "movement", "share"]
MOMENTS = 12
"""At most so many moments of a command are tried."""
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


def moments(events, count):
    """Some of all moments around all writes, evenly: number of the write, and when."""
    every = [(at, ("before", "half", "after")[(at + late) % 3]) for at, late in product(range(len(events)), range(2))]
    return every[1 :: max(1, len(every) // count)][:count]


def finish(lab, name, done):
    """Run a command to its end; nothing that was done before is done again."""
    ended = lab.run(name)
    assert ended.code == 0, ended.err
    assert done.items() <= stamps(lab.out).items()
    lab.check_same(name)


@pytest.mark.parametrize(
    ("name", "count"),
    [("magnitude", 4), ("mask-training", 2), ("transfer", 1)]
    + [pytest.param(name, MOMENTS, marks=SLOW) for name in RUNS],
)
def test_a_kill_around_any_write(lab, name, count):
    for at, when in moments(lab.whole(name).events, count):
        lab.clear()
        ended = lab.run(name, kind="kill", at=at, when=when)
        assert (ended.code, ended.out) == (-signal.SIGKILL, "")
        finish(lab, name, stamps(lab.out))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_every_state_that_a_kill_leaves(lab, name, tmp_path):
    """Not only some moments: whatever lies on the disk before and after each write leads to the same end."""
    lab.whole(name)
    for state in lab.states(name, tmp_path):
        shutil.rmtree(lab.out.parent)
        shutil.copytree(state, lab.out.parent, symlinks=True)
        finish(lab, name, stamps(lab.out))


def strike(lab, name, number, chance):
    """Send a signal at a random moment; what was done by then."""
    running = lab.start(name)
    ended = running.ended_within(chance.uniform(0, lab.whole_seconds(name)))
    if ended is None:
        running.signal(number)
        ended = running.end()
        assert ended.code in (CODES[number], 0), ended.err
        assert ended.code == 0 or ended.out == ""
    assert "Traceback" not in ended.err
    return stamps(lab.out)


@pytest.mark.parametrize(
    ("name", "signals"),
    [("mask-training", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])]
    + [pytest.param(name, [signal.SIGKILL] * 4, marks=SLOW) for name in RUNS]
    + [pytest.param(name, [signal.SIGTERM, signal.SIGINT] * 2, marks=SLOW) for name in RUNS],
)
def test_signals_at_random_moments(lab, name, signals):
    lab.whole(name)
    chance = random.Random(f"{name} {signals}")
    done = {}
    for number in signals:
        found = strike(lab, name, number, chance)
        assert done.items() <= found.items()
        done = found
    finish(lab, name, done)


@pytest.mark.slow
def test_the_driver_of_a_study_at_random_moments(lab):
    lab.whole("study")
    chance = random.Random(0)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        done = strike(lab, "study", number, chance)
    ended = lab.run("study")
    assert ended.code == 0, ended.err
    assert done.items() <= stamps(lab.out).items()
    lab.check_same("study", inside="runs/")
    assert hidden(lab.out / "runs") + hidden(lab.out / "about") == []
    assert lab.server.run(["runs", "--store", lab.out, "--verify"], lab.cache).code == 0
