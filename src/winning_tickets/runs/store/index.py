"""What a store knows of its runs, from small JSON files, with a cache so that thousands of runs open fast."""

from __future__ import annotations

import gc
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from winning_tickets.runs.directory import MARKER, RESULT
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError, shown
from winning_tickets.runs.files import (
    is_number,
    is_temporary,
    parse_json,
    read_json,
    remove_leftovers,
    write_json,
    write_text,
)

FORMAT_VERSION = 1
STORE_MARKER = "store.json"
DESCRIPTION, ERROR, PROVENANCE, FILES = "run.json", "error.json", "provenance.json", "files.json"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Layout:
    """Paths inside a store.

    `runs/<id>` belongs to the verb, which refuses foreign files there; so what the store knows of a run lies apart, in
    `about/<id>`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.runs = self.path / "runs"
        self.abouts = self.path / "about"
        self.claims = self.path / "claims"
        self.cache = self.path / "cache"

    def run(self, run_id: str) -> Path:
        """The run directory of a run."""
        return self.runs / check_id(run_id)

    def about(self, run_id: str) -> Path:
        """What the store knows of a run: `run.json`, `provenance.json`, `files.json`, `error.json`."""
        return self.abouts / check_id(run_id)

    def exists(self) -> bool:
        """Whether this is a store."""
        if self.path.is_file():
            raise UsageError(f"The store {self.path} is a file; give a folder that is absent, empty, or a store.")
        if self._marked():
            return True
        foreign = self.path.is_dir() and any(not is_temporary(entry) for entry in self.path.iterdir())
        # Another process may have made the store between the two looks.
        if foreign and not self._marked():
            raise UsageError(
                f"{self.path} holds files that are not a store of this tool; it was left untouched. "
                "Give a folder that is absent, empty, or a store."
            )
        return foreign  # only where that other process has

    def create(self) -> None:
        """Make the store where it is not there yet; its marker comes first."""
        if not self.exists():
            write_json(self.path / STORE_MARKER, {"what": "winning-tickets store", "format_version": FORMAT_VERSION})
        for folder in (self.runs, self.abouts, self.claims):
            folder.mkdir(exist_ok=True)

    def _marked(self) -> bool:
        if not is_store(self.path):
            return False
        body = read_json(self.path / STORE_MARKER, "marker of the store")
        found = body.get("format_version") if isinstance(body, dict) else None
        if found != FORMAT_VERSION:
            raise ContentError(
                f"The store {self.path} has format version {found}, this version reads {FORMAT_VERSION}; "
                "upgrade winning-tickets, or choose another store."
            )
        return True


def is_store(path: Path) -> bool:
    """Whether a folder carries the marker of a store."""
    return (path / STORE_MARKER).is_file()


def is_id(name: str) -> bool:
    """Whether a name can be the id of a run."""
    return _RUN_ID.fullmatch(name) is not None


def check_id(run_id: str) -> str:
    """The id itself, where it is a safe name of a folder."""
    if not is_id(run_id):
        raise UsageError(
            f"{run_id!r} cannot be the id of a run: it must begin with a letter or digit, hold only letters, digits, "
            "dots, dashes and underscores, and have at most 200 characters."
        )
    return run_id


_NUMBER = (int, float)
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "description": {"verb": (str,), "config": (dict,), "labels": (dict,)},
    "marker": {"verb": (str,), "config": (dict,)},
    "result": {
        "verb": (str,),
        "metrics": (dict,),
        "primary_metric": (str,),
        "seeds": (list,),
        "failed_seeds": (list,),
        "versions": (dict,),
    },
    "error": {"kind": (str,), "message": (str,), "provenance": (dict,)},
    "provenance": {
        "seconds": _NUMBER,
        "peak_memory": _NUMBER,
        "versions": (dict,),
        "machine": (dict,),
        "finished_at": (str,),
        "source": (dict,),
    },
}
"""By file: the fields that are looked into, and what they hold where they are there and not null."""
_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a number"}


def misshapen(file: str, content: Mapping[str, Any]) -> str | None:
    """What is wrong with a parsed file; None where it can be worked with."""
    return next(_problems(file, content), None)


def _problems(file: str, content: Mapping[str, Any]) -> Iterator[str]:
    for name, kinds in _FIELDS[file].items():
        value = content.get(name)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            yield f"{name} is {shown(value)}, expected {_NAMES[kinds[0]]}"
            return
    if file == "error" and content.get("provenance") is not None:
        yield from _problems("provenance", content["provenance"])
    if file == "result":
        numbers = [one.get("seed") if isinstance(one, dict) else one for one in content.get("failed_seeds") or ()]
        if any(type(seed) is not int for seed in [*(content.get("seeds") or ()), *numbers]):
            yield f"seeds are {shown(content.get('seeds'))} and {shown(numbers)}, expected whole numbers"
        elif content.get("verb") == "transfer":
            yield from _scores(content)


def _scores(result: Mapping[str, Any]) -> Iterator[str]:
    """A transfer has for each metric a final and a best score of each seed."""
    seeds = result.get("seeds")
    for metric, kinds in (result.get("metrics") or {}).items():
        for kind, scores in kinds.items() if isinstance(kinds, dict) else [(metric, kinds)]:
            if not isinstance(scores, dict):
                yield f"metrics.{metric} holds {shown(scores)}, expected scores"
                return
            numbers = [scores.get("mean"), scores.get("std"), *_listed(scores.get("values"))]
            if not all(one is None or is_number(one) for one in numbers):
                yield f"metrics.{metric}.{kind} holds {shown(scores)}, expected numbers"
            elif seeds is not None and len(_listed(scores.get("values"))) not in (0, len(seeds)):
                yield f"metrics.{metric}.{kind} has {len(scores['values'])} values for {len(seeds)} seeds"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value, "no list"]


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
