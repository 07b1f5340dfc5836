"""Rows of the user's files: csv with quotes, tsv without, one JSON object a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from winning_tickets.data.textfiles import read_utf8, split_lines
from winning_tickets.errors import ContentError, UsageError
from winning_tickets.files import parse_json

Row = tuple[int, dict[str, Any]]
"""Line number and cells by column."""


def read_rows(path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
        UsageError: it is missing or of another kind.
        ContentError: it is empty, not UTF-8, ragged, or not valid; file and line are named.
    """
    readers = {".csv": _csv, ".tsv": _tsv, ".jsonl": jsonl_rows}
    if path.suffix.lower() not in readers:
        raise UsageError(f"{path} is not one of {', '.join(readers)}.")
    rows = list(readers[path.suffix.lower()](path, read_utf8(path)))
    if not rows:
        raise ContentError(f"{path} is empty: it holds no example.")
    return rows


def _csv(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from _table(path, ((reader.line_num, cells) for cells in reader))
    except csv.Error as error:
        raise ContentError(f"{path}, line {reader.line_num}: not valid csv ({error}).") from error


def _tsv(path: Path, text: str) -> Iterator[Row]:
    return _table(path, ((number, line.split("\t")) for number, line in enumerate(split_lines(text), start=1)))


def _table(path: Path, lines: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    header: list[str] = []
    for number, cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if len(set(header)) < len(header):
                raise ContentError(f"{path}, line {number}: a column name comes twice in {', '.join(header)}.")
        elif len(cells) != len(header):
            raise ContentError(
                f"{path}, line {number}: found {len(cells)} columns, expected {len(header)} ({', '.join(header)})."
            )
        else:
            yield number, dict(zip(header, cells, strict=True))


def jsonl_rows(path: Path, text: str) -> Iterator[Row]:
    """The objects of a text, one a line; empty lines are skipped.

    Raises:
        ContentError: a line is not a JSON object.
    """
    for number, line in enumerate(split_lines(text), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ContentError(f"{path}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ContentError(f"{path}, line {number}: expected one object a line, found {type(row).__name__}.")
        yield number, row
