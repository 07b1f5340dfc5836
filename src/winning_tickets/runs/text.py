"""Text that users wrote: UTF-8, or UTF-16 and UTF-32 with a byte-order mark; anything else is refused by its name."""

from __future__ import annotations

import codecs
import io
import re
import shlex
from contextlib import suppress
from pathlib import Path

from winning_tickets.runs.errors import ContentError

_MARKS = {  # the four bytes of UTF-32 begin with the two of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_NAMES = {"utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "utf-32-le": "UTF-32", "utf-32-be": "UTF-32"}
_ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive, as xlsx and docx files are; save the sheet or document as text in UTF-8",
    b"\x1f\x8b": "compressed by gzip; decompress it (gunzip)",
    b"%PDF": "a PDF; extract its text",
    b"PAR1": "a Parquet file; give it the suffix .parquet, or a folder of such files",
}
_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\v\f\r\x1b") + b"\x7f"
_STRAY, _MOST_CONTROLS = 2, 0.01  # number and share of control characters up to which a text is one
_WESTERN = 0.3  # share of bytes above 127 up to which Windows-1252, the encoding of Western Europe, is proposed
_ELSEWHERE = 0.05  # share of the NUL bytes of UTF-16 that may be at other places than the usual ones
_MARKS_AS_LATIN = tuple(mark.decode("latin1").encode() for mark in _MARKS)


def open_text(path: Path) -> io.BufferedReader:
    """Open a text file for reading as UTF-8, whatever its byte-order mark says; the mark of UTF-8 stays.

    UTF-16 and UTF-32 are converted in memory.
    """
    handle = path.open("rb")
    start = handle.peek(4)[:4]
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if encoding is None:
        return handle
    with handle:
        content = handle.read()
    try:
        converted = content.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeError as error:
        raise ContentError(
            f"{path} is not UTF-8: it begins with the mark of {_NAMES[encoding]}, and cannot be decoded as such "
            f"({getattr(error, 'reason', error)}); it was cut off, or mixed with another encoding. Save it again as "
            "UTF-8."
        ) from error
    return io.BufferedReader(io.BytesIO(converted))


def read_text(path: Path) -> str:
    """Return the text of a file without its byte-order mark; errors of the file system are raised unchanged."""
    with open_text(path) as handle:
        return decoded(path, handle.read())


def decoded(path: Path, content: bytes, offset: int = 0) -> str:
    """Decode UTF-8, the part of a file that starts at a byte offset; refuse what is no text, with what to do."""
    _refuse_binary(path, content, offset)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse_unmarked(path, content)
        place = f"byte 0x{content[error.start]:02x} at offset {offset + error.start}"
        advice = _advice(path, content, error)
        raise ContentError(f"{path} is not UTF-8: {place}. {advice}") from error
    return text if offset else text.removeprefix("\ufeff")


def _refuse_binary(path: Path, content: bytes, offset: int) -> None:
    """Refuse UTF-16 and UTF-32 without a mark, text that was converted from them wrongly, and data that is no text."""
    kind = None if offset else next((kind for start, kind in _ARCHIVES.items() if content.startswith(start)), None)
    if kind is not None:
        raise ContentError(f"{path} is no text: it is {kind}.")
    count = len(content) - len(content.translate(None, _CONTROLS))
    if count <= max(_STRAY, _MOST_CONTROLS * len(content)):
        return
    share = f"{count / len(content):.0%} of its bytes are control characters"
    if content.startswith(_MARKS_AS_LATIN):
        raise ContentError(
            f"{path} is no text: {share}. It is UTF-16 or UTF-32 that was converted as if it were Latin-1; give the "
            "original file, which is read as it is."
        )
    _refuse_unmarked(path, content)
    raise ContentError(
        f"{path} is no text: {share}. If it was converted from an encoding that it did not have, give the original "
        "file, or save it again as UTF-8."
    )


def _refuse_unmarked(path: Path, content: bytes) -> None:
    """Refuse UTF-16 or UTF-32 without a byte-order mark by its name, which the places of its NUL bytes tell."""
    # NULs are the high bytes of Latin letters, and of the line feeds and spaces of any script.
    counts = [content[place::4].count(0) for place in range(4)]
    size = len(content) // 4
    encoding = ""
    if size and min(counts[2:]) >= size:
        encoding = "utf-32-le"
    elif size and min(counts[:2]) >= size:
        encoding = "utf-32-be"
    elif any(counts) and counts[0] + counts[2] <= _ELSEWHERE * sum(counts):
        encoding = "utf-16-le"
    elif any(counts) and counts[1] + counts[3] <= _ELSEWHERE * sum(counts):
        encoding = "utf-16-be"
    if not encoding:
        return
    # A block of lines may end inside the last character. Stray NULs in other text give ideographs without a space.
    text = content.decode(encoding, "ignore")
    spaced = re.search(r"\s", text) is not None or sum(counts) > size
    if spaced and not re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f]", text):
        raise ContentError(
            f"{path} is not UTF-8: it is {_NAMES[encoding]} without a byte-order mark. Convert it: "
            f"{_conversion(path, encoding)}"
        )


def _conversion(path: Path, encoding: str) -> str:
    target = path.with_name(f"{path.stem}-utf8{path.suffix}")
    name = encoding.replace("-le", "le").replace("-be", "be")
    return f"iconv -f {name} -t utf-8 {shlex.quote(str(path))} > {shlex.quote(str(target))}"


def _advice(path: Path, content: bytes, error: UnicodeDecodeError) -> str:
    """Return what to do about bytes that are not UTF-8."""
    replaced = content.decode("utf-8", "replace")
    broken = replaced.count("\ufffd")
    if len(re.findall(r"[^\x00-\x7f\ufffd]", replaced)) >= broken:
        if error.reason == "unexpected end of data":
            return "It ends inside a character, so it was cut off; copy it again."
        return "The rest of it is UTF-8, so that place is damaged; repair it in an editor."
    # The advice is tried here, and the user sees what it would make of that place.
    begin = max(content.rfind(b"\n", 0, error.start) + 1, error.start - 20)
    place = content[begin : error.start + 20].split(b"\n")[0]
    others = len(content.translate(None, bytes(range(128))))
    with suppress(UnicodeDecodeError):
        content.decode("cp1252")
        if others <= _WESTERN * len(content):
            seen = place.decode("cp1252").strip()
            return f"Convert it; as Windows-1252 that place reads {seen!r}: {_conversion(path, 'cp1252')}"
    return (
        "Convert it from its own encoding (cp1251, cp932 and gb18030 are usual in Russia, Japan and China): "
        "iconv -f ENCODING -t utf-8 FILE > NEW"
    )
