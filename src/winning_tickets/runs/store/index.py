"""The index of a store: an SQLite cache of what the files of its runs say, so that only changed files are read again.

The index is never trusted: a row counts only while the times, sizes and inodes of the run's files are those it was made
from, and its checksum fits. A damaged index is made again, and one that is locked or cannot be written is not used.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from pydantic_core import from_json

from winning_tickets.runs.files import is_number
from winning_tickets.runs.store.query import Condition
from winning_tickets.runs.store.records import (
    Body,
    Layout,
    Record,
    State,
    Status,
    is_id,
    read_body,
    record_of,
    state_of,
)

FILE = "index.sqlite"
_VERSION = 1
_TABLE = """CREATE TABLE runs (
    id TEXT PRIMARY KEY, stamps BLOB, state TEXT, verb TEXT, headline TEXT, line_check INTEGER, content_check INTEGER,
    content TEXT
)"""
_COLUMNS = "id, stamps, state, verb, headline, line_check"
_NOT_USABLE = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH,
}  # fmt: skip
"""Errors of a file that may be intact; after any other error it is made again."""
_SECONDS = 5.0  # how long another process may write the index before this one goes on without it


@dataclass(frozen=True)
class Row:
    """What the files of one run say; whether an open run is running is not in its files."""

    id: str
    state: State
    verb: str
    headline: str
    content: str | None = None  # JSON of the fields of a `Record`; None if it was not asked for

    def record(self, status: Status) -> Record:
        """Return the record of the run; its content must have been asked for."""
        return Record(**{**from_json(self.content or "{}"), "status": status})


class Index:
    """Finds runs of a store by the content of their files."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._path = layout.cache / FILE

    def ids(self) -> list[str]:
        """Return the ids of all runs that have a folder or a description, sorted."""
        found: set[str] = set()
        for folder in (self._layout.runs, self._layout.abouts):
            if folder.is_dir():
                found.update(entry.name for entry in os.scandir(folder) if is_id(entry.name))
        return sorted(found)

    def body(self, run_id: str) -> Body:
        """Return the content of the files of one run, read now."""
        return read_body(self._layout.files(run_id))

    def rows(
        self, conditions: Sequence[Condition] = (), only: Collection[str] | None = None, *, content: bool = True
    ) -> list[Row]:
        """Return the rows of all runs, by id.

        Args:
            conditions: leave out runs that cannot fulfill these conditions; some of the others may not either.
            only: ids of the runs to return; None for all.
            content: whether the rows have the content of which records are made.
        """
        for attempt in range(3):
            try:
                # A store that does not exist, or whose index cannot be used, gets an index in memory.
                on_disk = attempt < 2 and self._layout.exists()
                with closing(self._open(on_disk=on_disk)) as database:
                    rows = self._fresh_rows(database, conditions, content=content)
                return [row for row in rows if only is None or row.id in only]
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_USABLE:
                    return self._rows_without_disk(conditions, only, content=content)
                with suppress(OSError):
                    self._path.unlink()
        raise AssertionError("an index in memory cannot be damaged")

    def _rows_without_disk(
        self, conditions: Sequence[Condition], only: Collection[str] | None, *, content: bool
    ) -> list[Row]:
        """Return the rows with an index in memory, filled from the one on disk as far as that can be read."""
        with closing(self._open(on_disk=False)) as database:
            old_file = f"{self._path.resolve().as_uri()}?mode=ro"
            with suppress(sqlite3.Error), closing(sqlite3.connect(old_file, timeout=0, uri=True)) as old:
                _copy(old, database)
            rows = self._fresh_rows(database, conditions, content=content)
        return [row for row in rows if only is None or row.id in only]

    def _open(self, *, on_disk: bool) -> sqlite3.Connection:
        if on_disk:
            with suppress(OSError):
                self._path.parent.mkdir(exist_ok=True)
        database = _open_file(self._path) if on_disk else sqlite3.connect(":memory:", isolation_level=None)
        try:
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA synchronous = OFF")  # after a power loss the index is made again
            if _schema(database) != [_TABLE] or database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                _begin_anew(database)
        except BaseException:
            database.close()
            raise
        return database

    def _fresh_rows(self, database: sqlite3.Connection, conditions: Sequence[Condition], *, content: bool) -> list[Row]:
        ids = self.ids()
        stamps = {run_id: self._stamps(run_id) for run_id in ids}
        known = {row[0] for row in database.execute(f"SELECT {_COLUMNS} FROM runs") if _is_fresh(row, stamps)}  # noqa: S608 - a constant
        # Files are read before the transaction, which is short therefore.
        changed = [self._read(run_id, stamps[run_id]) for run_id in ids if run_id not in known]
        gone = [row[0] for row in database.execute("SELECT id FROM runs") if row[0] not in stamps]
        if changed or gone:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("DELETE FROM runs WHERE id = ?", [(run_id,) for run_id in gone])
            database.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", changed)
            database.execute("COMMIT")
        where, values = _where(conditions)
        wanted = "id, state, verb, headline" + (", content, content_check" if content or conditions else "")
        rows = database.execute(f"SELECT {wanted} FROM runs {where} ORDER BY id", values)  # noqa: S608 - values are bound
        return [self._checked(row) for row in rows]

    def _checked(self, row: tuple[Any, ...]) -> Row:
        """Return a row of the table; its content, where it has one, is read again if it is damaged."""
        run_id, state, verb, headline, content, check = row if len(row) == 6 else (*row, None, 0)
        if content is not None and crc32(content.encode()) != check:
            _, _, state, verb, headline, _, _, content = self._read(run_id, b"")
        return Row(run_id, state, verb, headline, content)

    def _read(self, run_id: str, stamps: bytes) -> tuple[Any, ...]:
        """Return the values of a row of the table, from the files of the run."""
        body = self.body(run_id)
        state = state_of(body)
        record = record_of(run_id, body, "unfinished" if state == "open" else state)
        content = json.dumps({name: value for name, value in asdict(record).items() if name != "status"})
        line = (run_id, stamps, state, record.verb, record.headline)
        return (*line, _line_check(line), crc32(content.encode()), content)

    def _stamps(self, run_id: str) -> bytes:
        """Return the time, size and inode of each file; files are replaced whole, so the inode changes every time."""
        values: list[int] = []
        for path in self._layout.files(run_id).values():
            try:
                found = os.stat(path)  # noqa: PTH116 - faster than Path.stat for tens of thousands of files
                values += (found.st_mtime_ns, found.st_size, found.st_ino & 0x7FFFFFFFFFFFFFFF)
            except (FileNotFoundError, NotADirectoryError):
                values += (-1, -1, -1)
        return struct.pack(f"{len(values)}q", *values)


def _open_file(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_SECONDS, isolation_level=None)


def _schema(database: sqlite3.Connection) -> list[str]:
    """Return the statements that made the tables, views and triggers of a database."""
    return [row[0] for row in database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]


def _begin_anew(database: sqlite3.Connection) -> None:
    if _schema(database):
        raise sqlite3.DatabaseError("an index of another version")
    database.execute("BEGIN IMMEDIATE")
    if not _schema(database):  # another process may have made it meanwhile
        database.execute(_TABLE)
        database.execute(f"PRAGMA user_version = {_VERSION}")
    database.execute("COMMIT")


def _copy(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    if _schema(old) == [_TABLE]:
        new.executemany("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", old.execute("SELECT * FROM runs"))


def _line_check(line: Sequence[Any]) -> int:
    run_id, stamps, state, verb, headline = line
    return crc32(stamps, crc32("\0".join((run_id, state, verb, headline)).encode()))


def _is_fresh(row: tuple[Any, ...], stamps: dict[str, bytes]) -> bool:
    """Return whether a row is intact and its files are those that it was made from."""
    *line, check = row
    try:
        return bool(stamps.get(line[0]) == line[1] and _line_check(line) == check)
    except (TypeError, AttributeError):  # values of other types than were written
        return False


def _where(conditions: Iterable[Condition]) -> tuple[str, list[Any]]:
    """Return an SQL condition that leaves out runs which cannot fulfill the conditions, and its values."""
    clauses, values = [], []
    for condition in conditions:
        either = []
        for path in _paths(condition.key):
            clause, own = _clause(path, condition)
            either.append(clause)
            values += own
        if either:
            clauses.append(f"({' OR '.join(either)})")
    return ("WHERE " + " AND ".join(clauses) if clauses else ""), values


def _clause(path: str, condition: Condition) -> tuple[str, list[Any]]:
    """Return a condition on the value at a path of the content; lists and objects are left to `Condition.holds`."""
    if condition.sign != "=":
        return "json_type(content, ?) IS NOT NULL", [path]
    alternatives = [one for choice in condition.choices for one in (choice.text, choice.value)]
    texts = {one for one in alternatives if isinstance(one, str)}
    numbers = {float(one) for one in alternatives if is_number(one)}
    marks = ", ".join("?" * len(texts | numbers))
    return (
        "(json_type(content, ?) IN ('array', 'object', 'true', 'false', 'null')"
        f" OR json_extract(content, ?) IN ({marks}))",
        [path, path, *texts, *numbers],
    )


def _paths(key: str) -> Iterator[str]:
    """Yield the JSON paths that a key may mean; none if the condition cannot be left to the database."""
    names = Condition.names(key)
    if any('"' in part or part == "status" for name in names for part in name):
        return
    for place, *parts in names:
        # Keys may contain dots, so neighboring parts may be one name; a number may be an index of a list.
        for joins in itertools.product((False, True), repeat=max(0, len(parts) - 1)):
            pieces = parts[:1]
            for joined, part in zip(joins, parts[1:], strict=True):
                pieces = [*pieces[:-1], f"{pieces[-1]}.{part}"] if joined else [*pieces, part]
            forms = [[f'."{piece}"', *([f"[{piece}]"] if piece.isdecimal() else [])] for piece in pieces]
            for chosen in itertools.product(*forms):
                yield f'$."{place}"' + "".join(chosen)
