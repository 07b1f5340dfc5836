"""A grid as Markdown, LaTeX (booktabs) or CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable

from winning_tickets.report import tables
from winning_tickets.report.study.cells import slug
from winning_tickets.report.study.grids import Grid, published_text, record

_MARKDOWN = re.compile(r"([\\`*_\[\]<>#~$])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    tables.MISSING: "--",
}


def markdown_escape(text: str) -> str:
    """Text that Markdown shows as it is; the bar of tables is escaped where tables are written."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def latex_escape(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def texts(grid: Grid) -> list[list[str]]:
    """What stands in each place of the columns of numbers; empty where no run is planned."""
    lines = []
    for row in range(len(grid.rows)):
        line = []
        for column, head in enumerate(grid.heads):
            if head.published:
                paper = grid.published.get((row, column))
                line.append("" if paper is None else published_text(paper, head.form))
            else:
                cell = grid.cells.get((row, column))
                line.append("" if cell is None else cell.text(head.form))
        lines.append(line)
    return lines


def markdown(grid: Grid) -> str:
    """The title, the table and the notes, for GitHub and the like."""
    best = grid.best()
    columns = [tables.Column(f"axis {i}", markdown_escape(axis)) for i, axis in enumerate(grid.axes)]
    # Any format but `text` makes a column of numbers, which is aligned to the right.
    columns += [tables.Column(f"{i}", markdown_escape(head.label), _as_it_is) for i, head in enumerate(grid.heads)]
    rows = []
    for row, (labels, line) in enumerate(zip(grid.rows, texts(grid), strict=True)):
        content = {f"axis {i}": markdown_escape(label) for i, label in enumerate(labels)}
        for column, text in enumerate(line):
            content[str(column)] = f"**{text}**" if (row, column) in best else text
        rows.append(content)
    parts = [f"**{markdown_escape(grid.title)}**", tables.markdown(rows, columns).rstrip()]
    return "\n\n".join([*parts, *map(markdown_escape, grid.notes)]) + "\n"


def _as_it_is(value: str) -> str:
    return value


def latex(grid: Grid) -> str:
    """A `table` with the rules of booktabs; the label is `tab:` and the name."""
    best = grid.best()
    heads = [*grid.axes, *(head.label for head in grid.heads)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_escape(' '.join([_sentence(grid.title), *grid.notes]))}}}",
        rf"\label{{tab:{slug(grid.name)}}}",
        rf"\begin{{tabular}}{{{'l' * len(grid.axes)}{'r' * len(grid.heads)}}}",
        r"\toprule",
        _latex_line(heads, latex_escape),
        r"\midrule",
    ]
    for row, (labels, line) in enumerate(zip(grid.rows, texts(grid), strict=True)):
        written = [latex_escape(label) for label in labels]
        for column, text in enumerate(line):
            content = latex_escape(text)
            written.append(rf"\textbf{{{content}}}" if (row, column) in best else content)
        lines.append(_latex_line(written, str))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _latex_line(cells: list[str], escape: Callable[[str], str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def csv_text(grid: Grid) -> str:
    """One line a cell, unrounded and not times 100; an absent number is empty."""
    keys = [*grid.axes, *_NUMBERS]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(keys)
    for place in sorted(grid.cells):
        content = record(grid, *place)
        writer.writerow(["" if content[key] is None else content[key] for key in keys])
    return buffer.getvalue()


_NUMBERS = ("column", "mean", "std", "n", "planned", "failed", "published", "published_std", "runs")
