"""pydocs: a corpus and a task from the documentation in every Python installation."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from winning_tickets.data.readers import fingerprint
from winning_tickets.data.records import Split, TaskData
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import ContentError

MIN_WORDS = 8  # least words of a passage; shorter paragraphs are joined to the next one of the same docstring
SALT = 1356
"""Salt of the split, for which every label of the task has validation passages in both Python 3.11 and 3.13."""
MAX_PASSAGES = {"train": 120, "validation": 30}  # of one label, so that none dominates

# Modules of all of Python 3.11-3.14, except those that distributions leave out (test, tkinter, idlelib, ensurepip ...).
_NAMES = """
_collections_abc _compat_pickle _markupbase _pydecimal _pyio _strptime _weakrefset abc argparse ast asyncio base64 bdb
bisect bz2 cProfile calendar cmd code codecs codeop collections colorsys compileall concurrent configparser contextlib
copy copyreg csv ctypes curses dataclasses datetime dbm decimal difflib dis doctest email enum filecmp fileinput fnmatch
fractions ftplib functools genericpath getopt getpass gettext glob graphlib gzip hashlib heapq hmac html http imaplib
importlib inspect io ipaddress json keyword linecache locale logging lzma mailbox mimetypes modulefinder multiprocessing
netrc ntpath numbers opcode operator optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib
posixpath pprint profile pstats pty py_compile pyclbr pydoc queue quopri random re reprlib rlcompleter runpy sched
secrets selectors shelve shlex shutil signal site smtplib socket socketserver sqlite3 ssl stat statistics string
stringprep struct subprocess symtable sysconfig tabnanny tarfile tempfile textwrap threading timeit token tokenize
tomllib trace traceback tracemalloc tty turtle types typing unittest urllib uuid warnings wave weakref webbrowser
wsgiref xml xmlrpc zipapp zipfile zipimport zoneinfo
"""
MODULES: tuple[str, ...] = tuple(_NAMES.split())


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Passage:
    """A paragraph or two of documentation on one line, with its module (`topics` for topics) and top-level object."""

    text: str
    module: str
    owner: str

    @property
    def place(self) -> int:
        """A number that depends on the owner alone; it decides the split and the order of objects."""
        import xxhash

        return int(xxhash.xxh3_64_intdigest(f"{SALT}:{self.owner}".encode()))

    @property
    def split(self) -> Literal["train", "validation"]:
        """One object in ten is for validation."""
        return "validation" if self.place % 10 == 0 else "train"


@dataclass(frozen=True)
class StdlibText:
    """All passages, each text once, in a fixed order: topics, then modules by name."""

    # `missing` are the modules of `MODULES` (and `pydoc_data`) without source code in this installation.

    passages: tuple[Passage, ...]
    modules: tuple[str, ...]
    missing: tuple[str, ...]


@cache
def stdlib_text() -> StdlibText:
    """Read the text of the running Python."""
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = {name: _sources(root, name) for name in MODULES}
    topics = list(_topics(root / "pydoc_data" / "topics.py"))
    found = [name for name, files in sources.items() if files]
    if not found:
        raise ContentError(
            f"This Python has no source files of its standard library in {root}, so the built-in text pydocs cannot "
            "be read. Use a Python with them, or another corpus."
        )
    documented = (_docstrings(root, name, file) for name in found for file in sources[name])
    every = [*topics, *(passage for passages in documented for passage in passages)]
    first = {passage.text: passage for passage in reversed(every)}
    missing = [name for name in MODULES if not sources[name]] + ([] if topics else ["pydoc_data"])
    return StdlibText(tuple(p for p in every if first[p.text] is p), tuple(found), tuple(missing))


def _sources(root: Path, name: str) -> list[Path]:
    """Return the file of a module, or all files of a package except its tests."""
    if (root / name).is_dir():
        files = (root / name).rglob("*.py")
        return sorted(file for file in files if not {"test", "tests"} & set(file.relative_to(root).parts))
    file = root / f"{name}.py"
    return [file] if file.is_file() else []


def _topics(file: Path) -> Iterator[Passage]:
    if not file.is_file():
        return
    tree = ast.parse(file.read_bytes())
    values = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    for topic, text in sorted(ast.literal_eval(values[0]).items()):
        for passage in passages_of(text):
            yield Passage(passage, "topics", f"topics.{topic}")


def _docstrings(root: Path, module: str, file: Path) -> Iterator[Passage]:
    dotted = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    tree = ast.parse(file.read_bytes())
    for owner, node in [(dotted, tree), *_top_level(tree.body, dotted)]:
        for docstring in _inside(node):
            for passage in passages_of(docstring):
                yield Passage(passage, module, owner)


def _top_level(body: list[ast.stmt], dotted: str) -> Iterator[tuple[str, Documented]]:
    """Yield classes and functions of a module, those under a top-level `if` or `try` included."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{dotted}.{node.name}", node
        elif isinstance(node, ast.If | ast.Try):
            handlers = [child for handler in getattr(node, "handlers", []) for child in handler.body]
            yield from _top_level([*node.body, *handlers, *node.orelse], dotted)


def _inside(node: Documented) -> Iterator[str]:
    """Yield the docstrings of an object and of everything defined in it; for a module, only its own docstring."""
    within = [node] if isinstance(node, ast.Module) else ast.walk(node)
    for child in within:
        if isinstance(child, Documented) and (docstring := ast.get_docstring(child, clean=False)):
            yield docstring


def passages_of(docstring: str) -> list[str]:
    """Return paragraphs of a docstring as single lines, without examples, tables and grammar; short ones are joined."""
    passages: list[str] = []
    pending = ""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        if not _is_prose(paragraph):
            continue
        pending = " ".join([*pending.split(), *paragraph.split()])
        if len(pending.split()) >= MIN_WORDS:
            passages.append(pending)
            pending = ""
    if pending and passages:
        passages[-1] = f"{passages[-1]} {pending}"
    return passages


def _is_prose(paragraph: str) -> bool:
    if ">>>" in paragraph or "::=" in paragraph:
        return False
    words = paragraph.split()
    return 2 * sum(bool(re.search("[A-Za-z]{2}", word)) for word in words) > len(words)


def pydocs_corpus(part: str, split: Literal["train", "validation"]) -> list[str]:
    """Return the passages of a part of the corpus: `all`, `docstrings`, or `topics`, those of Python's `help()`."""
    # Objects are in a mixed but fixed order.
    chosen = [
        passage
        for passage in stdlib_text().passages
        if passage.split == split and (part == "all" or (passage.module == "topics") == (part == "topics"))
    ]
    return [passage.text for passage in sorted(chosen, key=lambda passage: passage.place)]


@cache
def pydocs_task() -> TaskData:
    """Return the built-in task: which module a docstring passage documents, with the module's name masked out."""
    # All passages of one top-level object are in one split, the same as in the corpus. Each label has at most
    # `MAX_PASSAGES`.
    task = TASKS["pydocs"]
    columns: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "validation": ([], [])}
    counts: Counter[tuple[str, str]] = Counter()
    seen: set[str] = set()
    for passage in sorted(stdlib_text().passages, key=lambda passage: passage.place):
        label = passage.module.removeprefix("_py")  # _pydecimal and _pyio are the sources of decimal and io
        text = _without_name(passage.text, label)
        full = counts[label, passage.split] >= MAX_PASSAGES[passage.split]
        if label not in task.labels or full or text in seen:
            continue
        seen.add(text)
        counts[label, passage.split] += 1
        texts, labels = columns[passage.split]
        texts.append(text)
        labels.append(task.labels.index(label))
    train, validation = (Split((texts,), labels) for texts, labels in columns.values())
    return TaskData.of(task, train, {"validation": validation}, "built in")


def _without_name(text: str, label: str) -> str:
    """Replace the name of the module by `it`, in capitals too: to most encoders JSON and json are one word."""
    return re.sub(rf"\b(_py)?{label}\b", "it", text, flags=re.IGNORECASE)


def pydocs_info() -> dict[str, Any]:
    """Describe the built-in text on this machine, which depends on the version of Python."""
    found, data = stdlib_text(), pydocs_task()
    return {
        "python_version": sys.version.split()[0],
        "text_hash": fingerprint(passage.text for passage in found.passages),
        "words": sum(len(passage.text.split()) for passage in found.passages),
        "passages": len(found.passages),
        "labels": list(data.task.labels),
        "train_examples": len(data.train),
        "validation_examples": len(data.validation["validation"]),
        "modules": list(found.modules),
        "missing": list(found.missing),
    }
