"""Corpora tokenised once into a memory-mapped cache, keyed by the text, the tokenizer and the format."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from winning_tickets.data.corpora import CorpusText
from winning_tickets.data.fingerprint import fingerprint
from winning_tickets.errors import ContentError, TrainingError, UsageError
from winning_tickets.files import build_directory, write_json
from winning_tickets.progress import progress

FORMAT_VERSION = 1
_TOKENS, _OFFSETS, _ENTRY = "tokens.bin", "offsets.npy", "entry.json"
_LINES_A_CALL = 1000
_STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class TokenStream:
    """A tokenised corpus: all lines one after the other, without special tokens.

    Attributes:
        tokens: ids, uint16 or uint32, memory-mapped, `(n_tokens,)`.
        offsets: line i is `tokens[offsets[i]:offsets[i + 1]]`; int64, `(n_lines + 1,)`.
        path: the cache entry.
        key: its name.
    """

    tokens: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    path: Path
    key: str

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def n_lines(self) -> int:
        """Number of lines."""
        return len(self.offsets) - 1


def cache_root() -> Path:
    """WINNING_TICKETS_CACHE, else `winning-tickets` under XDG_CACHE_HOME or ~/.cache; looked up when called."""
    if chosen := os.environ.get("WINNING_TICKETS_CACHE"):
        return Path(chosen).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "winning-tickets"


def tokenizer_hash(tokenizer: Any) -> str:
    """xxh3-128 of what a fast tokenizer does to text: its model, its normalisation, its special ids.

    Truncation and padding are left out: they are state of the last call, and change no token of the cache.

    Raises:
        UsageError: the tokenizer is not a fast one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"{type(tokenizer).__name__} is not a fast tokenizer; save it as a tokenizer.json first.")
    state = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return fingerprint(json.dumps(part, sort_keys=True) for part in (state, special, sorted(tokenizer.all_special_ids)))


def tokenise(corpus: CorpusText, tokenizer: Any) -> TokenStream:
    """The corpus as token ids, from the cache or made now.

    A damaged entry is made again; processes that make the same entry at the same time do not disturb each other.

    Args:
        corpus: lines of text.
        tokenizer: a fast tokenizer.

    Raises:
        UsageError: the tokenizer is not a fast one.
        ContentError: the text has no tokens.
        TrainingError: the cache cannot be written.
    """
    key = fingerprint((str(FORMAT_VERSION), corpus.fingerprint, tokenizer_hash(tokenizer)))
    path = cache_root() / "tokens" / key
    if (found := _open(path)) is not None:
        return found
    _discard(path)
    try:
        build_directory(path, lambda folder: _write(folder, corpus, tokenizer))
    except TrainingError as error:
        if (found := _open(path)) is not None:  # another process was faster
            return found
        raise TrainingError(
            f"Could not write the token cache {path}: {error.__cause__ or error}. Free some space, run "
            "`tickets cache clean`, or set WINNING_TICKETS_CACHE to another folder."
        ) from error
    made = _open(path)
    if made is None:
        raise TrainingError(f"The token cache {path} cannot be read back; check the disk.")
    return made


def _write(folder: Path, corpus: CorpusText, tokenizer: Any) -> None:
    import xxhash

    largest = max(tokenizer.get_vocab().values())
    kind = np.dtype("<u2" if largest < 2**16 else "<u4")
    lengths: list[int] = []
    state = xxhash.xxh3_128()
    with (folder / _TOKENS).open("wb") as handle:
        for lines in _tokenised(corpus, tokenizer):
            lengths.extend(map(len, lines))
            content = np.fromiter((token for line in lines for token in line), kind).tobytes()
            state.update(content)
            handle.write(content)
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    if offsets[-1] == 0:
        raise ContentError(f"The corpus {corpus.name} ({corpus.split}) has no tokens after tokenisation.")
    np.save(folder / _OFFSETS, offsets)
    state.update(offsets.tobytes())
    entry = {
        "format_version": FORMAT_VERSION,
        "corpus": corpus.name,
        "split": corpus.split,
        "tokenizer": str(tokenizer.name_or_path),
        "tokens": int(offsets[-1]),
        "lines": len(lengths),
        "dtype": kind.str,
        "hash": state.hexdigest(),
    }
    write_json(folder / _ENTRY, entry)


def _tokenised(corpus: CorpusText, tokenizer: Any) -> Iterator[list[list[int]]]:
    quiet = not sys.stderr.isatty()
    with progress(f"tokenising {corpus.name}", len(corpus.lines), quiet) as advance:
        for start in range(0, len(corpus.lines), _LINES_A_CALL):
            lines = corpus.lines[start : start + _LINES_A_CALL]
            encoded = tokenizer(
                lines,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,  # no warning about lines longer than the model takes: they are cut later
            )
            yield encoded["input_ids"]
            advance(start + len(lines), "")


def _open(path: Path) -> TokenStream | None:
    """The entry, or None where it is absent or damaged (cut off, edited, of another format)."""
    import xxhash

    try:
        entry = json.loads((path / _ENTRY).read_text(encoding="utf-8"))
        offsets = np.load(path / _OFFSETS, allow_pickle=False)
        tokens = np.memmap(path / _TOKENS, dtype=np.dtype(entry["dtype"]), mode="r")
        state = xxhash.xxh3_128(tokens.data)
        state.update(offsets.tobytes())
        if entry["format_version"] != FORMAT_VERSION or entry["hash"] != state.hexdigest():
            return None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    with contextlib.suppress(OSError):  # a cache that is shared read-only
        os.utime(path / _ENTRY)
    return TokenStream(tokens, offsets, path, path.name)


def _discard(path: Path) -> None:
    """Remove an entry in one step for other processes: it is renamed before its files go."""
    doomed = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with contextlib.suppress(OSError):
        path.replace(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def list_entries() -> list[dict[str, Any]]:
    """What the cache holds, the most recently used entry first: key, corpus, split, tokens, lines, bytes, last use."""
    return sorted(map(_describe, _entries()), key=lambda entry: -float(entry["last_used"]))


def clean(older_than_days: float | None = None) -> int:
    """Remove entries, and what interrupted runs left behind.

    Args:
        older_than_days: only entries not used for so long; None removes all.

    Returns:
        Bytes freed.
    """
    now = time.time()
    freed = 0
    for path in _entries():
        entry = _describe(path)
        if older_than_days is None or now - entry["last_used"] >= older_than_days * 24 * 3600:
            freed += entry["bytes"]
            _discard(path)
    for path in _folders(hidden=True):
        if now - path.stat().st_mtime >= _STALE_SECONDS:  # a younger one may be in the making
            freed += _size(path)
            shutil.rmtree(path, ignore_errors=True)
    return freed


def _folders(hidden: bool) -> list[Path]:
    root = cache_root() / "tokens"
    found = sorted(root.iterdir()) if root.is_dir() else []
    return [path for path in found if path.is_dir() and path.name.startswith(".") == hidden]


def _entries() -> list[Path]:
    return _folders(hidden=False)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def _describe(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"corpus": None, "split": None, "tokenizer": None, "tokens": None, "lines": None}
    file = path / _ENTRY
    with contextlib.suppress(OSError, ValueError):
        stored = json.loads(file.read_text(encoding="utf-8"))
        facts |= {name: stored[name] for name in facts if isinstance(stored, dict) and name in stored}
    used = file.stat().st_mtime if file.exists() else path.stat().st_mtime
    return {"key": path.name, **facts, "bytes": _size(path), "last_used": used}
