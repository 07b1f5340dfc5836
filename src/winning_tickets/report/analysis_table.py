"""What the table of an analysis consists of: rows, columns, notes and further tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from winning_tickets.report import tables
from winning_tickets.report.tables import Column, Row

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
        shown = [tables.markdown(self.rows, self.columns)] if self.rows else []
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
