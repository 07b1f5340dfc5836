"""Errors for users: each says what was found, what is allowed and what to do."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from winning_tickets.runs.escapes import printable


class TicketsError(Exception):
    """An error whose message is meant for the user; the command line prints it without a traceback.

    Each argument is a line of the message. Names in it may come from other people's files, so it is made `printable`.
    """

    exit_code = 1
    of_all = False  # every rank of a run raises the same error, so the ranks can continue together
    told_by_any = False  # print on every rank, because rank 0 may have died

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(printable, map(str, lines)))

    @property
    def lines(self) -> list[str]:
        """The lines of the message, such as one for each problem."""
        return list(self.args)

    def __str__(self) -> str:
        return "\n".join(self.args)


class TicketsWarning(UserWarning):
    """Advice on settings that can be changed; the command line prints it."""


class UsageError(TicketsError):
    """Wrong arguments, names or paths; nothing was done (exit code 2)."""

    exit_code = 2


class ContentError(TicketsError):
    """A damaged or unsuitable file, ticket, data set or checkpoint (exit code 1)."""


class TrainingError(TicketsError):
    """A failure while running, such as a loss that is not finite or a full disk (exit code 1)."""

    diverged = False  # losses or outputs were not finite, so that other settings may succeed


class Interrupted(TicketsError):  # noqa: N818 - an orderly end of the run
    """Ctrl-C or SIGTERM, raised after a checkpoint was written; the exit code is 128 plus the signal (130 or 143)."""

    def __init__(self, signal_number: int, *lines: str) -> None:
        super().__init__(*lines)
        self.exit_code = 128 + signal_number


def problems_of(*checks: Callable[[], object]) -> list[str]:
    """Return the lines of the errors that checks raise."""
    found: list[str] = []
    for check in checks:
        try:
            check()
        except UsageError as error:
            found += error.lines
    return found


def refuse(problems: Iterable[str]) -> None:
    """Raise one error with all problems, each listed once; without any do nothing."""
    if lines := dict.fromkeys(problems):
        raise UsageError(*lines)


_SHORT = reprlib.Repr()  # with `...` in the middle of long values
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = 8
_SHORT.maxlevel = 3


def shown(value: Any) -> str:
    """Return a value as short text for a message."""
    return _SHORT.repr(value)


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, separated by commas, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def explain(error: Any) -> str:
    """Return the first problem of a `pydantic.ValidationError` in words."""
    item = error.errors()[0]
    place = ".".join(str(part) for part in item["loc"])
    if not place and isinstance(item["input"], Mapping):  # a rule about several fields, which names them itself
        return f"{item['msg']}."
    return f"{place + ': ' if place else ''}{item['msg']} (found {shown(item['input'])})."


def foreign(out: object, ours: str) -> UsageError:
    """Return the error for a folder with files that are not `ours`."""
    hint = "it was left untouched. Give a directory that is absent or empty."
    return UsageError(f"--out {out} holds files that are not {ours}; {hint}")


DOCS = "https://github.com/winning-tickets/winning-tickets/blob/main/docs/"


def page(path: str) -> str:
    """Return the sentence that leads from a message to a page of docs/, such as `explanation/faults.md#a-full-disk`."""
    return f"See {DOCS}{path}"


PAGES = {
    "architecture": "how_to/add_an_architecture.md",
    "convention": "how_to/use_the_papers_masks.md#the-two-conventions",
    "corpus": "how_to/use_your_own_files.md#text",
    "format": "how_to/make_a_model_smaller.md",
    "method": "README.md#find",
    "objective": "explanation/objectives.md",
    "operation": "how_to/controls.md#change-and-combine-masks",
    "recipe": "reference/recipes.md",
    "scope": "reference/glossary.md",
    "status": "explanation/store.md#status-of-a-run",
    "task": "how_to/use_your_own_files.md#a-task",
    "verb": "reference/studies.md#stages",
}
"""Pages that describe the known names, by kind of name."""
_MANY = 20


def unknown(kind: str, found: str, known: Iterable[str], hint: str = "") -> UsageError:
    """Return the error for an unknown name, with the closest known names, all known names and an optional hint.

    A long list of all known names is left out if one of them is very close to the given name.
    """
    names = sorted(known)
    typo = len(names) > _MANY and difflib.get_close_matches(
        found.lower(), [name.lower() for name in names], n=1, cutoff=0.75
    )
    listed = "" if typo else f" Known: {', '.join(names)}."
    more = [hint] if hint else []
    more += [page(PAGES[kind])] if kind in PAGES else []
    return UsageError(" ".join([f"Unknown {kind} {found!r}.{closest(found, names)}{listed}", *more]))


def closest(found: str, names: Iterable[str], prefix: str = "") -> str:
    """Return the sentence " Did you mean ...?" with the closest names; empty if none is close."""
    lower = {name.lower(): name for name in names}
    close = [lower[one] for one in difflib.get_close_matches(found.lower(), lower, n=3, cutoff=0.5)]
    return f" Did you mean {' or '.join(repr(prefix + name) for name in close)}?" if close else ""
