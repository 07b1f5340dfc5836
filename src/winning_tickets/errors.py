"""The errors a user may meet: each says what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TicketsError(Exception):
    """An error whose message is meant for the user; the command line prints it without a traceback."""

    exit_code = 1


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


def unknown(kind: str, found: str, known: Iterable[str], hint: str = "") -> UsageError:
    """The error for a name that is not in one of our tables, with the closest names that are.

    Args:
        kind: what is named, such as `"method"`.
        found: the name as the user gave it.
        known: the names that exist.
        hint: one more sentence, such as how to add an entry.
    """
    names = sorted(known)
    close = difflib.get_close_matches(found, names, n=3, cutoff=0.5)
    meant = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    text = f"Unknown {kind} {found!r}.{meant} Known: {', '.join(names)}."
    return UsageError(f"{text} {hint}".rstrip())
