"""Damage to files: to bytes as they come, and to what they mean.

This mutator needs nothing but Python and a seed, so that the tests run wherever the package does. `atheris_readers.py`
drives the same readers by coverage, for whoever has installed atheris.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

LONG = 300
INTEGERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64)
WORDS = (
    b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b" ", b'"', b"'", b"\\", b"{", b"}", b"[", b"]", b":",
    b",", b"-", b"&a ", b"*a", b"<<: *a", b"!!int ", b"!!python/object/apply:os.system [x]", b"null", b"true", b"NaN",
    b"Infinity", b"-1", b"1e999", b"1e-999", b"9" * LONG, b"9" * 5000, b"0x" + b"f" * 5000, b"[" * LONG,
    b'{"a":' * LONG, b"\\ud800", b"\\u0000", b"../../x", b"/etc/passwd", b"../outside/secret", b"__class__",
    b"\x1b[2J", b"2001-99-99", b"0.5", b"1.0",
)  # fmt: skip
"""What breaks readers of text."""


def bytes_of(data: bytes, rng: random.Random) -> bytes:
    """One to four pieces of damage anywhere."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        data = rng.choice(_DAMAGES)(data, rng)
    return data


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randrange(len(data) + 1)


def _piece(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 16, 64, 1024)))


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _set(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    place = rng.randrange(len(data))
    return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start, end = _piece(data, rng)
    return data[:start] + data[end:]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _double(data: bytes, rng: random.Random) -> bytes:
    start, end = _piece(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 2, 30)) + data[end:]


def _splice(data: bytes, rng: random.Random) -> bytes:
    start, end = _piece(data, rng)
    place = _place(data, rng)
    return data[:place] + data[start:end] + data[place:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = _place(data, rng)
    return data[:place] + rng.choice(WORDS) + data[place:]


def _integer(data: bytes, rng: random.Random) -> bytes:
    """A number in binary, as lengths and offsets are stored."""
    value, form = rng.choice(INTEGERS), rng.choice(("<B", "<H", "<I", "<Q", ">I"))
    packed = struct.pack("<Q", value & (2**64 - 1))[: struct.calcsize(form)]
    place = rng.choice((0, _place(data, rng)))
    return data[:place] + packed + data[place + len(packed) :]


_DAMAGES = (_flip, _flip, _set, _delete, _truncate, _double, _splice, _insert, _insert, _integer)


def _hostile(rng: random.Random) -> Any:
    """A value that a reader may not expect."""
    kind = rng.randrange(12)
    if kind < 3:
        return rng.choice((None, True, False, "", " ", [], {}, [[]], {"": ""}, [None], "nan", "inf", "-", "0", "*"))
    if kind < 5:
        return rng.choice(INTEGERS) * rng.choice((1, -1))
    if kind == 5:
        return rng.choice((0.5, -0.5, 1e308, -1e308, 5e-324, 1e400, float("nan"), 1.0, 2.0, 3.7))
    if kind == 6:
        return 10 ** rng.choice((20, 308, 309, 4000))
    if kind == 7:
        return rng.choice(
            ("../../x", "/etc/passwd", "../outside/secret", "..", ".", "~", "a/b", "con", "\x00", "a\x1b[2J")
        )
    if kind == 8:
        return rng.choice(
            ("\ud800", "\u2028", "\r\n", "é" * 200, "x" * 5000, "${x}", "@search", "{}", "%s", "=", "__class__")
        )
    if kind == 9:
        return [rng.choice((0, "a", None, 1.5))] * rng.choice((1, 2, 1000))
    if kind == 10:
        return {rng.choice(("a", "id", "cls", "self", "0")): rng.choice((0, "a", None, []))}
    value: Any = rng.choice((0, "a"))
    for _ in range(rng.choice((3, 70, 200))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _holders(value: Any) -> list[tuple[Any, Any]]:
    """Every place inside a value: its container and its key."""
    found, waiting = [], [value]
    while waiting:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            found.append((one, key))
            waiting.append(one[key])
    return found


def value_of(value: Any, rng: random.Random) -> Any:
    """A value with one to three places changed: exchanged, left out, renamed, doubled, moved."""
    holder = {"": value}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _holders(holder)
        inside, key = places[rng.randrange(len(places))]
        what = rng.randrange(10)
        if what < 6 or inside is holder:
            inside[key] = _hostile(rng)
        elif what == 6:
            del inside[key]
        elif what == 7 and isinstance(inside, dict):
            inside[str(_hostile(rng))[:200]] = inside.pop(key)
        elif what == 8 and isinstance(inside, list):
            inside.insert(key, inside[key])
        else:
            other, place = places[rng.randrange(len(places))]
            inside[key] = json.loads(json.dumps(other[place]))
    return holder.get("", {})


def json_of(data: bytes, rng: random.Random) -> bytes:
    """JSON that still is JSON."""
    return json.dumps(value_of(json.loads(data), rng)).encode()


def jsonl_of(data: bytes, rng: random.Random) -> bytes:
    """A line that still is JSON, among the others."""
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = json_of(lines[place], rng)
    return b"\n".join(lines) + b"\n"


def table_of(separator: bytes) -> Callable[[bytes, random.Random], bytes]:
    """Rows of cells with a cell exchanged, added, or left out."""

    def change(data: bytes, rng: random.Random) -> bytes:
        rows = [line.split(separator) for line in data.split(b"\n")]
        for _ in range(rng.choice((1, 1, 2))):
            row = rows[rng.randrange(len(rows))]
            place = rng.randrange(len(row)) if row else 0
            what = rng.randrange(6)
            if what < 3:
                row[place : place + 1] = [str(_hostile(rng)).encode("utf-8", "surrogatepass")[:20000]]
            elif what == 3:
                row[place : place + 1] = [rng.choice(WORDS)]
            elif what == 4:
                del row[place : place + 1]
            else:
                row.insert(place, row[place] if row else b"")
        return b"\n".join(separator.join(row) for row in rows)

    return change


def tensors_of(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another header: shapes, types, offsets, names, or its own length."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(value_of(json.loads(data[8 : 8 + length]), rng)).encode()
    stated = rng.choice((len(header), len(header), len(header), rng.choice(INTEGERS) & (2**64 - 1)))
    return struct.pack("<Q", stated) + header + data[8 + length :]


def archive_of(data: bytes, rng: random.Random) -> bytes:
    """A zip archive, which torch.save writes, with damage inside one of its files."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        names = old.namelist()
        chosen = rng.choice([name for name in names if name.endswith(".pkl")] * len(names) + names)
        for name in names:
            content = old.read(name)
            new.writestr(name, bytes_of(content, rng) if name == chosen else content)
    return made.getvalue()


FORMS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "json": json_of,
    "jsonl": jsonl_of,
    "tsv": table_of(b"\t"),
    "csv": table_of(b","),
    "conll": table_of(b" "),
    "safetensors": tensors_of,
    "pt": archive_of,
    "text": bytes_of,
}
"""Damage to what a file means, by the form of the file."""
