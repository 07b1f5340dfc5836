"""What a store knows of its runs, from small JSON files, with a cache so that thousands of runs open fast."""

from __future__ import annotations

import gc
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from winning_tickets.errors import ContentError, TrainingError, UsageError
from winning_tickets.files import parse_json, read_json, remove_leftovers, write_text
from winning_tickets.rundir import MARKER, RESULT
from winning_tickets.store.layout import DESCRIPTION, ERROR, PROVENANCE, Layout, check_id, is_id
from winning_tickets.store.shapes import misshapen

Status = Literal["absent", "running", "unfinished", "failed", "done"]

_CACHE_VERSION = 1
_DAMAGED = "(damaged)"
"""Key of a message that stands for a file that cannot be read."""
_FILES = {"description", "marker", "result", "error", "provenance"}
_SHARDS = 64
"""Files of the cache, so that a run that changes does not rewrite all of it."""


@dataclass(frozen=True)
class Record:
    """What is known of one run.

    Attributes:
        id: name of its folder.
        verb: `search`, `transfer` ...; empty where nothing says it.
        status: see `Store.status`.
        config: its settings: those of its description, and over them those of its run directory, which are complete.
        result: of a run that is done, else None; a failed run gives no number.
        error: `kind`, `message`, `time` and more of a failed run, else None.
        labels: what whoever started it noted, such as the stage of a study.
        seconds: it took, from claim to seal; of a run that was resumed the last part.
        peak_memory: bytes of main memory that its process held at most.
        versions: of Python and packages.
        machine: system, processor, cores.
        finished_at: UTC time, ISO 8601.
        source: commit of the working directory, and whether it had changes.
    """

    id: str
    verb: str = ""
    status: Status = "unfinished"
    config: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    peak_memory: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    finished_at: str | None = None
    source: dict[str, Any] | None = None


Body = dict[str, Any]
"""What the files of a run say: the parsed `description`, `marker`, `result`, `error`, `provenance`, each or None."""


class Index:
    """Reads what the files of runs say, each again only after it has changed.

    The cache in `cache/` may be deleted at any time. A file counts as unchanged while its time, size and inode are the
    same; every file is replaced as a whole, so the inode differs even within one tick of the clock.

    Args:
        layout: of the store.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._runs, self._abouts = str(layout.runs), str(layout.abouts)
        self._known: dict[str, tuple[list[Any], Body]] = {}
        self._loaded = False

    def ids(self) -> list[str]:
        """All runs that have a folder or a description, sorted."""
        found: set[str] = set()
        for folder in (self._layout.runs, self._layout.abouts):
            if folder.is_dir():
                found.update(entry.name for entry in os.scandir(folder) if is_id(entry.name))
        return sorted(found)

    def body(self, run_id: str) -> Body:
        """What the files of one run say now."""
        return self._look(run_id)[0]

    def bodies(self, ids: Iterable[str]) -> dict[str, Body]:
        """The same of many runs; what had to be read is remembered in the cache."""
        if not self._loaded:
            remove_leftovers(self._layout.cache)  # whoever is just writing one only forgets what it has read
            for shard in range(_SHARDS):
                self._known |= self._read(self._shard(shard))
            self._loaded = True
        found, changed = {}, set()
        for run_id in ids:
            found[run_id], is_new = self._look(run_id)
            if is_new:
                changed.add(_shard_of(run_id))
        gone = self._known.keys() - found.keys()
        changed |= {_shard_of(run_id) for run_id in gone}
        for run_id in gone:
            del self._known[run_id]
        if self._layout.exists():  # reading makes no store
            self._write(changed)
        return found

    def _look(self, run_id: str) -> tuple[Body, bool]:
        paths = self._paths(run_id)
        stamps = [_stamp(path) for path in paths.values()]
        known = self._known.get(run_id)
        if known is not None and known[0] == stamps:
            return known[1], False
        found = zip(paths.items(), stamps, strict=True)
        body = {name: None if stamp is None else _parsed(name, path) for (name, path), stamp in found}
        self._known[run_id] = (stamps, body)
        return body, True

    def _paths(self, run_id: str) -> dict[str, str]:
        run, about = f"{self._runs}/{check_id(run_id)}", f"{self._abouts}/{run_id}"
        return {
            "description": f"{about}/{DESCRIPTION}",
            "marker": f"{run}/{MARKER}",
            "result": f"{run}/{RESULT}",
            "error": f"{about}/{ERROR}",
            "provenance": f"{about}/{PROVENANCE}",
        }

    def _shard(self, number: int) -> Path:
        return self._layout.cache / f"{number:02d}.json"

    def _read(self, path: Path) -> dict[str, tuple[list[Any], Body]]:
        try:
            content = parse_json(path.read_text(encoding="utf-8"), finite=True)
            if content["version"] == _CACHE_VERSION:
                runs = {run_id: (stamps, body) for run_id, (stamps, body) in content["runs"].items()}
                return {run_id: (stamps, body) for run_id, (stamps, body) in runs.items() if _is_body(body)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # absent, or damaged: made anew
        return {}

    def _write(self, shards: set[int]) -> None:
        by_shard: dict[int, dict[str, Any]] = {shard: {} for shard in shards}
        for run_id, entry in self._known.items():
            if (shard := _shard_of(run_id)) in shards:
                by_shard[shard][run_id] = entry
        try:
            for shard, runs in by_shard.items():
                write_text(self._shard(shard), json.dumps({"version": _CACHE_VERSION, "runs": runs}))
        except TrainingError:
            pass  # a store that may only be read, or a full disk: everything was read, only not remembered


def record_of(run_id: str, body: Body, status: Status) -> Record:
    """The record of a run from what its files say."""
    described, marker = body["description"] or {}, body["marker"] or {}
    provenance = body["provenance"] or (body["error"] or {}).get("provenance") or {}
    return Record(
        id=run_id,
        verb=str(described.get("verb") or marker.get("verb") or ""),
        status=status,
        config=_settings(described) | _settings(marker),
        result=body["result"] if status == "done" else None,
        error=error_of(body) if status == "failed" else None,
        labels=described.get("labels") or {},
        seconds=provenance.get("seconds"),
        peak_memory=provenance.get("peak_memory"),
        versions=provenance.get("versions") or {},
        machine=provenance.get("machine") or {},
        finished_at=provenance.get("finished_at"),
        source=provenance.get("source"),
    )


def error_of(body: Body) -> dict[str, Any] | None:
    """The error of a failed run: its own, or that one of its files is damaged; None where neither is so."""
    for message in damages(body):
        return {"kind": ContentError.__name__, "message": message}
    error: dict[str, Any] | None = body["error"]
    return error


def damages(body: Body) -> list[str]:
    """A message for each file of a run that cannot be read."""
    return [content[_DAMAGED] for content in body.values() if content is not None and _DAMAGED in content]


@contextmanager
def without_collector() -> Iterator[None]:
    """Tens of thousands of objects that all stay are made several times as fast while nobody looks for rubbish."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _settings(content: dict[str, Any]) -> dict[str, Any]:
    config = content.get("config")
    return config if isinstance(config, dict) else {}


def _shard_of(run_id: str) -> int:
    return zlib.crc32(run_id.encode()) % _SHARDS


def _is_body(body: Any) -> bool:
    """Whether an entry of the cache is one that `_look` could have made."""
    return body.keys() == _FILES and all(
        content is None or _DAMAGED in content or misshapen(name, content) is None for name, content in body.items()
    )


def _stamp(path: str) -> list[int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - tens of thousands of them
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [found.st_mtime_ns, found.st_size, found.st_ino]


def _parsed(name: str, path: str) -> dict[str, Any] | None:
    """A JSON object, None where the file has just gone, `{_DAMAGED: message}` where somebody edited or cut it off."""
    try:
        content = read_json(Path(path), "file")
    except UsageError:
        return None
    except ContentError as error:
        return {_DAMAGED: str(error)}
    if not isinstance(content, dict):
        return {_DAMAGED: f"{path} holds {type(content).__name__} instead of an object; it was edited."}
    if (problem := misshapen(name, content)) is not None:
        return {_DAMAGED: f"{path} was edited: {problem}. Copy it again, or delete the run and repeat it."}
    return content
