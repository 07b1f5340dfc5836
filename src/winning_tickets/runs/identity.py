"""The identity of a run: a readable slug and a hash of what changes its numbers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.files import read_json, write_json

DEFAULTS_VERSION = 1
"""Raised whenever a default moves, so that old and new runs never share an id."""
PROFILE_VERSIONS = {"paper": 2, "code": 2}
"""The same for profiles whose values have moved while those of `tuned` stayed; they count instead of it."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 12) -> str:
    """Hexadecimal sha256 of the canonical JSON, shortened to `length` characters."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()[:length]


def run_id(config: BaseModel, slug: str, **content: str | None) -> str:
    """The id of a run."""
    fields = config.model_dump(mode="json", exclude_defaults=True)
    version = PROFILE_VERSIONS.get(fields.get("profile", ""), DEFAULTS_VERSION)
    body = {"config": fields, "content": content, "defaults_version": version}
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", slug).strip("-").lower()
    return f"{readable}-{digest(body)}"


def write_sealed(path: Path, body: Mapping[str, Any]) -> None:
    """Write a description with its checksum."""
    write_json(path, {**body, "checksum": digest(body, 64)})


def read_sealed(path: Path, what: str, version: int, anew: str, mend: str) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without the checksum."""
    body = read_json(path, what)
    if not isinstance(body, dict) or body.get("format_version") != version:
        found = body.get("format_version") if isinstance(body, dict) else type(body).__name__
        raise ContentError(
            f"{path} has format version {found}, this version reads {version}; upgrade winning-tickets, or {anew}."
        )
    if body.pop("checksum", None) != digest(body, 64):
        raise ContentError(f"{path} does not match its own checksum: it was edited or cut off. {mend}")
    return body
