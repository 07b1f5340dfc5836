"""Files: written whole or not at all (temporary file, fsync, rename), and JSON read with limits."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from pydantic_core import from_json
from safetensors import SafetensorError

from winning_tickets.runs.errors import ContentError, TrainingError, UsageError, page, shown
from winning_tickets.runs.text import read_text

_WINDOWS = os.name == "nt"
MAX_DEPTH = 64  # maximum nesting of JSON that is read
_MAYBE_INFINITE = re.compile(r"[eE]\+?\d{3}|\d{200}")  # matches the text of each number from 1e299 on
_ATTEMPTS = 3  # to write a file
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")


def check_working_directory() -> None:
    """Refuse to work in a folder that was deleted, where imports of native libraries and relative paths fail."""
    try:
        Path.cwd()
    except OSError as error:
        raise UsageError(
            f"The working directory cannot be used ({error.strerror or error}): it was deleted, or may not be entered. "
            "Change to another folder, for example with: cd ~."
        ) from error


def write_atomic(path: Path, writer: Callable[[Path], object]) -> None:
    """Call `writer` with the path of a temporary file, then move that file to `path` in one step."""
    path = Path(path)
    for attempt in range(_ATTEMPTS):
        temporary = temporary_name(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer(temporary)
            to_disk(temporary)
            temporary.replace(path)
        except FileNotFoundError as error:
            # Another process may have taken the temporary file for one that a killed process left.
            if attempt == _ATTEMPTS - 1:
                raise refused(path, error) from error
        except REFUSALS as error:
            raise refused(path, error) from error
        else:
            return
        finally:
            with suppress(OSError):  # a read-only folder holds no temporary file of ours
                temporary.unlink(missing_ok=True)


REFUSALS = (OSError, SafetensorError)  # errors of failed file operations; safetensors raises its own class


_ADVICE = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space") | dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), "make its folder writable"
)


def refused(path: Path, error: Exception) -> TrainingError:
    """Return the error for a path that could not be written, such as on a full disk."""
    advice = _ADVICE.get(getattr(error, "errno", None) or 0, "fix that")
    return TrainingError(
        f"Could not write {path}: {getattr(error, 'strerror', None) or error}. Nothing was left half-written; "
        f"{advice} or choose another --out, then run the same command again. "
        + page("explanation/faults.md#a-full-disk")
    )


def temporary_name(path: Path) -> Path:
    """Return a new temporary path next to a file or folder that is to be written or removed."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def is_temporary(path: Path) -> bool:
    """Return whether a file or folder has a name made by `temporary_name`, so a killed process left it."""
    return _TEMPORARY.fullmatch(path.name) is not None


def leftovers(folder: Path) -> Iterator[Path]:
    """Return the temporary files and folders anywhere in a folder."""
    return (path for path in sorted(folder.rglob(".*.tmp")) if is_temporary(path))


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders anywhere in a folder, where permitted."""
    for path in leftovers(folder):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk, as a power failure may keep a rename but lose the content."""
    if _WINDOWS and path.is_dir():
        return  # Windows cannot open folders, and writes their names by itself
    number = os.open(path, os.O_RDWR if _WINDOWS else os.O_RDONLY)  # Windows syncs only files opened for writing
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync folders
            raise
    finally:
        os.close(number)


def save_tensors(value: Any, path: Path) -> None:
    """Write a value with `torch.save`; raises OSError where the disk is full."""
    import torch

    try:
        torch.save(value, path)
    except RuntimeError as error:
        # The zip writer of torch turns errors of the file system into these two and drops the reason.
        silent = any(word in str(error) for word in ("inline_container", "iostream"))
        raise OSError(f"is the disk full? {error}" if silent else str(error)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Append one line to a log such as `metrics.jsonl`; readers skip an incomplete last line."""
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
    except OSError as error:
        raise TrainingError(
            f"Could not write {path}: {error.strerror or error}. Free some space and run the same command again: it "
            "resumes from the last checkpoint."
        ) from error


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a JSON value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def parse_json(text: str, *, finite: bool = False) -> Any:
    """Return the value of a JSON text; `finite` refuses NaN, infinity and numbers beyond the range of floats.

    Only ValueError is raised, also for text that is not JSON or is nested more than `MAX_DEPTH` levels deep.
    """
    try:
        value = from_json(text, allow_inf_nan=not finite)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise ValueError(f"nested more than {MAX_DEPTH} deep") from error
        raise
    # Only few texts can break a limit; the others need no walk through their values.
    if text.count("[") + text.count("{") > MAX_DEPTH or (finite and _MAYBE_INFINITE.search(text)):
        _check_limits(value, finite=finite)
    return value


def _check_limits(value: Any, *, finite: bool) -> None:
    level = [value]
    for depth in range(MAX_DEPTH + 1):
        if finite and any(is_number(one) and abs(one) > sys.float_info.max for one in level):
            raise ValueError("a number is beyond the range of floats")
        nested = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        if nested and depth == MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        level = [inner for one in nested for inner in one]


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that a description in `folder` names; names that lead out of the folder are refused."""
    parts = PurePosixPath(name).parts
    long = any(len(part.encode("utf-8", "replace")) > 255 for part in parts)  # longer than any file system allows
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name or long:
        raise ContentError(
            f"A description in {folder} names the file {shown(name)}, and only files in its own folder may be named; "
            "it was edited. Copy the folder again, or create it again."
        )
    return folder / name


def sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file; `what` names the file in error messages."""
    try:
        return parse_json(read_text(Path(path)), finite=True)
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
    """Create a directory whole or not at all: `fill` writes into a staging folder, which is then moved to `path`."""
    path = Path(path)
    staging = temporary_name(path)
    try:
        staging.mkdir(parents=True)
        allowed = staging.stat().st_mode & 0o666  # after the umask
        fill(staging)
        for file in staging.rglob("*"):
            if file.is_file():
                # safetensors writes weights readable for their owner alone.
                file.chmod(stat.S_IMODE(file.stat().st_mode) | allowed)
                to_disk(file)
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        staging.replace(path)
    except REFUSALS as error:
        raise refused(path, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
