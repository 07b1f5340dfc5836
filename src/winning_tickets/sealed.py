"""JSON descriptions that carry a format version and their own checksum, so that edits and cuts are noticed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from winning_tickets.errors import ContentError
from winning_tickets.files import read_json, write_json
from winning_tickets.identity import digest


def write_sealed(path: Path, body: Mapping[str, Any]) -> None:
    """Write a description with its checksum.

    Args:
        path: of the file.
        body: the description, with a `format_version`.
    """
    write_json(path, {**body, "checksum": digest(body, 64)})


def read_sealed(path: Path, what: str, version: int, anew: str, mend: str) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without the checksum.

    Args:
        path: of the file.
        what: what it is, for the message of a file that is no JSON.
        version: the format version that is read.
        anew: what else can be done about another version.
        mend: what to do about a damaged file.

    Raises:
        ContentError: another format, or it was cut off or edited.
    """
    body = read_json(path, what)
    if not isinstance(body, dict) or body.get("format_version") != version:
        found = body.get("format_version") if isinstance(body, dict) else type(body).__name__
        raise ContentError(
            f"{path} has format version {found}, this version reads {version}; upgrade winning-tickets, or {anew}."
        )
    if body.pop("checksum", None) != digest(body, 64):
        raise ContentError(f"{path} does not match its own checksum: it was edited or cut off. {mend}")
    return body
