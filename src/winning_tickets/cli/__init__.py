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
from winning_tickets.runs.errors import TicketsError
from winning_tickets.runs.escapes import printable_lines

for _module in ("commands", "tickets", "analyse", "studies"):
    import_module(f"{__name__}.{_module}")

DOCS = "https://github.com/winning-tickets/winning-tickets/blob/main/docs/"
GUIDES = {
    "search": ("researchers", "explanation/objectives.md"),
    "evaluate": ("researchers", "explanation/objectives.md"),
    "fit-head": ("researchers", "how_to/fit_an_mlm_head.md"),
    "transfer": ("NLP engineers", "how_to/use_your_own_files.md"),
    "predict": ("NLP engineers", "how_to/from_csv_to_a_compact_classifier.md"),
    "share": ("researchers", "how_to/share_tickets.md"),
    "compare": ("researchers", "how_to/analyse_tickets.md"),
    "inspect": ("students", "tutorials/first_ticket.md"),
    "average": ("students", "explanation/numbers.md"),
    "combine": ("researchers", "how_to/controls.md"),
    "perturb": ("researchers", "how_to/controls.md"),
    "super": ("researchers", "how_to/find_a_super_ticket.md"),
    "shrink": ("NLP engineers", "how_to/make_a_model_faster.md"),
    "export": ("NLP engineers", "how_to/make_a_model_smaller.md"),
    "push": ("NLP engineers", "how_to/publish_on_the_hub.md"),
    "import-mask": ("researchers", "how_to/use_the_papers_masks.md"),
    "measure": ("NLP engineers", "how_to/measure_speed.md"),
    "runs": ("cluster users", "explanation/store.md"),
    "verify": ("cluster users", "explanation/store.md"),
    "recipes": ("cluster users", "reference/recipes.md"),
    "demo": ("students", "tutorials/first_ticket.md"),
    "analyse": ("researchers", "how_to/analyse_tickets.md"),
    "study": ("cluster users", "how_to/run_a_study.md"),
    "cache": ("NLP engineers", "how_to/use_your_own_files.md"),
}
"""The commands in the order of `--help`: for each, its readers and the page that guides them."""


def _guide(name: str) -> str:
    readers, page = GUIDES[name]
    return f"\b\nFor {readers}. Guide:\n{DOCS}{page}"


def _name_guides() -> None:
    """Sort the commands, and end the help of each command and group with its guide."""
    named = {one.name or one.callback.__name__: one for one in app.registered_commands}  # type: ignore[union-attr]
    for name, command in named.items():
        command.epilog = _guide(name)
    app.registered_commands = [named[name] for name in GUIDES if name in named]
    for group in app.registered_groups:
        group.epilog = _guide(str(group.name))
        for command in group.typer_instance.registered_commands:  # type: ignore[union-attr]
            command.epilog = group.epilog


_name_guides()
app.info.epilog = f"\b\nWhich command do I need?\n{DOCS}README.md"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSALS = _FULL | {errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the file system that are reported even without the name of a file."""


def _tell(message: str, by_any: bool = False) -> None:
    if by_any or is_main():
        typer.echo(printable_lines(message), err=True)


def main() -> NoReturn:
    """Run the command line; expected errors become one message and an exit code, without a traceback."""
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
        _tell(text if text.startswith("Usage: ") else f"Error: {text}")  # without a command, the text is the help
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
