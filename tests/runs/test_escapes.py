"""Escapes: no text of a stranger ends its line, hides what follows, becomes markup or a formula; plain text stays."""

import ast
import json
import unicodedata

import yaml
from hypothesis import given
from hypothesis import strategies as st

from winning_tickets.report.tables import Table, columns
from winning_tickets.runs import escapes
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.cards import front_matter

UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
NASTY = st.text(st.characters() | st.sampled_from("\n\r\t\x1b\u202e\u200b\u2028\ud800\U000e0001<>&`|*_[]\"'\\=+-@#"))


def unsafe(text):
    return [letter for letter in text if unicodedata.category(letter) in UNSAFE]


@given(NASTY)
def test_printed_text_is_one_harmless_line(text):
    shown = escapes.printable(text)
    assert not unsafe(shown)
    assert escapes.printable(shown) == shown
    assert shown == text or unsafe(text)
    assert not unsafe(escapes.printable_lines(text).replace("\n", "").replace("\t", ""))
    error = UsageError(text, "second")
    assert str(error).count("\n") == 1
    assert not unsafe(str(error).replace("\n", ""))
    assert str(UsageError(*error.lines)) == str(error)


@given(NASTY)
def test_values_survive_json_yaml_and_code(text):
    written = escapes.json_text({"name": text})
    assert json.loads(written) == {"name": text}
    assert not unsafe(written.replace("\n", ""))
    metadata = front_matter({"base": text})
    assert yaml.safe_load(metadata) == {"base": escapes.printable(text)}
    assert "<" not in metadata
    code = escapes.python_literal(escapes.printable(text))
    assert ast.literal_eval(code) == escapes.printable(text)
    assert "<" not in code
    assert "\n" not in code


@given(NASTY)
def test_marks_are_literal(text):
    cell = escapes.markdown_cell(text)
    assert not unsafe(cell)
    assert "<" not in cell
    for mark in "`*[|#":
        assert all(cell[at - 1] == "\\" for at, letter in enumerate(cell) if letter == mark)
    latex = escapes.latex_escape(text)
    assert not unsafe(latex)
    for mark in "%&#_":
        assert all(latex[at - 1] == "\\" for at, letter in enumerate(latex) if letter == mark)


@given(NASTY | st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_no_cell_is_a_formula(value):
    written = str(escapes.csv_cell(value))
    if isinstance(value, str):
        assert not written.startswith(("=", "@", "+", "-", "\t", "\r")) or float(value) is not None
        assert not unsafe(written)
    else:
        assert written == str(value)


def test_tables_guard_text_and_keep_numbers():
    row = {"name": "=HYPERLINK(1)", "change": -0.5, "label": "-1", "note": "-x\ny"}
    text = Table([row], columns(name="=Name", change="Change", label="Label", note="@Note")).csv()
    assert text == "name,change,label,note\n'=HYPERLINK(1),-0.5,-1,'-x\\ny\n"
