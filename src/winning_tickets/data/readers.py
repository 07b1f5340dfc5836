"""Readers of users' text files: lines, or rows of CSV, TSV, JSON Lines, CoNLL and Parquet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from winning_tickets.data.rows import Row, named_classes, plain
from winning_tickets.data.tokenizing import cut
from winning_tickets.runs import memory
from winning_tickets.runs.errors import ContentError, UsageError, shown
from winning_tickets.runs.files import parse_json
from winning_tickets.runs.text import decoded, open_text, read_text

_ROWS_AT_A_TIME = 1000
_BLOCK = 1 << 20  # bytes of whole lines that are held at a time


def read_utf8(path: Path) -> str:
    """Return the text of a file without its byte-order mark."""
    with _reading(path):
        return read_text(path)


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, read in blocks, so that a large file is never in memory as a whole."""
    offset = 0
    with _reading(path), open_text(path) as handle:
        while block := b"".join(handle.readlines(_BLOCK)):
            yield from split_lines(decoded(path, block, offset))
            offset += len(block)


def read_pieces(path: Path) -> Iterator[str]:
    """Yield the lines of a file; a line too long for a tokenizer comes in pieces and is never in memory as a whole."""
    offset, rest = 0, ""
    with _reading(path), open_text(path) as handle:
        while block := _read_characters(handle):
            *lines, rest = (rest + decoded(path, block, offset)).split("\n")
            offset += len(block)
            for line in lines:
                yield from cut(line.removesuffix("\r"))
            # The last character may be half of a line end, and does not decide where the line is cut.
            *pieces, begun = cut(rest[:-1])
            yield from pieces
            rest = begun + rest[-1:]
    yield from cut(rest.removesuffix("\r"))


def _read_characters(handle: io.BufferedReader) -> bytes:
    """Read a block of whole UTF-8 characters."""
    block = handle.read(_BLOCK)
    for _ in range(3):
        following = handle.peek(1)[:1]
        if not following or following[0] & 0xC0 != 0x80:
            break
        block += handle.read(1)
    return block


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say in words why a file cannot be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}.") from error
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UsageError(f"Cannot read {shown(str(path))}: this cannot be the name of a file.") from error


def split_lines(text: str) -> list[str]:
    """Split a text at LF and CR LF only; a text may contain other separators."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


_SEPARATORS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}
_SAMPLED_ROWS = 50


def csv_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header and quoting; `;`, tabs or `|` may separate the cells too."""
    text = read_utf8(path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may be as long as the file
    skipped, separator = 0, _find_separator(text, ",")
    if declared := re.match(r"sep=([,;\t|])\r?\n", text):  # a line for Excel
        skipped, separator, text = 1, declared[1], text[declared.end() :]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    first = skipped + 1  # first line of a row, which may span several

    def numbered() -> Iterator[tuple[int, list[str]]]:
        nonlocal first
        for cells in reader:
            yield first, cells
            first = reader.line_num + skipped + 1

    try:
        yield from _table(path, numbered(), separator=separator)
    except csv.Error as error:
        last = reader.line_num + skipped
        row = "".join(islice(io.StringIO(text, newline=""), first - skipped - 1, reader.line_num))
        opened = first + _line_of_open_quote(row, separator)
        if last > opened or "unexpected end" in str(error):
            raise ContentError(
                f"{path}, line {opened}: not valid csv: a quote opens a cell there that is not closed properly up to "
                f"line {last} ({error}). Close it; a quote inside a quoted cell is written twice."
            ) from error
        raise ContentError(f"{path}, line {last}: not valid csv ({error}).") from error


def _line_of_open_quote(row: str, separator: str) -> int:
    """Return the index of the line in which the last quoted cell of a row begins."""
    cells = re.finditer(rf'(?:^|[{separator}])"(?:[^"]|"")*"?', row, re.MULTILINE)
    places = [cell.start() + cell[0].index('"') for cell in cells]
    return len(io.StringIO(row[: places[-1] + 1], newline="").readlines()) - 1 if places else 0


def _find_separator(text: str, usual: str) -> str:
    """Return the separator of the cells: the usual one, unless it is not in the header or not in most of the rows."""

    def agreeing(separator: str) -> float:
        """Return the share of the first rows that have as many cells as the header; 0 for a single column."""
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        counts = [len(cells) for cells in islice(filter(None, reader), _SAMPLED_ROWS)]
        return counts.count(counts[0]) / len(counts) if counts and counts[0] > 1 else 0.0

    if agreeing(usual) > 0.5:
        return usual
    best = max((one for one in _SEPARATORS if one != usual), key=agreeing)
    return best if agreeing(best) > 0.5 else usual


def tsv_rows(path: Path, header: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a TSV file, in which quotes are ordinary characters."""
    # `header` names the columns of a file without a header line.
    lines = read_lines(path)
    if header is None:
        begin = list(islice(lines, _SAMPLED_ROWS))
        separator = _find_separator("\n".join(begin), "\t")
        if separator != "\t" and not any("\t" in line for line in begin):
            raise ContentError(
                f"{path} has no tab, and its cells seem to be separated by {_SEPARATORS[separator]}; give it the "
                "suffix .csv."
            )
        lines = chain(begin, lines)
    return _table(path, ((number, line.split("\t")) for number, line in enumerate(lines, start=1)), header)


def _table(
    path: Path,
    lines: Iterable[tuple[int, list[str]]],
    header: Sequence[str] | None = None,
    separator: str = "",  # named in a message if it is not the usual one
) -> Iterator[Row]:
    between = f", separated by {_SEPARATORS[separator]}" if separator not in ("", ",") else ""
    for number, cells in lines:
        where = f"{path}, line {number}"
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise ContentError(f"{where}: the column name {shown(twice)} appears twice.")
            continue
        if len(cells) != len(header):
            names = ", ".join(header)
            raise ContentError(
                f"{where}: found {len(cells)} columns, expected {len(header)} ({names}){between}. Repair or delete "
                "that line."
            )
        yield where, dict(zip(header, cells, strict=True))


def jsonl_rows(path: Path) -> Iterator[Row]:
    """Yield the JSON objects of a file with one per line; empty lines are skipped."""
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ContentError(f"{where}: not valid JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ContentError(f"{where}: expected one object per line, found {type(row).__name__}.")
        yield where, row


def conll_rows(path: Path, words_column: str, label_column: str) -> Iterator[Row]:
    """Yield sentences: the first cell of a line is a word, the last its label; an empty line ends a sentence."""
    words: list[str] = []
    labels: list[str] = []
    first = 1
    for number, line in enumerate(read_lines(path), start=1):
        cells = re.findall(r"[^ \t]+", line)
        if not cells or cells[0] == "-DOCSTART-":
            if words:
                yield f"{path}, line {first}", {words_column: words, label_column: labels}
            words, labels, first = [], [], number + 1
        elif len(cells) < 2:
            raise ContentError(f"{path}, line {number}: expected a word and its label, found {line.strip()!r}.")
        else:
            words.append(cells[0])
            labels.append(cells[-1])
    if words:
        yield f"{path}, line {first}", {words_column: words, label_column: labels}


def parquet_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a Parquet file, with the names of classes that `datasets` stored in it."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(_ROWS_AT_A_TIME):
            for row in named_classes(datasets.Dataset(pyarrow.Table.from_batches([batch]))):
                yield f"{path}, row {number}", {column: plain(cell) for column, cell in row.items()}
                number += 1
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}.") from error
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ContentError(f"Could not read {path} as a Parquet file: {str(error).rstrip('.')}.") from error


Formats = Mapping[str, Callable[[Path], Iterator[Row]]]
"""Functions that yield the rows of a file, by its suffix."""
FORMATS: Formats = {
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".jsonl": jsonl_rows,
    ".parquet": parquet_rows,
}


def read_rows(path: Path, formats: Formats = FORMATS) -> list[Row]:
    """Return all rows of data in memory, or of a file, whose suffix determines the format; refuse an empty file."""
    if (rows := memory.find(path)) is not None:
        return list(rows)
    if path.suffix.lower() not in formats:
        raise UsageError(f"{path} has none of the suffixes {', '.join(formats)}.")
    rows = list(formats[path.suffix.lower()](path))
    if not rows:
        raise ContentError(f"{path} is empty: it holds no example.")
    return rows


def fingerprint(parts: Iterable[str]) -> str:
    """Return the xxh3-128 hash of a sequence of strings, 32 hex digits."""
    running = RunningFingerprint()
    for part in parts:
        running.add(part)
    return running.hexdigest()


class RunningFingerprint:
    """The fingerprint of the strings that were added so far."""

    def __init__(self) -> None:
        import xxhash

        self._state = xxhash.xxh3_128()

    def add(self, part: str) -> None:
        """Add a string after its length, so that moving text from one string to the next changes the hash."""
        content = part.encode("utf-8", "surrogatepass")
        self._state.update(len(content).to_bytes(8, "little"))
        self._state.update(content)

    def hexdigest(self) -> str:
        return str(self._state.hexdigest())
