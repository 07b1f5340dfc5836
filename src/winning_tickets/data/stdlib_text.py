"""Prose that every Python installation carries: docstrings of the standard library and the topics of `help()`.

Source files are read with `ast`; nothing is imported. What belongs to one top-level object (a class with its methods,
a function, a module's own docstring, a topic) goes to one split, so that nothing leaks from training to validation.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from winning_tickets.errors import ContentError

MIN_WORDS = 8
"""A passage has at least so many words; shorter paragraphs are joined to the next one of the same docstring."""

SALT = 1356
"""Of the split. Objects are few and large in some modules; with this one every label of the task pydocs has validation
passages, in Python 3.11 and 3.13 alike."""

# In all of Python 3.11-3.14, and not among those that distributions leave out (test, tkinter, idlelib, ensurepip ...).
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


@dataclass(frozen=True)
class Passage:
    """A paragraph or two of documentation.

    Attributes:
        text: on one line.
        module: the top-level module or package that it documents; a topic's is `topics`.
        owner: the top-level object, such as `email.message.Message`.
    """

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
    """All passages, each text once, in a fixed order: topics, then modules by name.

    Attributes:
        passages: from topics and docstrings.
        modules: the modules that were read.
        missing: those of `MODULES` (and `pydoc_data`) that this installation has no source of.
    """

    passages: tuple[Passage, ...]
    modules: tuple[str, ...]
    missing: tuple[str, ...]


@cache
def stdlib_text() -> StdlibText:
    """Read the text of the running Python.

    Raises:
        ContentError: this Python came without the source files of its standard library.
    """
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
    """A module's file, or all files of a package but its tests."""
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


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _top_level(body: list[ast.stmt], dotted: str) -> Iterator[tuple[str, Documented]]:
    """Classes and functions of a module, those under a top-level `if` or `try` included."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{dotted}.{node.name}", node
        elif isinstance(node, ast.If | ast.Try):
            handlers = [child for handler in getattr(node, "handlers", []) for child in handler.body]
            yield from _top_level([*node.body, *handlers, *node.orelse], dotted)


def _inside(node: Documented) -> Iterator[str]:
    """Docstrings of an object and of everything defined in it; of a module, its own alone."""
    within = [node] if isinstance(node, ast.Module) else ast.walk(node)
    for child in within:
        if isinstance(child, Documented) and (docstring := ast.get_docstring(child, clean=False)):
            yield docstring


def passages_of(docstring: str) -> list[str]:
    """Paragraphs of a docstring as single lines; examples, tables and grammar are left out, short ones joined."""
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
