"""Devices by torch's own names: those that a machine has are taken, with their number, and others are refused."""

from types import SimpleNamespace

import pytest
import torch

from winning_tickets import Runtime
from winning_tickets.models import device
from winning_tickets.models.device import choose_device
from winning_tickets.runs.errors import UsageError


@pytest.fixture
def machine(monkeypatch):
    """A machine with two accelerators of a kind."""
    current = []

    def make(kind):
        module = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2, set_device=current.append)
        monkeypatch.setattr(torch, kind, module)
        return current

    return make


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu", "mtia"])
def test_any_kind_of_device_is_taken_with_its_number(machine, kind):
    current = machine(kind)
    assert choose_device(Runtime.of(device=kind).device) == torch.device(kind)
    assert current == []
    assert choose_device(Runtime.of(device=f"{kind}:1").device) == torch.device(kind, 1)
    assert current == [torch.device(kind, 1)]
    with pytest.raises(UsageError, match=f"--device {kind}:2 was asked for, and this machine has 2 usable"):
        choose_device(f"{kind}:2")


def test_a_number_is_refused_for_one_of_several_processes(machine, monkeypatch):
    machine("cuda")
    monkeypatch.setattr(device, "world_size", lambda: 2)
    with pytest.raises(UsageError, match="each of several processes takes its own; give cuda"):
        choose_device("cuda:1")


@pytest.mark.parametrize("device", ["mps", "xpu", "meta", "hpu"])
def test_a_device_that_the_machine_lacks_is_refused(device):
    with pytest.raises(UsageError, match=f"this machine has 0 usable devices of the kind {device}; use --device cpu"):
        choose_device(Runtime.of(device=device).device)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "auto:1", "cdua"])
def test_what_is_no_device_is_refused_at_once(device):
    with pytest.raises(UsageError, match=f"--device {device} is not a device"):
        Runtime.of(device=device)


def test_the_cpu_needs_no_number():
    assert choose_device("cpu") == choose_device("cpu:0") == torch.device("cpu")
