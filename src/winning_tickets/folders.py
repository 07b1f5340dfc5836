"""What a name that the user gave is not: a folder that is not there, a run where a model or ticket is wanted."""

from __future__ import annotations

from pathlib import Path

from winning_tickets.errors import UsageError, closest
from winning_tickets.rundir import MARKER, RESULT, stored_run

_SHOWN = 8
_MODELS = ("model", "model/encoder", "seed-*/model", "seed-*/model/encoder")
"""Where runs keep their models."""


def missing(name: str) -> str | None:
    """What to say of `folder/name` where the folder is here and has no such one; None where it may be a hub id.

    That it may be as well where the folder has models, as a copy of what an organisation has on the hub.
    """
    parent, _, last = name.partition("/")
    could_be_an_id = bool(last) and "/" not in last and not name.startswith((".", "~", "/"))
    if not could_be_an_id or not Path(parent).is_dir() or Path(name).is_dir():
        return None
    folders = [path for path in Path(parent).iterdir() if path.is_dir() and not path.name.startswith(".")]
    if any((path / MARKER).is_file() and stored_run(path / MARKER) is None for path in folders):
        return None
    there = sorted(path.name for path in folders)
    meant = closest(last, there, f"{parent}/")
    listed = ", ".join(there[:_SHOWN]) + (", ..." if len(there) > _SHOWN else "")
    return f"There is no folder {name}; {parent}/ has {listed or 'no folders'}.{meant}"


def refuse_unfinished(path: Path) -> None:
    """Refuse the folder of a run that has no result yet.

    Raises:
        UsageError: it is one.
    """
    found = stored_run(path / MARKER)
    if found is not None and not (path / RESULT).exists():
        raise UsageError(
            f"{path} is a run of tickets {_command(found.verb)} that has not finished; run the same command again."
        )


def refuse_run(path: Path) -> None:
    """Refuse the folder of a run where a model is wanted, and name the models that it has.

    Raises:
        UsageError: it is one.
    """
    found = stored_run(path / MARKER)
    if found is None:
        return
    models = sorted(file.parent for place in _MODELS for file in path.glob(f"{place}/config.json"))
    if not models:
        refuse_unfinished(path)
    has = f"it has {', '.join(map(str, models[:_SHOWN]))}; give one of these" if models else "none was saved in it"
    raise UsageError(f"{path} is a run of tickets {_command(found.verb)}, not a model, and {has}.")


def _command(verb: str) -> str:
    """The command whose run it is; seeds have markers of their own."""
    return verb.removesuffix("-seed")
