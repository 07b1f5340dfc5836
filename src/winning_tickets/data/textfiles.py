"""Reading text files of users: UTF-8 or a clear error."""

from __future__ import annotations

from pathlib import Path

from winning_tickets.errors import ContentError, UsageError


def read_utf8(path: Path) -> str:
    """The text of a file; a byte-order mark is dropped.

    Raises:
        UsageError: there is no such file, or it cannot be opened.
        ContentError: it is not UTF-8; the byte offset is named.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}.") from error
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ContentError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}. "
            "Convert it, for example with: iconv -f latin1 -t utf-8."
        ) from error


def split_lines(text: str) -> list[str]:
    """Lines of a text, without their ends; only LF and CR LF end a line (a text may well hold other separators)."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines
