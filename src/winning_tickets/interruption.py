"""A signal that came when a training had nothing left to stop: the next training of the same command heeds it."""

from __future__ import annotations

import signal

from winning_tickets.errors import Interrupted

_late = 0


def keep(number: int) -> None:
    """Remember a signal that stopped nothing; 0 is none."""
    global _late
    _late = number or _late


def kept() -> int:
    """The signal that this process has to heed yet; 0 is none."""
    return _late


def forget() -> None:
    """A command begins: what came before it does not concern it."""
    global _late
    _late = 0


def stop_between(number: int) -> None:
    """Stop before a training where a signal came at the end of an earlier one.

    Args:
        number: of the signal, as all processes of a run agree; 0 is none.

    Raises:
        Interrupted: there was one.
    """
    if number:
        name = signal.Signals(number).name
        raise Interrupted(
            number, f"Stopped by {name} at the end of a training, which is stored. Run the same command again to go on."
        )
