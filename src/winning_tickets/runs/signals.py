"""Ctrl-C and SIGTERM as exceptions that end the program, also where a library swallows every exception."""

from __future__ import annotations

import _thread
import signal
import threading
from contextlib import suppress
from types import FrameType

_leaving = False
_PAUSE_SECONDS = 0.05


def stop_on_signals() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` and SIGTERM raise `SystemExit` with exit code 143 in the main thread."""
    global _leaving
    _leaving = False
    signal.signal(signal.SIGINT, _raise)
    signal.signal(signal.SIGTERM, _raise)


def leave() -> None:
    """Say that the program ends now, so that no signal needs to be repeated."""
    global _leaving
    _leaving = True


def _raise(number: int, frame: FrameType | None) -> None:
    raise _Interrupted if number == signal.SIGINT else _Terminated(128 + number)


class _Interrupted(KeyboardInterrupt):
    def __del__(self) -> None:
        repeat(signal.SIGINT)


class _Terminated(SystemExit):
    def __del__(self) -> None:
        repeat(signal.SIGTERM)


def repeat(number: int) -> None:
    """Send a signal again if its exception was dropped, by a bare `except` of a package or in a callback of Python."""
    if not _leaving:
        # From a thread, because what is raised while an object is deleted is dropped too.
        again = threading.Timer(_PAUSE_SECONDS, _thread.interrupt_main, (number,))
        again.daemon = True
        with suppress(RuntimeError):  # no threads are started any more
            again.start()
