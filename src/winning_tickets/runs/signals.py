"""Ctrl-C and SIGTERM as exceptions that end the program, also where a library drops every exception."""

from __future__ import annotations

import _thread
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

_PAUSE_SECONDS = 0.05
_program: object | None = object()  # None once it ends, so that nothing is sent any more


def stop_on_signals() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` and SIGTERM raise `SystemExit` with exit code 143 in the main thread."""
    global _program
    _program = object()
    signal.signal(signal.SIGINT, _raise)
    signal.signal(signal.SIGTERM, _raise)


def leave() -> None:
    """Say that the program ends now, so that no signal needs to be sent again."""
    global _program
    _program = None


class Repeated:
    """An exception of a signal, which is sent again if the exception is dropped before the program ends.

    Some packages have a bare `except` around their imports, and Python drops what a callback raises.
    """

    number: signal.Signals

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._program = _program

    def __del__(self) -> None:
        if self._program is not None and self._program is _program:
            # From a thread, because what is raised while an object is deleted is dropped too.
            again = threading.Timer(_PAUSE_SECONDS, _send, (self.number, self._program))
            again.daemon = True
            with suppress(RuntimeError):  # no threads are started any more
                again.start()


def _send(number: signal.Signals, program: object) -> None:
    if program is _program:
        _thread.interrupt_main(number)


class _Interrupted(Repeated, KeyboardInterrupt):
    number = signal.SIGINT


class _Terminated(Repeated, SystemExit):
    number = signal.SIGTERM


def _raise(number: int, frame: FrameType | None) -> None:
    raise _Interrupted if number == signal.SIGINT else _Terminated(128 + number)
