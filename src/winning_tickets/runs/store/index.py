"""The index of a store: an SQLite cache of what the files of its runs say, so that only changed files are read again.

The index is never trusted: a row counts only while the times, sizes and inodes of the run's files are those it was made
from, and its checksum fits. A damaged index is made again, and one that is locked or cannot be written is not used.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zlib import crc32

from pydantic_core import from_json

from winning_tickets.runs.store.records import Body, Layout, Record, is_id, read_body, record_of

FILE = "index.sqlite"
_VERSION = 1
_TABLE = "CREATE TABLE runs (id TEXT PRIMARY KEY, stamps BLOB, checksum INTEGER, content TEXT)"
_INSERT = "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)"
_NOT_USABLE = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH,
}  # fmt: skip
"""Errors of a file that may be intact; after any other error it is made again."""
_SECONDS = 5.0  # how long another process may write the index before this one goes on without it


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

    def records(self) -> list[Record]:
        """Return the records of all runs, by id; their status is that of `record_of`."""
        for attempt in range(3):
            try:
                # A store that does not exist, or whose index cannot be used, gets an index in memory.
                on_disk = attempt < 2 and self._layout.exists()
                with closing(self._open(on_disk=on_disk)) as database:
                    return self._fresh_records(database)
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_USABLE:
                    return self._records_without_disk()
                with suppress(OSError):
                    self._path.unlink()
        raise AssertionError("an index in memory cannot be damaged")

    def _records_without_disk(self) -> list[Record]:
        """Return the records with an index in memory, filled from the one on disk as far as that can be read."""
        with closing(self._open(on_disk=False)) as database:
            old_file = f"{self._path.resolve().as_uri()}?mode=ro"
            with suppress(sqlite3.Error), closing(sqlite3.connect(old_file, timeout=0, uri=True)) as old:
                if _schema(old) == [_TABLE]:
                    database.executemany(_INSERT, old.execute("SELECT * FROM runs"))
            return self._fresh_records(database)

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

    def _fresh_records(self, database: sqlite3.Connection) -> list[Record]:
        stamps = {run_id: self._stamps(run_id) for run_id in self.ids()}
        rows = {row[0]: row for row in database.execute("SELECT * FROM runs")}
        gone = [(run_id,) for run_id in rows if run_id not in stamps]
        # Files are read before the transaction, which is short therefore.
        changed = [self._read(run_id, own) for run_id, own in stamps.items() if not _is_fresh(rows.get(run_id), own)]
        if changed or gone:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("DELETE FROM runs WHERE id = ?", gone)
            database.executemany(_INSERT, changed)
            database.execute("COMMIT")
        rows |= {row[0]: row for row in changed}
        return [Record(**from_json(rows[run_id][-1])) for run_id in stamps]

    def _read(self, run_id: str, stamps: bytes) -> tuple[Any, ...]:
        """Return the row of the table for a run, from its files."""
        content = json.dumps(asdict(record_of(run_id, self.body(run_id))))
        return run_id, stamps, _checksum(stamps, content), content

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


def _checksum(stamps: bytes, content: str) -> int:
    return crc32(content.encode(), crc32(stamps))


def _is_fresh(row: tuple[Any, ...] | None, stamps: bytes) -> bool:
    """Return whether a row is intact and the files of its run are those that it was made from."""
    try:
        return row is not None and row[1] == stamps and row[2] == _checksum(stamps, row[3])
    except AttributeError:  # a value of another type than was written
        return False
