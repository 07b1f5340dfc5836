"""Tables: the same rows and columns as Markdown, for a terminal, or as cells of an HTML table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

MISSING = "–"  # noqa: RUF001 - an en dash is what printed tables show for "not measured"

Row = Mapping[str, Any]
Format = Callable[[Any], str]


def text(value: Any) -> str:
    """The value as it is."""
    return str(value)


def percent(value: float) -> str:
    """A fraction between 0 and 1, times 100, with one decimal."""
    return f"{100 * value:.1f}"


def decimal(value: float) -> str:
    """A number with three decimals, for losses."""
    return f"{value:.3f}"


def count(value: int) -> str:
    """A whole number."""
    return f"{value:,}"


def seconds(value: float) -> str:
    """A duration in whole seconds."""
    return f"{value:.0f} s"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: where the value is in a row.
        title: the heading.
        format: how a value is written; everything but `text` is a number and is aligned to the right.
    """

    key: str
    title: str
    format: Format = text

    @property
    def numeric(self) -> bool:
        """Whether the column holds numbers."""
        return self.format is not text


def cells(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[str]]:
    """What is written into each cell; a value that is absent or None becomes a dash."""
    return [[MISSING if row.get(c.key) is None else c.format(row[c.key]) for c in columns] for row in rows]


def markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """A Markdown table, with aligned source text.

    Args:
        rows: one mapping a row; keys without a column are ignored.
        columns: what is shown, from left to right.
    """
    grid = [[column.title for column in columns], *cells(rows, columns)]
    grid = [[cell.replace("|", "\\|") for cell in line] for line in grid]
    widths = [max(3, *(len(line[i]) for line in grid)) for i in range(len(columns))]
    lines = []
    for line in grid:
        padded = (
            cell.rjust(width) if column.numeric else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        lines.append(f"| {' | '.join(padded)} |")
    rule = (
        "-" * (width - 1) + ":" if column.numeric else "-" * width
        for width, column in zip(widths, columns, strict=True)
    )
    lines.insert(1, f"| {' | '.join(rule)} |")
    return "\n".join(lines) + "\n"


def console(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """The same table for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for index, column in enumerate(columns):
        table.add_column(column.title, justify="right" if column.numeric else "left", no_wrap=index == 0)
    for line in cells(rows, columns):
        # As Text, so that square brackets in a cell are not read as markup.
        table.add_row(*(Text(cell) for cell in line))
    return table


Result = Mapping[str, Any]


@dataclass(frozen=True)
class AnalysisTable:
    """The table of an analysis.

    Attributes:
        rows: one mapping a row; `table.csv` has them unrounded.
        columns: what is shown, and how it is rounded for people.
        notes: sentences below the table.
        further: more tables by name, stored as `NAME.csv`.
        unshown: the same, but too long for a terminal.
    """

    rows: Sequence[Row]
    columns: Sequence[Column]
    notes: Sequence[str] = ()
    further: Mapping[str, AnalysisTable] = field(default_factory=dict)
    unshown: Mapping[str, AnalysisTable] = field(default_factory=dict)

    def text(self) -> str:
        """For a terminal: Markdown, further tables, then the notes."""
        shown = [markdown(self.rows, self.columns)] if self.rows else []
        return "\n".join([*shown, *(f"{one.text()}\n" for one in self.further.values()), *self.notes]).rstrip()

    def csv(self) -> str:
        """The same rows and columns as CSV, numbers unrounded and not times 100; an absent value is empty."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        writer.writerows(
            ["" if row.get(column.key) is None else row[column.key] for column in self.columns] for row in self.rows
        )
        return buffer.getvalue()
