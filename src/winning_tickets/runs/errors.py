"""The errors a user may meet: each says what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class TicketsError(Exception):
    """An error whose message is meant for the user; the command line prints it without a traceback.

    Attributes:
        of_all: where several processes do one run, all of them raise it alike and can go on together.
        told_by_any: each of several processes prints it, as the main one, which else does, may be gone.
    """

    exit_code = 1
    of_all = False
    told_by_any = False


class UsageError(TicketsError):
    """Refused before any work: arguments, names, or paths that do not exist (exit code 2)."""

    exit_code = 2


class ContentError(TicketsError):
    """A file, a ticket, a data set or weights are not what they should be (exit code 1)."""


class TrainingError(TicketsError):
    """Training failed while running: a loss that is not finite, a disk that is full (exit code 1)."""


class Interrupted(TicketsError):  # noqa: N818 - not an error of the run, but its orderly end
    """Ctrl-C or SIGTERM, raised after a checkpoint was written.

    Args:
        signal_number: the signal that asked for the stop; the exit code is 128 plus it (130 or 143).
        message: what was kept and how to go on.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class _Short(reprlib.Repr):
    """Values in messages: as Python writes them, long ones with `...` in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 80
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 8
        self.maxlevel = 3


def shown(value: Any) -> str:
    """A value that was found, for a message; short, however large the value is."""
    return _Short().repr(value)


def explain(error: Any) -> str:
    """The first problem that a `pydantic.ValidationError` holds, in words."""
    item = error.errors()[0]
    place = ".".join(str(part) for part in item["loc"])
    return f"{place + ': ' if place else ''}{item['msg']} (found {shown(item['input'])})."


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Text for a terminal: names and values from files must not steer it by control characters."""
    return text.translate(_CONTROLS)


def unknown(kind: str, found: str, known: Iterable[str], hint: str = "") -> UsageError:
    """The error for a name that is not in one of our tables, with the closest names that are."""
    names = sorted(known)
    text = f"Unknown {kind} {found!r}.{closest(found, names)} Known: {', '.join(names)}."
    return UsageError(f"{text} {hint}".rstrip())


def closest(found: str, names: Iterable[str], prefix: str = "") -> str:
    """Return a sentence with the closest known names, after a space; empty where none is close."""
    close = difflib.get_close_matches(found, list(names), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(prefix + name) for name in close)}?" if close else ""
