"""Writing files so that nothing is ever half-written: temporary file, fsync, rename."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from winning_tickets.errors import ContentError, TrainingError, UsageError


def write_atomic(path: Path, writer: Callable[[Path], None]) -> None:
    """Let `writer` fill a temporary file beside `path`, then move it into place in one step.

    Args:
        path: the file to make or replace; its folder is made where it is missing.
        writer: writes the whole content to the path that it is given.

    Raises:
        TrainingError: the file system refused (disk full, no permission); `path` is as it was before.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _refused(path: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"Could not write {path}: {error.strerror or error}. Nothing was left half-written; "
        "free some space or choose another --out, then run the same command again."
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""

    def writer(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomic(path, writer)


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON; NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Append one line to a log such as `metrics.jsonl`; readers skip a last line without an end."""
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
    except OSError as error:
        raise TrainingError(
            f"Could not write {path}: {error.strerror or error}. Free some space and run the same command again: it "
            "goes on from the last checkpoint."
        ) from error


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        what: its name in messages, such as `"ticket description"`.

    Raises:
        UsageError: there is no such file.
        ContentError: it is not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"There is no {what} at {path}.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ContentError(f"The {what} {path} is not valid JSON ({error}); it was edited or cut off.") from error


def build_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a whole directory or nothing: `fill` writes into a staging folder, which is then moved to `path`.

    Args:
        path: the directory to make; it must be absent or empty.
        fill: writes everything into the folder that it is given.

    Raises:
        TrainingError: the file system refused; nothing is left at `path`.
    """
    path = Path(path)
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        staging.mkdir(parents=True)
        fill(staging)
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        staging.replace(path)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
