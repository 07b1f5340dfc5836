"""A memory-mapped cache of tokenized corpora, keyed by the text, the tokenizer and the format."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from winning_tickets.data.corpora import CorpusText
from winning_tickets.data.readers import RunningFingerprint, fingerprint
from winning_tickets.data.tokenizing import calls
from winning_tickets.runs.distributed import main_first
from winning_tickets.runs.errors import ContentError, TrainingError, UsageError
from winning_tickets.runs.files import build_directory, parse_json, temporary_name, write_json
from winning_tickets.runs.locks import hold
from winning_tickets.runs.progress import progress

FORMAT_VERSION = 1
_TOKENS, _OFFSETS, _ENTRY = "tokens.bin", "offsets.npy", "entry.json"
_LINES_AT_A_TIME, _CHARACTERS_AT_A_TIME = 1000, 1 << 20  # they decide how much of a stream is read
_BLOCK = 1 << 20  # bytes of a file that are hashed at a time
_STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class TokenStream:
    """A tokenized corpus: all lines one after the other, perhaps with an end-of-text token each; memory-mapped."""

    tokens: np.ndarray[Any, Any]  # ids, uint16 or uint32 `(n_tokens,)`
    offsets: np.ndarray[Any, Any]  # int64 `(n_lines + 1,)`; line i is `tokens[offsets[i]:offsets[i + 1]]`
    path: Path  # its name is the key of the entry

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def n_lines(self) -> int:
        return len(self.offsets) - 1

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
        """Yield all tokens in blocks, each with its first position; they are read, so as not to count as memory."""
        for start in range(0, self.n_tokens, size):
            block = self.tokens[start : start + size]
            if isinstance(self.tokens, np.memmap):
                block = np.fromfile(self.path / _TOKENS, block.dtype, len(block), offset=start * block.itemsize)
            yield start, block


def cache_root() -> Path:
    """Return WINNING_TICKETS_CACHE, else `winning-tickets` under XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("WINNING_TICKETS_CACHE"):
        return Path(chosen).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "winning-tickets"


def tokenizer_hash(tokenizer: Any) -> str:
    """Return the xxh3-128 of all that decides the tokens of a text: model, normalization and special ids."""
    # Truncation and padding are left out: they are state of the last call, and change no token of the cache.
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"{type(tokenizer).__name__} is not a fast tokenizer; save it as a tokenizer.json first.")
    state = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return fingerprint(json.dumps(part, sort_keys=True) for part in (state, special, sorted(tokenizer.all_special_ids)))


def tokenize(corpus: CorpusText, tokenizer: Any, at_most: int | None = None, end: int | None = None) -> TokenStream:
    """Tokenize a corpus with a fast tokenizer, or read its tokens from the cache.

    A stream is read up to `at_most` tokens. The token `end` is put after each line.
    """
    # A damaged entry is made again. If several processes need the same entry, one makes it and the others wait.
    if corpus.streamed and at_most is None:
        raise UsageError(
            f"The corpus {corpus.name} is a stream, and nothing says how much of it is read; give --train-size N "
            "segments, or the length in steps or examples."
        )
    parts = [str(FORMAT_VERSION), corpus.fingerprint, tokenizer_hash(tokenizer)]
    limit = at_most if corpus.streamed else None
    key = fingerprint([*parts, *([] if limit is None else [str(limit)]), *([] if end is None else [f"end {end}"])])
    path = (corpus.cache or cache_root()) / "tokens" / key
    return main_first(lambda: _tokenized_in(path, corpus, tokenizer, limit, end=end))


def _tokenized_in(
    path: Path, corpus: CorpusText, tokenizer: Any, at_most: int | None, *, end: int | None
) -> TokenStream:
    if (found := _open(path)) is not None:
        return found
    try:
        with hold(path, beside=True, patience=math.inf):
            if (found := _open(path)) is not None:  # another process was faster
                return found
            _discard(path)
            build_directory(path, lambda folder: _write(folder, corpus, tokenizer, at_most, end=end))
    except TrainingError as error:
        if (found := _open(path)) is not None:  # from a process that wrote before the disk was full
            return found
        raise TrainingError(
            f"Could not write the token cache {path}: {error.__cause__ or error}. Free some space, run "
            "`tickets cache clean`, or set WINNING_TICKETS_CACHE to another folder."
        ) from error
    made = _open(path)
    if made is None:
        raise TrainingError(f"The token cache {path} cannot be read back; check the disk.")
    return made


def _write(folder: Path, corpus: CorpusText, tokenizer: Any, at_most: int | None, *, end: int | None) -> None:
    largest = max(tokenizer.get_vocab().values())
    kind = np.dtype("<u2" if largest < 2**16 else "<u4")
    total = count = 0
    with (folder / _TOKENS).open("wb") as tokens, (folder / _OFFSETS).open("wb") as offsets:
        begin = _write_header(offsets, 0)
        offsets.write(np.zeros(1, "<i8").tobytes())
        for lines in _tokenized(corpus, tokenizer, at_most, end):
            ends = total + np.cumsum([len(line) for line in lines], dtype="<i8")
            content = np.fromiter(chain.from_iterable(lines), kind, count=int(ends[-1]) - total).tobytes()
            tokens.write(content)
            offsets.write(ends.tobytes())
            total, count = int(ends[-1]), count + len(lines)
        offsets.seek(0)
        _write_header(offsets, count + 1)
    if total == 0:
        raise ContentError(f"The corpus {corpus.name} ({corpus.split}) has no tokens after tokenization.")
    entry = {
        "format_version": FORMAT_VERSION,
        "corpus": corpus.name,
        "split": corpus.split,
        "tokenizer": str(tokenizer.name_or_path),
        "tokens": total,
        "lines": count,
        "dtype": kind.str,
        "hash": _hash_of(folder, begin),
    }
    write_json(folder / _ENTRY, entry)


def _write_header(file: Any, count: int) -> int:
    """Write the header of an array of `count` numbers, whose size is the same for any count, and return that size."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (count,)})
    size: int = file.tell()
    return size


def _tokenized(corpus: CorpusText, tokenizer: Any, at_most: int | None, end: int | None) -> Iterator[list[list[int]]]:
    """Yield the ids of the lines, some lines at a time; refuse a corpus that does not match its fingerprint."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    seen, done, last = RunningFingerprint(), 0, [] if end is None else [end]
    quiet = not sys.stderr.isatty()
    with progress(f"tokenizing {corpus.name}", at_most or len(corpus.lines), quiet=quiet) as advance:
        for lines in _some_at_a_time(corpus.lines):
            for line in lines:
                seen.add(line)
            found = [
                encoding.ids + last
                for begin, end in calls([lines])
                for encoding in backend.encode_batch_fast(lines[begin:end], add_special_tokens=False)
            ]
            yield found
            done += len(lines) if at_most is None else sum(map(len, found))
            advance(done, "")
            if at_most is not None and done >= at_most:
                break
    if at_most is None and seen.hexdigest() != corpus.fingerprint:
        raise ContentError(f"The corpus {corpus.name} ({corpus.split}) changed while it was read; start again.")


def _some_at_a_time(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the lines in lists that need little memory."""
    some: list[str] = []
    characters = 0
    for line in lines:
        some.append(line)
        characters += len(line)
        if len(some) >= _LINES_AT_A_TIME or characters >= _CHARACTERS_AT_A_TIME:
            yield some
            some, characters = [], 0
    if some:
        yield some


def _hash_of(folder: Path, begin: int) -> str:
    """Return the xxh3-128 of the tokens and of the offsets, which begin at a byte."""
    # The files are read, not mapped, so that their pages do not count as memory of this process.
    import xxhash

    state = xxhash.xxh3_128()
    for name, first in ((_TOKENS, 0), (_OFFSETS, begin)):
        with (folder / name).open("rb") as handle:
            handle.seek(first)
            while block := handle.read(_BLOCK):
                state.update(block)
    return str(state.hexdigest())


def _open(path: Path) -> TokenStream | None:
    """Return the entry, or None where it is absent or damaged (cut off, edited, of another format)."""
    try:
        entry = parse_json((path / _ENTRY).read_text(encoding="utf-8"))
        offsets = np.load(path / _OFFSETS, mmap_mode="r", allow_pickle=False)
        tokens = np.memmap(path / _TOKENS, dtype=np.dtype(entry["dtype"]), mode="r")
        if entry["format_version"] != FORMAT_VERSION or entry["hash"] != _hash_of(path, offsets.offset):
            return None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    with contextlib.suppress(OSError):  # a cache that is shared read-only
        os.utime(path / _ENTRY)
    return TokenStream(tokens, offsets, path)


def _discard(path: Path) -> None:
    """Remove an entry; it is renamed first, so that other processes never see an incomplete one."""
    doomed = temporary_name(path)
    with contextlib.suppress(OSError):
        path.replace(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def list_cache_entries() -> list[dict[str, Any]]:
    """List the entries, the most recently used one first: key, corpus, split, tokens, lines, bytes, last use."""
    return sorted((entry for _, entry in _entries()), key=lambda entry: -float(entry["last_used"]))


def clean_cache(older_than_days: float | None = None) -> int:
    """Remove entries not used for so many days (None: all) and leftovers of killed runs; return the bytes freed."""
    now = time.time()
    freed = 0
    for path, entry in _entries():
        if older_than_days is None or now - entry["last_used"] >= older_than_days * 24 * 3600:
            freed += entry["bytes"]
            _discard(path)
    for path in _folders(hidden=True):
        with contextlib.suppress(FileNotFoundError):  # another process has completed or removed it meanwhile
            if now - path.stat().st_mtime >= _STALE_SECONDS:  # another process may still write a newer one
                freed += _size(path)
                shutil.rmtree(path, ignore_errors=True)
    return freed


def _entries() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folders of the entries with their descriptions, without those that other processes remove meanwhile."""
    for path in _folders(hidden=False):
        try:
            entry = _describe(path)
        except FileNotFoundError:
            continue
        yield path, entry


def _folders(*, hidden: bool) -> list[Path]:
    root = cache_root() / "tokens"
    found = sorted(root.iterdir()) if root.is_dir() else []
    return [path for path in found if path.is_dir() and path.name.startswith(".") == hidden]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def _describe(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"corpus": None, "split": None, "tokenizer": None, "tokens": None, "lines": None}
    file = path / _ENTRY
    with contextlib.suppress(OSError, ValueError):
        stored = parse_json(file.read_text(encoding="utf-8"))
        facts |= {name: stored[name] for name in facts if isinstance(stored, dict) and name in stored}
    used = file.stat().st_mtime if file.exists() else path.stat().st_mtime
    return {"key": path.name, **facts, "bytes": _size(path), "last_used": used}
