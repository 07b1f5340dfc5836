"""Reading text files of users: UTF-8 or a clear error."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from winning_tickets.runs.errors import ContentError, UsageError, shown
from winning_tickets.runs.files import parse_json


def read_utf8(path: Path) -> str:
    """The text of a file; a byte-order mark is dropped.

    Raises:
        UsageError: there is no such file, or it cannot be opened.
        ContentError: it is not UTF-8; the byte offset is named.
    """
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return _decoded(path, content, 0)


_BLOCK = 1 << 20  # bytes of whole lines that are held at a time


def read_lines(path: Path) -> Iterator[str]:
    """The lines that `split_lines` makes of `read_utf8`, without ever holding much more than the longest of them.

    Raises:
        UsageError: there is no such file, or it cannot be opened.
        ContentError: it is not UTF-8; the byte offset is named.
    """
    offset = 0
    try:
        with path.open("rb") as handle:
            while block := b"".join(handle.readlines(_BLOCK)):
                yield from split_lines(_decoded(path, block, offset))
                offset += len(block)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | ValueError) -> UsageError:
    """What to say of a file that cannot be opened; Python has ValueErrors for names that no file can have."""
    if isinstance(error, FileNotFoundError):
        return UsageError(f"There is no file {path}.")
    reason = error.strerror or error if isinstance(error, OSError) else "this cannot be the name of a file"
    return UsageError(f"Cannot read {shown(str(path)) if isinstance(error, ValueError) else path}: {reason}.")


def _decoded(path: Path, content: bytes, offset: int) -> str:
    """The text of a part of a file that begins at a byte offset; at the beginning a byte-order mark is dropped."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ContentError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at offset {offset + error.start}. "
            "Convert it, for example with: iconv -f latin1 -t utf-8."
        ) from error
    return text if offset else text.removeprefix("\ufeff")


def split_lines(text: str) -> list[str]:
    """Lines of a text, without their ends; only LF and CR LF end a line (a text may well hold other separators)."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


Row = tuple[int, dict[str, Any]]
"""Line number and cells by column."""


def read_rows(path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
        UsageError: it is missing or of another kind.
        ContentError: it is empty, not UTF-8, ragged, or not valid; file and line are named.
    """
    readers = {".csv": _csv, ".tsv": _tsv, ".jsonl": jsonl_rows}
    if path.suffix.lower() not in readers:
        raise UsageError(f"{path} is not one of {', '.join(readers)}.")
    rows = list(readers[path.suffix.lower()](path, read_utf8(path)))
    if not rows:
        raise ContentError(f"{path} is empty: it holds no example.")
    return rows


def _csv(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from _table(path, ((reader.line_num, cells) for cells in reader))
    except csv.Error as error:
        raise ContentError(f"{path}, line {reader.line_num}: not valid csv ({error}).") from error


def _tsv(path: Path, text: str) -> Iterator[Row]:
    return _table(path, ((number, line.split("\t")) for number, line in enumerate(split_lines(text), start=1)))


def _table(path: Path, lines: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    header: list[str] = []
    for number, cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if len(set(header)) < len(header):
                raise ContentError(f"{path}, line {number}: a column name comes twice in {', '.join(header)}.")
        elif len(cells) != len(header):
            raise ContentError(
                f"{path}, line {number}: found {len(cells)} columns, expected {len(header)} ({', '.join(header)})."
            )
        else:
            yield number, dict(zip(header, cells, strict=True))


def jsonl_rows(path: Path, text: str) -> Iterator[Row]:
    """The objects of a text, one a line; empty lines are skipped.

    Raises:
        ContentError: a line is not a JSON object.
    """
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ContentError(f"{path}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ContentError(f"{path}, line {number}: expected one object a line, found {type(row).__name__}.")
        yield number, row


def fingerprint(parts: Iterable[str]) -> str:
    """xxh3-128 of a sequence of strings, 32 hex digits.

    Each string is preceded by its length, so that moving text from one to the next changes the hash.
    """
    running = RunningFingerprint()
    for part in parts:
        running.add(part)
    return running.hexdigest()


class RunningFingerprint:
    """The fingerprint of the strings that were added so far."""

    def __init__(self) -> None:
        import xxhash

        self._state = xxhash.xxh3_128()

    def add(self, part: str) -> None:
        """One more string."""
        content = part.encode("utf-8", "surrogatepass")
        self._state.update(len(content).to_bytes(8, "little"))
        self._state.update(content)

    def hexdigest(self) -> str:
        """32 hex digits."""
        return str(self._state.hexdigest())
