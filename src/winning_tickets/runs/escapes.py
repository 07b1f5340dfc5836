"""Text from other people's files, made harmless for where it is shown: terminals and pages, Markdown, LaTeX, CSV.

Names, labels, columns and messages may come from anyone's ticket, table or study. Everything that is printed passes
through `printable`, so that such a text can neither end its line nor turn around or hide what follows it.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: controls, formats such as bidirectional overrides, surrogates, separators of lines."""


def printable(text: str) -> str:
    r"""Return a text as one harmless line: line breaks, controls and invisible formats become `\n`, `\x1b`, `\u202e`.

    A text that has been through this function stays as it is.
    """
    return _replaced(text, lambda letter: letter.encode("unicode_escape").decode("ascii"))


def printable_lines(text: str) -> str:
    """Return a text of several lines whose line breaks and tabs are our own, each line harmless."""
    if text.isprintable():
        return text
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def _replaced(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():  # true for nearly all texts, and much faster than the rest
        return text
    return "".join(escape(letter) if unicodedata.category(letter) in _UNSAFE else letter for letter in text)


def escaped(value: Any) -> Any:
    """Return a result in which all strings, also the keys, are `printable`; other values stay as they are."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {escaped(key): escaped(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(escaped, value)) if type(value) in (list, tuple) else value
    return value


def json_text(value: Any) -> str:
    """Return indented JSON that is harmless on a terminal and has the same values: what JSON leaves raw is escaped."""
    return "\n".join(
        _replaced(line, lambda letter: "\\u007f" if letter == "\x7f" else json.dumps(letter)[1:-1])
        for line in json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False).split("\n")
    )


def markdown_escape(text: str) -> str:
    """Return text that Markdown shows literally, in one line; the bars of tables are escaped where tables are made."""
    return re.sub(r"([\\`*_\[\]<>#~$])", r"\\\1", printable(" ".join(text.split()))).replace("&", "&amp;")


def markdown_cell(text: str) -> str:
    """Return text that Markdown shows literally, also in a cell of a table and where HTML is not sanitized."""
    plain = markdown_escape(text).replace("\\<", "&lt;").replace("\\>", "&gt;").replace("|", r"\|")
    return re.sub(r"(?<=[^\W_])\\_(?=[^\W_])", "_", plain)  # inside a word, as in kd_loss, it marks nothing


def markdown_code(text: str) -> str:
    """Return text as Markdown code, or escaped where code could end early or be taken for HTML."""
    plain = printable(text)
    return markdown_cell(plain) if re.search("[`<>&|]", plain) else f"`{plain}`"


def python_literal(value: Any) -> str:
    """Return an int, or a string in double quotes, as a literal of Python, also for code in a page."""
    if type(value) is int:
        return str(value)
    quoted = json.dumps(str(value), ensure_ascii=False).replace("<", r"\x3c")
    return printable(quoted)


def latex_escape(text: str) -> str:
    """Return text that LaTeX shows literally, in one line."""
    return "".join(_LATEX.get(letter, letter) for letter in printable(" ".join(text.split())))


_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "{}$&#%_"},
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "–": "--",
}


_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters of formulas; some spreadsheets take the wide forms too."""


def csv_cell(value: Any) -> Any:
    """Return the value of a cell: text that a spreadsheet would take for a formula gets a leading apostrophe.

    Numbers stay as they are, also negative ones and those that are written as text.
    """
    if not isinstance(value, str):
        return value
    plain = printable(value)
    return f"'{plain}" if value.lstrip().startswith(_FORMULA) and not _is_number(value) else plain


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
