"""The states of torch's random generators: taken, put back, and kept for each of several processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from winning_tickets import processes

FILE = "random_states.pth"
"""In a checkpoint of several processes: the states of each."""
_APART = 1_000_003  # between the seeds of two processes


def random_state() -> list[Tensor]:
    """States of torch's generators: the processor's, then one for each GPU."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def set_random_state(states: Sequence[Tensor]) -> None:
    """Go on with the random numbers that followed a state."""
    torch.set_rng_state(states[0])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states[1:])


def draw_apart() -> None:
    """Let each of several processes draw numbers of its own from here on, so that its rows have dropout of their own.

    The main process goes on with those of a single one.
    """
    if processes.rank() > 0:
        torch.manual_seed(torch.initial_seed() + _APART * processes.rank())


def save_states(folder: Path, states: Sequence[Sequence[Tensor]]) -> None:
    """Keep the states of several processes in a checkpoint; there is nothing to keep of a single one."""
    if len(states) > 1:
        torch.save([list(own) for own in states], folder / FILE)


def load_own_state(folder: Path) -> None:
    """Go on where this process was at a checkpoint; in another number of processes they draw apart from there."""
    if processes.rank() == 0:
        return  # its state stands where a single process has it
    path = folder / FILE
    states = torch.load(path, weights_only=True) if path.is_file() else []
    if processes.rank() < len(states):
        set_random_state(states[processes.rank()])
    else:
        draw_apart()
