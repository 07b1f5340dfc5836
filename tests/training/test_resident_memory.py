"""Free memory is given back where it grows from step to step, and only there."""

import pytest

from winning_tickets.training import resident_memory
from winning_tickets.training.resident_memory import ResidentMemory


def trims(monkeypatch, pages):
    """The steps after which memory is trimmed, where `pages` are resident after each step."""
    looked, taken, found = iter(pages), [], []
    memory = ResidentMemory()

    def trim(pad):
        found.append((taken[-1], pad))

    monkeypatch.setattr(resident_memory, "_trimmer", lambda: trim)
    monkeypatch.setattr(resident_memory, "_resident_pages", lambda: next(looked))
    for step in range(1, len(pages) + 1):
        taken.append(step)
        memory.after_step()
    return found


def test_steps_of_equal_shapes_are_left_alone(monkeypatch):
    assert trims(monkeypatch, [100, *[124, 103] * 20]) == []


def test_memory_that_grew_is_given_back(monkeypatch):
    assert trims(monkeypatch, [100, 130, 140, 150, 160, 170, 80, 99, 90, 90, 90, 101, 101]) == [(6, 0), (12, 0)]


def test_systems_without_glibc_are_left_alone(monkeypatch):
    monkeypatch.setattr(resident_memory, "_trimmer", lambda: None)
    monkeypatch.setattr(resident_memory, "_resident_pages", lambda: pytest.fail("was read"))
    ResidentMemory().after_step()


def test_pages_and_trim_of_this_system():
    trim = resident_memory._trimmer()
    if trim is None:
        pytest.skip("this system has no malloc_trim")
    assert resident_memory._resident_pages() > 1000
    assert trim(0) in (0, 1)
