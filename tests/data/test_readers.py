"""Tables as spreadsheets write them: separators, quotes that are not closed, decimal commas."""

from __future__ import annotations

from pathlib import Path

import pytest

from winning_tickets.data.readers import csv_rows, tsv_rows
from winning_tickets.data.user_files import load_files
from winning_tickets.runs.errors import ContentError

COMMAS = 'text,label\n"good, and long",yes\nbad,no\n'


def put(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "content",
    [
        "text;label\ngood, and long;yes\nbad;no\n",
        'text;label\r\n"good, and long";yes\r\nbad;no\r\n',
        "text\tlabel\ngood, and long\tyes\nbad\tno\n",
        "text|label\ngood, and long|yes\nbad|no\n",
        "sep=;\ntext;label\ngood, and long;yes\nbad;no\n",
        "\ufeffsep=,\r\n" + COMMAS.replace("\n", "\r\n"),
    ],
)
def test_separators_are_found(tmp_path: Path, content: str) -> None:
    expected = [cells for _, cells in csv_rows(put(tmp_path, "a.csv", COMMAS))]
    assert [cells for _, cells in csv_rows(put(tmp_path, "b.csv", content))] == expected
    assert load_files(tmp_path / "b.csv", tmp_path / "a.csv", None).train.labels == [1, 0]


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("text,label\na;b;c,yes\nd;e,no\n", ["text", "label"]),
        ("text\na;b\nc;d\n", ["text"]),
        ("id;text\n", ["id", "text"]),
        ("a;b,c\n1,2\n3,4\n", ["a;b", "c"]),
    ],
)
def test_commas_stay_separators(tmp_path: Path, content: str, columns: list[str]) -> None:
    rows = list(csv_rows(put(tmp_path, "a.csv", content)))
    assert all(list(cells) == columns for _, cells in rows)


def test_a_short_row_names_line_and_separator(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match=r"line 4: found 1 columns, expected 2 \(text, label\), separated by ';'"):
        list(csv_rows(put(tmp_path, "a.csv", "text;label\na;b\nc;d\ne\n")))


@pytest.mark.parametrize(("separator", "name"), [(",", "','"), (";", "';'")])
def test_a_tsv_without_tabs_names_its_separator(tmp_path: Path, separator: str, name: str) -> None:
    path = put(tmp_path, "a.tsv", f"text{separator}label\na{separator}b\n")
    with pytest.raises(ContentError, match=rf"has no tab, and its cells seem to be separated by {name}; give it .*csv"):
        list(tsv_rows(path))


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (['"good film,yes', *["fine,no"] * 30], 2),
        (["bad,no", "bad,no", 'a,"yes', *["fine,no"] * 9], 4),
        (["bad,no", '"good film,yes', "fine,no", 'old,"quoted"', "fine,no"], 3),
        (['"two\nlines ""and"" quotes",yes', "bad,no", '"good film,yes', "fine,no"], 5),
        (['"two\nlines","ye"s\n"', "fine,no"], 3),
        (['"one"two,yes'], 2),
    ],
)
def test_a_quote_that_is_not_closed_is_reported_where_it_opens(tmp_path: Path, rows: list[str], line: int) -> None:
    path = put(tmp_path, "a.csv", "text,label\n" + "\n".join(rows) + "\n")
    with pytest.raises(ContentError, match=rf"a\.csv, line {line}: not valid csv"):
        list(csv_rows(path))
