"""Messages: the library logs them and warns, and its command line shows both on stderr."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from winning_tickets.runs.distributed import is_main
from winning_tickets.runs.errors import TicketsWarning
from winning_tickets.runs.escapes import printable

_package = logging.getLogger("winning_tickets")


class _Lines(logging.Handler):
    """Prints each record as one line on stderr, once for all processes of a launch."""

    def emit(self, record: logging.LogRecord) -> None:
        if is_main():
            kind = "Warning: " if record.levelno == logging.WARNING else ""
            sys.stderr.write(f"{kind}{printable(record.getMessage())}\n")
            sys.stderr.flush()


@contextmanager
def shown() -> Iterator[None]:
    """Show the messages and warnings of the library on stderr inside the block."""
    handler, before = _Lines(), (_package.level, _package.propagate)
    _package.addHandler(handler)
    _package.setLevel(logging.INFO)
    _package.propagate = False
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *about: Any, **more: Any) -> None:
            if issubclass(category, TicketsWarning):
                _package.warning("%s", message)
            else:
                usual(message, category, *about, **more)

        warnings.simplefilter("always", TicketsWarning)
        warnings.showwarning = show
        try:
            yield
        finally:
            _package.removeHandler(handler)
            _package.level, _package.propagate = before


def hush() -> None:
    """Show nothing more until the end of the block of `shown`, as `--quiet` asks."""
    for handler in _package.handlers:
        if isinstance(handler, _Lines):
            handler.setLevel(logging.CRITICAL)
