"""Tables of a study as grids of cells, published numbers beside ours; `grid_text` writes them down."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from winning_tickets.analysis.report import tables
from winning_tickets.studies.report.cells import (
    Cell,
    Key,
    condensed,
    form_of,
    group,
    label,
    make_cell,
    required,
    row_label,
    slug,
)
from winning_tickets.studies.report.observations import METRIC, Run, absent_note, chosen, observe, stages_of
from winning_tickets.studies.schema import Published, Study, Table

Form = Callable[[float], str]


@dataclass(frozen=True)
class Head:
    """A column of numbers.

    Attributes:
        label: heading.
        form: how its numbers are written.
        published: whether it holds the paper's numbers instead of ours.
        best: whether its largest or smallest mean is set in bold.
    """

    label: str
    form: Form
    published: bool = False
    best: str | None = None


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        name: of the table or figure.
        title: caption.
        axes: names of the columns that hold the rows' labels.
        rows: their labels.
        heads: the columns of numbers.
        cells: ours, by row and column; a place without planned runs has none.
        published: the paper's, by row and column.
        notes: sentences below.
        problems: what is wrong with its declaration.
        kind: `table`, or `figure` for what a figure draws.
    """

    name: str
    title: str
    axes: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    heads: tuple[Head, ...]
    cells: Mapping[tuple[int, int], Cell]
    published: Mapping[tuple[int, int], Published]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    kind: Literal["table", "figure"] = "table"

    @property
    def stem(self) -> str:
        """What its files and its places on the page are called."""
        return f"{self.kind}-{slug(self.name)}"

    def best(self) -> set[tuple[int, int]]:
        """Places in bold: the best mean of a column, over complete cells of at least two rows; ties are all bold."""
        found: set[tuple[int, int]] = set()
        for column, head in enumerate(self.heads):
            means = {
                row: cell.summary.mean
                for (row, at), cell in self.cells.items()
                if at == column and cell.summary is not None and not cell.partial
            }
            if head.best is None or len(means) < 2:
                continue
            top = max(means.values()) if head.best == "max" else min(means.values())
            found |= {(row, column) for row, mean in means.items() if head.form(mean) == head.form(top)}
        return found


def table_grid(study: Study, name: str, runs: Sequence[Run]) -> Grid:
    """One of the study's tables.

    Args:
        study: what declares it.
        name: of the table.
        runs: all planned runs of the study.
    """
    table = study.tables[name]
    own = chosen(runs, stages_of(table.stage), table.where)
    parts = [_part(table, text, path, own) for text, path in table.values.items()]
    keys = tuple(dict.fromkeys(key for part in parts for key in part.row_keys))
    columns = _columns(table, parts)
    cells = {
        (row, at): part.cells[key, column]
        for row, key in enumerate(keys)
        for at, (part, column, _) in enumerate(columns)
        if (key, column) in part.cells
    }
    heads = [head for _, _, head in columns]
    grid = Grid(
        name,
        table.title or name,
        table.rows,
        tuple(tuple(map(label, key)) for key in keys),
        tuple(heads),
        cells,
        {},
        tuple(_notes(table, list(cells.values()))),
        tuple(f"{name}: {text}" for part in parts if part.empty for text in absent_note(part.path, own)),
    )
    return with_published(grid, study.published)


@dataclass(frozen=True)
class _Part:
    """One value of a table: all its cells by row and column."""

    text: str
    path: str
    row_keys: tuple[Key, ...]
    column_keys: tuple[Key, ...]
    cells: Mapping[tuple[Key, Key], Cell]

    @property
    def empty(self) -> bool:
        """Whether no cell has a number."""
        return not any(cell.n for cell in self.cells.values())


MEAN: Key = ("mean over columns",)


def _part(table: Table, text: str, path: str, runs: Sequence[Run]) -> _Part:
    observations = observe(runs, path)
    axes = _column_axes(table, path)
    needed = required(observations, table.average)
    rows = group(observations, table.rows)
    columns = tuple(group(observations, axes)) if axes else ((),)
    cells = {
        (row, column): make_cell(inside, table.average, needed)
        for row, own in rows.items()
        for column, inside in (group(own, axes) if axes else {(): own}).items()
    }
    if table.mean_column:
        everything = (*table.average, *axes)
        all_of_them = required(observations, everything)
        cells |= {(row, MEAN): make_cell(own, everything, all_of_them) for row, own in rows.items()}
    cells = {place: condensed(cell, table.statistic) for place, cell in cells.items()}
    return _Part(text, path, tuple(rows), columns, cells)


def _column_axes(table: Table, path: str) -> tuple[str, ...]:
    """The table's own, and the metric where a path takes all of them and no other place does."""
    own = (table.columns,) if table.columns else ()
    apart = "*" in path.split(".") and METRIC not in (*own, *table.rows, *table.average)
    return (*own, METRIC) if apart else own


def _columns(table: Table, parts: Sequence[_Part]) -> list[tuple[_Part, Key, Head]]:
    keys = tuple(dict.fromkeys(key for part in parts for key in part.column_keys))
    found = []
    for key in (*keys, *((MEAN,) if table.mean_column else ())):
        for part in parts:
            if key != MEAN and key not in part.column_keys:
                continue
            words = [table.mean_column or ""] if key == MEAN else [label(value) for value in key if value is not None]
            if len(parts) > 1 or not words:
                words.append(part.text)
            found.append((part, key, Head(" ".join(words), form_of(part.path), best=table.best)))
    return found


def _notes(table: Table, cells: Sequence[Cell]) -> list[str]:
    notes = [_statistic_note(table, cells)] if cells else []
    if table.average:
        notes.append(f"Averaged over {' and '.join(table.average)} inside each repetition first.")
    if table.mean_column:
        notes.append(f"{table.mean_column}: the mean over the columns inside each repetition first.")
    return notes


def _statistic_note(table: Table, cells: Sequence[Cell]) -> str:
    if table.statistic == "mean":
        return cells_note(cells)
    word = {"median": "Median", "best": "Largest value", "std": "Standard deviation (ddof=1)"}[table.statistic]
    return f"{word} of the repetitions, once all of them are there."


def cells_note(cells: Sequence[Cell]) -> str:
    """How many repetitions the cells have."""
    numbers = sorted({cell.expected for cell in cells})
    each = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    partial = sum(cell.partial for cell in cells)
    repetitions = "repetition" if each == "1" else "repetitions"
    text = f"Mean ± standard deviation (ddof=1) of {each} {repetitions}"
    if partial:
        text += f"; {partial} of {len(cells)} cells are partial and say how many they have"
    return f"{text}."


def with_published(grid: Grid, published: Iterable[Published]) -> Grid:
    """The same grid with a column of the paper's numbers behind each of ours that the paper has numbers for."""
    rows = {row_label(labels): index for index, labels in enumerate(grid.rows)}
    columns = {head.label: index for index, head in enumerate(grid.heads)}
    found: dict[tuple[int, int], Published] = {}
    for one in published:
        place = (rows.get(label(one.row)), columns.get(label(one.column)))
        if one.of == grid.name and place[0] is not None and place[1] is not None:
            found[place[0], place[1]] = one
    if not found:
        return grid
    heads: list[Head] = []
    moved: dict[int, int] = {}
    for index, head in enumerate(grid.heads):
        moved[index] = len(heads)
        heads.append(head)
        if any(column == index for _, column in found):
            heads.append(Head(f"{head.label} (paper)", head.form, published=True))
    return replace(
        grid,
        heads=tuple(heads),
        cells={(row, moved[column]): cell for (row, column), cell in grid.cells.items()},
        published={(row, moved[column] + 1): one for (row, column), one in found.items()},
    )


def published_text(one: Published, form: Form) -> str:
    """A number of the paper."""
    return form(one.value) + ("" if one.std is None else f" ± {form(one.std)}")


def record(grid: Grid, row: int, column: int) -> dict[str, Any]:
    """A cell in long form, unrounded, for CSV and JSON."""
    cell = grid.cells[row, column]
    summary = cell.summary
    paper = grid.published.get((row, column + 1))
    return {
        **dict(zip(grid.axes, grid.rows[row], strict=True)),
        "column": grid.heads[column].label,
        "mean": None if summary is None else summary.mean,
        "std": None if summary is None else summary.std,
        "n": cell.n,
        "planned": cell.expected,
        "failed": cell.failed,
        "published": None if paper is None else paper.value,
        "published_std": None if paper is None else paper.std,
        "runs": " ".join(cell.run_ids),
    }


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
