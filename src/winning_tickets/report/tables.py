"""Tables: rows and columns as text, Markdown, LaTeX, CSV, HTML, or a data frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from winning_tickets.report.page import fill_template
from winning_tickets.runs.escapes import csv_cell, latex_escape, markdown_escape, printable

MISSING = "–"

Row = Mapping[str, Any]
Result = Mapping[str, Any]
Format = Callable[[Any], str]


def text(value: Any) -> str:
    """Return the value unchanged as text."""
    return str(value)


def percent(value: float) -> str:
    """Return a fraction between 0 and 1, times 100, with one decimal; the `z` turns -0.0 into 0.0."""
    return f"{100 * value:z.1f}"


def signed_percent(value: float) -> str:
    """Return a difference of fractions, times 100, with its sign."""
    return f"{100 * value:+.1f}"


def decimal(value: float) -> str:
    """Return a number with three decimals, for losses."""
    return f"{value:z.3f}"


def format_count(value: int) -> str:
    """Return a whole number with thousands separators."""
    return f"{value:,}"


def seconds(value: float) -> str:
    """Return a duration in whole seconds."""
    return f"{value:.0f} s"


def format_interval(interval: Sequence[float] | None, form: Format) -> str:
    """Return an interval in brackets."""
    return MISSING if interval is None else f"[{form(interval[0])}, {form(interval[1])}]"


@dataclass(frozen=True)
class Column:
    """A column of a table: the key of its values in a row, its heading, and the function that formats a value."""

    key: str
    title: str
    format: Format = text

    @property
    def numeric(self) -> bool:
        """Return True if the column has numbers (any format except `text`), which are aligned to the right."""
        return self.format is not text


def columns(form: Format = text, /, **titles: str) -> list[Column]:
    """Return columns with one format, given as `key=title`."""
    return [Column(key, title, form) for key, title in titles.items()]


@dataclass(frozen=True)
class Table:
    """A table; a value that is None or absent is shown as a dash."""

    rows: Sequence[Row]  # unrounded values by key
    columns: Sequence[Column]
    notes: Sequence[str] = ()  # sentences below the table
    title: str = ""  # caption of the table
    name: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()  # (row, column) of cells in bold
    further: Mapping[str, Table] = field(default_factory=dict)  # more tables by name, stored as `NAME.csv`
    unshown: Mapping[str, Table] = field(default_factory=dict)  # further tables that are too long for a terminal

    @property
    def label(self) -> str:
        """The label in LaTeX, without `tab:`."""
        return self.name

    def texts(self) -> list[list[str]]:
        """Return the formatted cells, by row, each in one harmless line."""
        return [
            [MISSING if row.get(c.key) is None else printable(c.format(row[c.key])) for c in self.columns]
            for row in self.rows
        ]

    def text(self) -> str:
        """Return the table, further tables and the notes for a terminal."""
        shown = [self._piped(printable)] if self.rows else []
        further = (f"{one.text()}\n" for one in self.further.values())
        return "\n".join([*shown, *further, *map(printable, self.notes)]).rstrip()

    def markdown(self) -> str:
        table = self._piped(markdown_escape).rstrip()
        return "\n\n".join([f"**{markdown_escape(self.title)}**", table, *map(markdown_escape, self.notes)]) + "\n"

    def _piped(self, escape: Format) -> str:
        """Return a Markdown table with aligned source text."""
        grid = [[escape(column.title) for column in self.columns], *self._marked(escape, "**{}**")]
        grid = [[cell.replace("|", "\\|") for cell in line] for line in grid]
        widths = [max(3, *map(len, cells)) for cells in zip(*grid, strict=True)]
        rule = [
            "-" * (width - 1) + ":" if column.numeric else "-" * width
            for column, width in zip(self.columns, widths, strict=True)
        ]
        lines = []
        for line in [grid[0], rule, *grid[1:]]:
            cells = zip(self.columns, line, widths, strict=True)
            padded = (cell.rjust(width) if column.numeric else cell.ljust(width) for column, cell, width in cells)
            lines.append(f"| {' | '.join(padded)} |")
        return "\n".join(lines) + "\n"

    def _marked(self, escape: Format, mark: str) -> list[list[str]]:
        """Return the escaped cells; bold cells are put into `mark`."""
        return [
            [mark.format(escape(cell)) if (row, at) in self.bold else escape(cell) for at, cell in enumerate(line)]
            for row, line in enumerate(self.texts())
        ]

    def latex(self) -> str:
        """Return a LaTeX `table` with booktabs rules; title and notes are its caption, its label begins with `tab:`."""
        import pandas as pd

        sentence = self.title if self.title.endswith((".", "?", "!")) else f"{self.title}."
        heads = [latex_escape(column.title) for column in self.columns]
        written: str = (
            pd.DataFrame(self._marked(latex_escape, r"\textbf{{{}}}"), columns=heads, dtype=object)
            .style.hide(axis="index")
            .to_latex(
                hrules=True,
                position_float="centering",
                caption=latex_escape(" ".join([sentence, *self.notes])),
                label=f"tab:{self.label}",
                column_format="".join("r" if column.numeric else "l" for column in self.columns),
            )
        )
        return written

    def html(self) -> str:
        return fill_template("table.html.j2", {"table": self})

    @property
    def keys(self) -> list[str]:
        return [column.key for column in self.columns]

    def records(self) -> list[dict[str, Any]]:
        return [{key: row.get(key) for key in self.keys} for row in self.rows]

    def to_frame(self) -> Any:
        """Return the records as a pandas data frame; numbers are unrounded and not multiplied by 100."""
        import pandas as pd

        return pd.DataFrame(self.records(), columns=self.keys, dtype=object)

    def csv(self) -> str:
        """Return the records as CSV, without formulas; an absent value is empty."""
        frame = self.to_frame().map(csv_cell).rename(columns=csv_cell)
        written: str = frame.to_csv(index=False, lineterminator="\n")
        return written
