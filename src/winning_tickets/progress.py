"""Progress on stderr: a bar with the time left on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from winning_tickets.processes import is_main

Advance = Callable[[int, str], None]


@contextmanager
def progress(title: str, total: int, quiet: bool) -> Iterator[Advance]:
    """Show how far a loop has come.

    Args:
        title: what is being done.
        total: number of steps.
        quiet: show nothing.

    Yields:
        A function to call with the number of steps done and a short text, such as the loss.
    """
    if quiet or total <= 0 or not is_main():
        yield lambda done, text: None
    elif sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _lines(title, total)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(title, total=total, text="")
        yield lambda done, text: bar.update(task, completed=done, text=text)


def _lines(title: str, total: int) -> Advance:
    """About ten lines for the whole loop, each with an estimate of the time left."""
    start = time.monotonic()
    first: list[int] = []
    every = max(1, total // 10)

    def advance(done: int, text: str) -> None:
        if not first:
            first.append(done)
        if done and (done % every == 0 or done == total):
            pace = (time.monotonic() - start) / max(1, done - first[0])
            left = f", {pace * (total - done):.0f} s left" if done < total else ""
            print(f"{title}: {done}/{total}{' ' + text if text else ''}{left}", file=sys.stderr, flush=True)  # noqa: T201

    return advance
