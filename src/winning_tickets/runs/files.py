"""Writing files so that nothing is ever half-written: temporary file, fsync, rename."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from safetensors import SafetensorError

from winning_tickets.runs.errors import ContentError, TrainingError, UsageError, shown

MAX_DEPTH = 64
"""Of JSON that is read."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MAYBE_INFINITE = re.compile(r"[eE]\+?\d{3}|\d{200}")
"""In the text of each number from 1e299 on; fewer digits with an exponent of two are below that."""
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def write_atomic(path: Path, writer: Callable[[Path], None]) -> None:
    """Let `writer` fill a temporary file beside `path`, then move it into place in one step."""
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(temporary)
        to_disk(temporary)
        temporary.replace(path)
    except REFUSALS as error:
        raise refused(path, error) from error
    finally:
        with suppress(OSError):  # a folder that may not be written has nothing of ours either
            temporary.unlink(missing_ok=True)


REFUSALS = (OSError, SafetensorError)
"""What a file system that refuses raises; safetensors has an error of its own."""


_ADVICE = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space") | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), "make its folder writable"
)


def refused(path: Path, error: Exception) -> TrainingError:
    """The error for a file or folder that could not be written, such as on a full disk."""
    advice = _ADVICE.get(getattr(error, "errno", None) or 0, "mend that")
    return TrainingError(
        f"Could not write {path}: {getattr(error, 'strerror', None) or error}. Nothing was left half-written; "
        f"{advice} or choose another --out, then run the same command again."
    )


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether a file or folder is one of `write_atomic` or `build_directory` that a kill left behind."""
    return _TEMPORARY.fullmatch(path.name) is not None


def leftovers(folder: Path) -> Iterator[Path]:
    """The temporary files and folders anywhere in a folder."""
    return (path for path in sorted(folder.rglob(".*.tmp")) if is_temporary(path))


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders anywhere in a folder, as far as that is allowed."""
    for path in leftovers(folder):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Make sure that a file's content, or the names in a folder, outlive a loss of power.

    A rename may be kept without the content of what was renamed, and a deletion without the rename before it.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has nothing of the kind for folders
            raise
    finally:
        os.close(number)


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


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value that was read from JSON is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def parse_json(text: str, finite: bool = False) -> Any:
    """What JSON says."""
    try:
        value = json.loads(text, parse_constant=_refuse if finite else None)
        if finite and _MAYBE_INFINITE.search(text):
            json.loads(text, parse_float=_finite, parse_int=_finite)
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _check_depth(value)
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from error
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise ValueError(f"{digits[:20]} is beyond the range of floats")
    return value


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        values = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
        level = [inner for inner in values if isinstance(inner, dict | list)]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def inside(folder: Path, name: str) -> Path:
    """A file that a description in `folder` names; such names are relative and do not lead out of the folder."""
    parts = PurePosixPath(name).parts
    long = any(len(part.encode("utf-8", "replace")) > 255 for part in parts)  # no file system takes such names
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name or long:
        raise ContentError(
            f"A description in {folder} names the file {shown(name)}, and only files in its own folder may be named; "
            "it was edited. Copy the folder again, or make it anew."
        )
    return folder / name


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file."""
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"), finite=True)
    except FileNotFoundError as error:
        raise UsageError(f"There is no {what} at {path}.") from error
    except OSError as error:
        raise ContentError(f"The {what} {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise ContentError(f"The {what} {path} is not valid JSON ({error}); it was edited or cut off.") from error


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise ContentError(f"The {what} {path} holds {shown(content)}, expected an object; it was edited.")
    return content


def build_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a whole directory or nothing: `fill` writes into a staging folder, which is then moved to `path`."""
    path = Path(path)
    staging = _temporary(path)
    try:
        staging.mkdir(parents=True)
        allowed = staging.stat().st_mode & 0o666  # what the umask leaves
        fill(staging)
        for file in staging.rglob("*"):
            if file.is_file():
                _open_up(file, allowed)
                to_disk(file)
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        staging.replace(path)
    except REFUSALS as error:
        raise refused(path, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _open_up(file: Path, allowed: int) -> None:
    """Let others read a file as they may all others: safetensors writes weights for their owner alone."""
    mode = stat.S_IMODE(file.stat().st_mode)
    if allowed & ~mode:
        file.chmod(mode | allowed)
