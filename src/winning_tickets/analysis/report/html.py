"""One self-contained HTML page: text, tables, facts and inline SVG; no script, no download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winning_tickets.analysis.report.tables import Column, Row, cells

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        caption: what it shows, and in which units.
        rows: one mapping a row; the first column is the row's heading.
        columns: what is shown.
    """

    caption: str
    rows: Sequence[Row]
    columns: Sequence[Column]

    @property
    def lines(self) -> list[list[str]]:
        """What is written into each cell."""
        return cells(self.rows, self.columns)


@dataclass(frozen=True)
class Figure:
    """A figure of a page.

    Attributes:
        svg: an `<svg>` element made by `report.figures`; it goes into the page as it is.
        alt: what a reader who cannot see it should know.
        caption: the text below it.
    """

    svg: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A section of a page, shown in the order of its fields.

    Attributes:
        title: the heading.
        text: paragraphs, separated by blank lines.
        table: one table.
        figures: any number of figures.
        points: a bulleted list.
        facts: names and values.
    """

    title: str
    text: str = ""
    table: Table | None = None
    figures: tuple[Figure, ...] = ()
    points: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs of `text`."""
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]


def render(title: str, summary: str, sections: Sequence[Section]) -> str:
    """A whole HTML page; every text is escaped.

    Args:
        title: heading and title of the page.
        summary: one paragraph at the top.
        sections: the rest, in order.
    """
    return fill("report.html.j2", {"title": title, "summary": summary, "sections": sections})


def fill(template: str, values: Mapping[str, Any]) -> str:
    """A template of ours with its values; every text is escaped.

    Args:
        template: name of a file in `templates`.
        values: what it shows; `svg` in it takes an `<svg>` element as it is.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([_TEMPLATES, _TEMPLATES.parents[2] / "studies/report/templates"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render({**values, "svg": Markup})
