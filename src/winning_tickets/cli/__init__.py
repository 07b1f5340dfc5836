"""The command `tickets`: one function per command, which parses, calls one library function and prints.

Results go to stdout, progress and messages to stderr; exit codes are those of `runs.errors`. Nothing heavy is imported
before a command runs.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from winning_tickets.runs import signals
from winning_tickets.runs.errors import page

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSALS = _FULL | {errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the file system that are reported even without the name of a file."""
_NO_MEMORY = re.compile("can't allocate memory|out of memory", re.IGNORECASE)
"""What torch says where an allocation fails."""


def __getattr__(name: str) -> Any:
    """Resolve `app` on first use, because its commands take half a second to import."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from winning_tickets.cli.application import app

    return app


def main() -> NoReturn:
    """Run the command line; expected errors become one message and an exit code, without a traceback."""
    try:
        signals.stop_on_signals()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        code = _run()
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
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and _NO_MEMORY.search(str(error)) is None:
            raise
        reason = str(error).partition("\n")[0].rstrip(".") or "an allocation failed"
        advice = f"Use smaller batches, shorter texts or a smaller model. {page('explanation/gpu.md#memory')}"
        _tell(f"Error: There is not enough memory ({reason}). {advice}")
        code = 1
    finally:
        signals.leave()
    sys.exit(code if isinstance(code, int) else 0)


def _run() -> Any:
    """Run a command and return its exit code, if it has one."""
    # Imported here, so that Ctrl-C is heard while the commands are imported too.
    from pydantic import ValidationError
    from typer.exceptions import Abort, TyperException

    from winning_tickets import cli
    from winning_tickets.runs import errors
    from winning_tickets.runs.distributed import is_main
    from winning_tickets.runs.messages import shown

    if not is_main():
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until this process ends
    try:
        with shown():
            return cli.app(standalone_mode=False)
    except errors.TicketsError as error:
        _tell(f"Error: {error}", by_any=error.told_by_any)
        return error.exit_code
    except Abort:
        return 130
    except TyperException as error:
        text = error.format_message()
        if text.startswith("No such option") and (context := getattr(error, "ctx", None)) is not None:
            from winning_tickets.cli.unknown_options import advice

            name = str(getattr(error, "option_name", ""))
            text = f"No such option: {name}. {better}" if (better := advice(name, context)) else text
        problem = error.__cause__.errors()[0] if isinstance(error.__cause__, ValidationError) else {"type": ""}
        if problem["type"] not in ("", "value_error"):  # whose messages do not have the value
            text += f" (found {errors.shown(problem['input'])})."
        _tell(text if text.startswith("Usage: ") else f"Error: {text}")  # without a command, the text is the help
        return error.exit_code


def _tell(message: str, *, by_any: bool = False) -> None:
    from winning_tickets.runs.distributed import is_main
    from winning_tickets.runs.escapes import printable_lines

    if by_any or is_main():
        sys.stderr.write(f"{printable_lines(message)}\n")
        sys.stderr.flush()
