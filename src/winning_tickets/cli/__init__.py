"""The command `tickets`: one function per command, which parses, calls one library function and prints.

Results go to stdout, progress and messages to stderr; exit codes are those of `runs.errors`. Nothing heavy is imported
before a command runs.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import typer
from typer.exceptions import Abort, TyperException

from winning_tickets.cli.commands import app
from winning_tickets.runs.distributed import is_main
from winning_tickets.runs.errors import TicketsError, printable

for _module in ("commands", "tickets", "analyse", "studies"):
    import_module(f"{__name__}.{_module}")

ORDER = (  # the commands in the order of `--help`, before the groups analyse, study and cache
    *("search", "evaluate", "fit-head", "transfer", "predict", "share", "compare", "inspect", "average", "combine"),
    *("perturb", "super", "shrink", "export", "import-mask", "measure", "runs", "verify", "recipes", "demo"),
)
app.registered_commands.sort(key=lambda one: ORDER.index(one.name or one.callback.__name__))  # type: ignore[union-attr]


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSALS = _FULL | {errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the file system, with or without the name of a file."""


def _tell(message: str, by_any: bool = False) -> None:
    if by_any or is_main():
        typer.echo(printable(message), err=True)


def main() -> NoReturn:
    """Entry point: errors become one message and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if not is_main():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until this process ends
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        code = app(standalone_mode=False)
    except TicketsError as error:
        _tell(f"Error: {error}", by_any=error.told_by_any)
        code = error.exit_code
    except Abort:
        code = 130
    except TyperException as error:
        text = error.format_message()
        _tell(text if text.startswith("Usage: ") else f"Error: {text}")  # without a command it is the help
        code = error.exit_code
    except KeyboardInterrupt:
        _tell("Interrupted.")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.filename is None and error.errno not in _REFUSALS:
            raise
        what = error.filename or "The file system"
        advice = "Free some space, or choose another place" if error.errno in _FULL else "Give another path"
        _tell(f"Error: {what}: {error.strerror}. {advice}.")
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
