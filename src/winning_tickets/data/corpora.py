"""Read a corpus as lines, a part at a time: from the hub, the built-in text, a task's sentences, files or folders."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from winning_tickets.data import hub
from winning_tickets.data.hub import HubPart
from winning_tickets.data.readers import (
    FORMATS,
    RunningFingerprint,
    fingerprint,
    read_lines,
    read_pieces,
    split_lines,
)
from winning_tickets.data.tokenizing import cut
from winning_tickets.runs import memory
from winning_tickets.runs.errors import ContentError, UsageError, listed, unknown

SplitName = Literal["train", "validation", "test"]

HUB_CORPORA: dict[str, tuple[str, str | None]] = {
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext-103-raw-v1": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "wikitext-2-raw-v1": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
}
WIKIPEDIA = "wikimedia/wikipedia"
_WIKIPEDIA = re.compile(r"wikipedia:(\d{8}\.[a-z][a-z-]*)")
HELD_OUT = 100  # in a stream without a validation split, one text in so many is held out
PYDOCS_PARTS = {"pydocs": "all", "pydocs:docstrings": "docstrings", "pydocs:topics": "topics"}
TEXT_SUFFIXES = (".txt", ".tokens", ".raw", ".md")
_ROWS_AT_A_TIME = 1000
_SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"valid", "validation", "val", "dev"},
    "test": {"test"},
}


class LineSource(Protocol):
    """Lines that can be iterated more than once: a list, or a text that is read again each time."""

    def __iter__(self) -> Iterator[str]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class CorpusText:
    """Non-blank lines of one split (`train`, `validation` or `test`), and their xxh3-128 fingerprint.

    A line longer than `LONGEST_TEXT` characters, such as a file without line breaks, is several lines here.
    A stream is only read as far as it is needed: the number of its lines is unknown, and its fingerprint is computed
    from the revision, or from the sizes and ends of its files.
    """

    name: str
    split: str
    lines: LineSource
    fingerprint: str
    streamed: bool = False
    cache: Path | None = None  # folder of the token cache; None takes that of the user

    @classmethod
    def of(cls, name: str, split: str, read: Callable[[], Iterable[str]], cache: Path | None = None) -> CorpusText:
        """Return a corpus from a function that yields its lines anew at each call; blank lines are left out."""
        state, count = RunningFingerprint(), 0
        for line in _with_text(read()):
            state.add(line)
            count += 1
        if not count:
            raise _empty(name, split)
        return cls(name, split, _LinesAnew(read, count), state.hexdigest(), cache=cache)


def load_corpus(spec: str, split: SplitName, data_dir: str | Path | None = None) -> CorpusText:
    """Read a corpus: one of the names above, `task:NAME`, `wikipedia:DATE.LANGUAGE`, `org/name:column`, or a path."""
    # A path is a text file, a column `FILE.csv:column` of a table, a folder of text files, or a folder of Parquet files
    # with a column `text`. The files of a folder are chosen by train, valid or test in their names; a single file, or a
    # folder without such names, serves both splits. `data_dir` has the data of `task:NAME`, or a copy of the hub's
    # repository of a WikiText or Wikipedia.
    text: CorpusText | None = memory.find(spec)
    if text is not None:
        return replace(text, split=split)
    if (stream := _stream(spec, split, data_dir)) is not None:
        return stream
    return CorpusText.of(spec, split, _reader(spec, split, data_dir))


def check_corpus(spec: str, split: SplitName, data_dir: str | Path | None = None) -> bool:
    """Check that a corpus is there and begins with text; return False for one of the hub, which is not looked up."""
    if spec in PYDOCS_PARTS or memory.find(spec) is not None:
        return True
    if data_dir is None and (spec in HUB_CORPORA or _streamed_part(spec) is not None):
        return False
    if spec in HUB_CORPORA:
        return bool(_files_of_hub(spec, split, Path(str(data_dir))))
    stream = _stream(spec, split, data_dir)
    lines = _with_text(_reader(spec, split, data_dir)()) if stream is None else iter(stream.lines)
    if next(lines, None) is None:
        raise _empty(spec, split)
    return True


def _empty(name: str, split: str) -> ContentError:
    return ContentError(f"The corpus {name} ({split}) is empty: it holds no line with text in it.")


def table_column(spec: str) -> tuple[Path, str] | None:
    """Return the file and the column that `FILE.csv:column` names; None for other corpora."""
    file, colon, column = spec.rpartition(":")
    path = Path(file).expanduser()
    return (path, column) if colon and path.suffix.lower() in FORMATS and path.is_file() else None


def check_corpus_name(spec: str, *, is_here: bool = False) -> None:
    """Refuse a word that is neither the name of a corpus nor a path; with `is_here`, a path that is not there, too."""
    known = spec in (*HUB_CORPORA, *PYDOCS_PARTS) or spec.startswith("task:") or _streamed_part(spec) is not None
    path = Path(spec.rpartition(":")[0] or spec)
    is_path = re.search(r"[/\\]|^[.~]", spec) or path.suffix in (*TEXT_SUFFIXES, *FORMATS)
    if known or memory.find(spec) is not None or Path(spec).expanduser().exists() or table_column(spec) is not None:
        return
    if is_path and not is_here:
        return
    if is_path:
        raise UsageError(f"There is no file or folder {spec}; --corpus takes a text file, a folder or a name.")
    names = (*HUB_CORPORA, *PYDOCS_PARTS, "wikipedia:20231101.en", "task:NAME")
    raise unknown("corpus", spec, names, "A path to a text file or to a folder of text or Parquet files works too.")


def hub_repository(spec: str) -> str | None:
    """Return the repository of the hub that has a corpus; None for other corpora."""
    part = _streamed_part(spec)
    return HUB_CORPORA.get(spec, (None,))[0] if part is None else part.name


def _streamed_part(spec: str) -> HubPart | None:
    """Return the column of a data set that is read as a stream: of Wikipedia, or of one by its own name."""
    wikipedia = _WIKIPEDIA.fullmatch(spec)
    return HubPart.parse(spec) if wikipedia is None else HubPart(WIKIPEDIA, wikipedia[1], hub.TEXT)


def _stream(spec: str, split: SplitName, data_dir: str | Path | None) -> CorpusText | None:
    """Return a data set of the hub or a folder of Parquet files as a stream; None for other corpora."""
    named, folder = _streamed_part(spec), Path(spec).expanduser()
    files: list[str] = []
    if named is not None and data_dir is not None:
        folder = Path(data_dir)
        files = hub.find_files(folder, named.config, ("train",)).get("train", [])
    elif named is None and folder.is_dir():
        files = sorted(map(str, folder.glob("*.parquet")))
    if named is None and not files:
        return None
    # Without a validation split, some of the training texts are held out for validation.
    kinds = {path: _split_of(path) for path in map(Path, files)}
    whole = split == "test" or "validation" in kinds.values()
    if files:
        chosen = _of_split(folder, kinds, split) if whole else _of_split(folder, kinds, "train", unnamed=True)
        texts, identity = hub.stream_parquet(list(map(str, chosen)), hub.TEXT if named is None else named.part)
    elif named is not None:
        what = f"the corpus {spec}"
        texts, identity, whole = hub.stream_hub(named.name, named.config, named.part, split, what=what)

    def read() -> Iterator[str]:
        for text in texts():
            if whole or _is_held_out(text) == (split == "validation"):
                yield from split_lines(text)

    return CorpusText(spec, split, _LinesAnew(read), fingerprint([identity, split]), streamed=True)


def _is_held_out(text: str) -> bool:
    """Return whether a text of a stream is for validation; its content decides, so that it is in one split only."""
    import xxhash

    return bool(xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) % HELD_OUT == 0)


class _LinesAnew:
    """The lines that are not blank, read again in each iteration."""

    def __init__(self, read: Callable[[], Iterable[str]], count: int = 0) -> None:
        self.read, self._count = read, count

    def __iter__(self) -> Iterator[str]:
        return _with_text(self.read())

    def __len__(self) -> int:
        return self._count


def load_text(spec: str, split: SplitName, data_dir: str | Path | None = None) -> str:
    """Return a corpus as one text: rows of the hub joined by two line feeds, as is usual; other lines by one."""
    if spec in HUB_CORPORA:
        return "\n\n".join(_hub_rows(spec, split, data_dir)())
    given: CorpusText | None = memory.find(spec)
    if given is not None:
        assert isinstance(given.lines, _LinesAnew)
        return "\n".join(given.lines.read())
    if _streamed_part(spec) is not None:
        raise UsageError(f"The corpus {spec} is a stream, and perplexity needs a whole text; give a file or a folder.")
    return "\n".join(_reader(spec, split, data_dir, read_lines)())


def _with_text(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines that are not blank; a line too long for a tokenizer becomes several."""
    return (piece for line in lines for piece in cut(line) if piece and not piece.isspace())


def _reader(
    spec: str, split: SplitName, data_dir: str | Path | None, read_file: Callable[[Path], Iterable[str]] = read_pieces
) -> Callable[[], Iterable[str]]:
    """Return a function that yields all lines of a corpus from the first one."""
    if spec in HUB_CORPORA:
        rows = _hub_rows(spec, split, data_dir)
        return lambda: (line for text in rows() for line in split_lines(text))
    if spec in PYDOCS_PARTS:
        from winning_tickets.data.pydocs import pydocs_corpus

        return lambda: pydocs_corpus(PYDOCS_PARTS[spec], _without_test(spec, split))
    if spec.startswith("task:"):
        sentences = _task_sentences(spec.removeprefix("task:"), split, data_dir)
        return lambda: sentences
    if (table := table_column(spec)) is not None:
        return lambda: _column(*table)
    path = Path(spec).expanduser()
    if path.is_file() and path.suffix.lower() in FORMATS:
        raise UsageError(f"The corpus {spec} is a table; name the column of its texts, such as {spec}:text.")
    if path.is_dir() or path.is_file():
        files = _files(path, split) if path.is_dir() else [path]
        return lambda: (line for file in files for line in read_file(file))
    check_corpus_name(spec, is_here=True)
    raise UsageError(f"The corpus {spec} is neither a file nor a folder.")


def _column(file: Path, column: str) -> Iterator[str]:
    """Yield the lines of the texts in a column of a table."""
    for where, row in FORMATS[file.suffix.lower()](file):
        if not isinstance(row.get(column), str):
            raise ContentError(f"{where} has no text in a column {column!r}; it has the columns {', '.join(row)}.")
        yield from split_lines(row[column])


def _hub_rows(spec: str, split: SplitName, data_dir: str | Path | None) -> Callable[[], Iterable[str]]:
    name, config = HUB_CORPORA[spec]
    if data_dir is None:
        instead = "--corpus takes a text file or folder too, or pydocs, which is built in."
        found = hub.load_hub(name, config, f"the corpus {spec}", instead)
    else:
        found = hub.load_parquet(_files_of_hub(spec, split, Path(data_dir)))
    if split not in found or "text" not in found[split].column_names:
        raise ContentError(f"The data set {name} has no column 'text' in a split {split!r}; found {found}.")
    rows = found[split].select_columns("text")
    return lambda: (text for part in rows.iter(_ROWS_AT_A_TIME) for text in part["text"])


def _files_of_hub(spec: str, split: SplitName, data_dir: Path) -> hub.Files:
    name, config = HUB_CORPORA[spec]
    files = hub.find_files(data_dir, config, (split,))
    if not files:
        raise UsageError(
            f"{data_dir} has no {config}/{split}-*.parquet for the corpus {spec}; --data-dir takes a copy of the "
            f"repository {name} (hf download {name} --repo-type dataset --local-dir DIR). A folder of text files is a "
            f"corpus itself: --corpus {data_dir}."
        )
    return files


def _task_sentences(name: str, split: SplitName, data_dir: str | Path | None) -> Iterable[str]:
    """Return the texts of all columns of a task, row by row, without repeated texts."""
    from winning_tickets.data.loading import load_task

    data = load_task(name, data_dir)
    _without_test(f"task:{name}", split)
    parts = [data.train] if split == "train" else list(data.validation.values())
    rows = (row for part in parts for row in zip(*part.texts, strict=True))
    return dict.fromkeys(text for row in rows for text in row)


def _without_test(spec: str, split: SplitName) -> Literal["train", "validation"]:
    """Return the split of a corpus that has no test split; refuse `test`."""
    if split == "test":
        raise UsageError(f"The corpus {spec} has no test split; leave --split out.")
    return split


def _files(folder: Path, split: SplitName) -> list[Path]:
    """Return the folder's text files for a split, sorted by name."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in TEXT_SUFFIXES)
    if not files:
        raise ContentError(f"The folder {folder} holds no text file ({', '.join(TEXT_SUFFIXES)}).")
    kinds = {path: _split_of(path) for path in files}
    if not any(kinds.values()):
        return files
    return _of_split(folder, kinds, split)


def _of_split(folder: Path, kinds: Mapping[Path, str | None], split: SplitName, *, unnamed: bool = False) -> list[Path]:
    """Return the files of a split, also those that name none if `unnamed`; refuse a folder without any."""
    chosen = [path for path, kind in kinds.items() if kind == split or (unnamed and kind is None)]
    if not chosen:
        words = " or ".join(sorted(_SPLIT_WORDS[split]))
        found = listed([path.name for path in kinds])
        raise UsageError(f"The folder {folder} has no {split} file (a name with {words} in it); found {found}.")
    return chosen


def _split_of(path: Path) -> str | None:
    """Return the split that a file name states: `wiki.valid.tokens` does, `latest.txt` does not."""
    words = set(re.split(r"[^a-z]+", path.name.lower()))
    return next((split for split, marks in _SPLIT_WORDS.items() if words & marks), None)
