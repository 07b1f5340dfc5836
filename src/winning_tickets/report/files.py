"""The files of a report: tables, figures and pages in the formats of `FORMATS`, and the folder of an analysis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from winning_tickets.report import figures
from winning_tickets.report.figures import Drawing, dark_svg, page_svg, printed
from winning_tickets.report.page import fill_template
from winning_tickets.report.tables import Result, Table
from winning_tickets.runs.errors import UsageError, foreign, unknown
from winning_tickets.runs.files import read_json, write_bytes, write_json
from winning_tickets.runs.locks import hold

FORMATS = ("md", "tex", "csv", "svg", "png", "pdf", "html")
"""What a report is written in: tables as md, tex and csv, figures as svg, png and pdf, and a page with all as html."""

FILE, PAGE = "analysis.json", "index.html"
_TABLES = ("table", "correlations", "grid", "cells", "used_by", "layers", "overlap", "structures")
_STEMS = (*_TABLES, "settings", "differences", "labels")
_NAMES = {
    *(FILE, PAGE, "figure-dark.svg"),
    *(f"{name}.{suffix}" for name in _STEMS for suffix in ("md", "tex", "csv")),
    *(f"figure.{suffix}" for suffix in figures.FORMATS),
}
"""All files that an analysis may write; nothing else in its folder is touched."""


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a format that is not in `FORMATS`, and none at all."""
    if not formats:
        raise UsageError(f"--formats names no format; give some of {', '.join(FORMATS)}.")
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)


def table_files(stem: str, table: Table, formats: Sequence[str]) -> dict[str, bytes]:
    """Return the files of a table by name, in those of the formats that are of tables."""
    writers = {"md": table.markdown, "tex": table.latex, "csv": table.csv}
    return {f"{stem}.{name}": write().encode() for name, write in writers.items() if name in formats}


def figure_formats(formats: Sequence[str]) -> list[str]:
    """Return the formats that a figure is drawn in, in the order of drawing; a page needs it as svg."""
    return [name for name in figures.FORMATS if name in formats or (name == "svg" and "html" in formats)]


def figure_files(stem: str, drawing: Mapping[str, bytes], formats: Sequence[str]) -> dict[str, bytes]:
    """Return the files of a figure by name, in those of the formats that are of figures; svg also for dark pages."""
    files = {f"{stem}.{name}": drawing[name] for name in figures.FORMATS if name in formats}
    if "svg" in formats:
        files[f"{stem}-dark.svg"] = dark_svg(drawing["svg"].decode()).encode()
    return files


def check_folder(out: Path | None) -> None:
    """Refuse, before any work, a folder that is not absent or empty and does not hold an analysis."""
    if out is None or not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a directory that is absent or empty.")
    # An analysis that was stopped while it was written lacks analysis.json; temporary files are hidden.
    if not (out / FILE).is_file() and any(one.name not in _NAMES for one in out.iterdir() if one.name[0] != "."):
        raise foreign(out, "an analysis")


def save_analysis(
    result: Result,
    views: tuple[Callable[[Result], Table], Callable[[Result], Drawing]],
    out: Path | str,
    formats: Sequence[str] = FORMATS,
    *,
    width: float | None = None,
    force: bool = False,
) -> list[Path]:
    """Write an analysis, `analysis.json` last; an equal analysis may be rewritten, `force` replaces another one.

    Args:
        result: the analysis, with its `kind`.
        views: the functions that make its table and its figure.
        out: a folder that is absent, empty or holds an analysis.
        formats: some of `FORMATS`.
        width: width of the figure in centimeters, as printed; None: as on a page.
        force: replace another analysis.
    """
    out = Path(out)
    check_formats(formats)
    check_folder(out)
    with hold(out):
        if (out / FILE).is_file() and not force:
            found: Any = read_json(out / FILE, "analysis")
            if found != json.loads(json.dumps(result)):
                kind = found.get("kind") if isinstance(found, dict) else "unknown"
                raise UsageError(
                    f"--out {out} holds another analysis ({kind}, from other files or settings); it was left "
                    "untouched. Give another directory, or --force to replace it."
                )
        content = _content(result, views, formats, width)
        for name in _NAMES - content.keys() - {FILE}:  # files of the analysis that is replaced, and other formats
            (out / name).unlink(missing_ok=True)
        for name, data in content.items():
            write_bytes(out / name, data)
        write_json(out / FILE, result)
    return [out / name for name in (*content, FILE)]


def _content(result: Result, views: Any, formats: Sequence[str], width: float | None) -> dict[str, bytes]:
    """Return the files of an analysis by name, without `analysis.json`."""
    made, draw = views[0](result), views[1]
    tables = dict(_titled(result["kind"], made))
    files = {name: data for stem, one in tables.items() for name, data in table_files(stem, one, formats).items()}
    if figure_formats(formats):
        with printed(width):
            drawing = draw(result)
        files |= figure_files("figure", drawing, formats)
    if "html" in formats:
        shown = [one for name, one in tables.items() if name not in made.unshown]
        values = {"kind": result["kind"], "tables": shown, "figure": page_svg(drawing["svg"].decode().strip())}
        files[PAGE] = fill_template("analysis.html.j2", values).encode()
    return files


def _titled(kind: str, table: Table) -> Iterator[tuple[str, Table]]:
    """Yield the tables of an analysis by the stems of their files, with titles and LaTeX labels."""
    title = kind.capitalize()
    yield "table", replace(table, title=table.title or title, name=kind)
    for name, one in {**table.further, **table.unshown}.items():
        yield name, replace(one, title=one.title or f"{title}: {name.replace('_', ' ')}", name=f"{kind}-{name}")
