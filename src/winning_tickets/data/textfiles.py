"""Reading text files of users: UTF-8 or a clear error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from winning_tickets.errors import ContentError, UsageError, shown


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
