"""Run ids and checksums: hashes of canonical JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.files import read_json, write_json


class Identified(Protocol):
    """Settings from which a run id can be made."""

    @property
    def defaults_version(self) -> int: ...

    def identity(self, *, exclude_defaults: bool) -> dict[str, Any]: ...


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 12) -> str:
    """Return the first `length` hexadecimal digits of the sha256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()[:length]


def run_id(config: Identified, slug: str, **content: str | None) -> str:
    """Return a readable slug followed by a hash of the settings and of the data and weights that they point to.

    Only fields that differ from their defaults enter the hash, so a new field leaves old ids unchanged.
    """
    fields = config.identity(exclude_defaults=True)
    body = {"config": fields, "content": content, "defaults_version": config.defaults_version}
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", slug).strip("-").lower()
    return f"{readable}-{digest(body)}"


def write_checked(path: Path, body: Mapping[str, Any]) -> None:
    """Write a description with its checksum."""
    write_json(path, {**body, "checksum": digest(body, 64)})


def read_checked(path: Path, what: str, version: int, anew: str, *, mend: str) -> dict[str, Any]:
    """Return a description without its checksum; another format version or a wrong checksum is refused."""
    body = read_json(path, what)
    if not isinstance(body, dict) or body.get("format_version") != version:
        found = body.get("format_version") if isinstance(body, dict) else type(body).__name__
        raise ContentError(
            f"{path} has format version {found}, this version reads {version}; upgrade winning-tickets, or {anew}."
        )
    if body.pop("checksum", None) != digest(body, 64):
        raise ContentError(f"{path} does not match its own checksum: it was edited or cut off. {mend}")
    return body
