"""The table and the figure of each analysis, and the folder with both: `analysis.json`, CSV files, and the figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from winning_tickets.report.figures import FORMATS, Drawing
from winning_tickets.report.overlap import similarity_figure, similarity_table
from winning_tickets.report.tables import Result, Table
from winning_tickets.runs.errors import UsageError, foreign
from winning_tickets.runs.files import read_json, write_bytes, write_json
from winning_tickets.runs.locks import hold
from winning_tickets.studies.analysis.report import cards, distance, gain, predictors, sharing, winning

REPORTS: dict[str, tuple[Callable[[Result], Table], Callable[[Result], Drawing]]] = {
    "similarity": (similarity_table, similarity_figure),
    "distance": (distance.distance_table, distance.distance_figure),
    "predictors": (predictors.predictors_table, predictors.predictors_figure),
    "gain": (gain.gain_table, gain.gain_figure),
    "winning": (winning.winning_table, winning.winning_figure),
    "sharing": (sharing.sharing_table, sharing.sharing_figure),
    "cards": (cards.cards_table, cards.cards_figure),
}
"""The functions that make the table and the figure of each analysis, by its kind."""

FILE = "analysis.json"
_TABLES = ("table", "correlations", "grid", "cells", "used_by", "layers", "overlap", "structures")
_NAMES = {
    FILE,
    *(f"{name}.csv" for name in (*_TABLES, "settings", "differences", "labels")),
    *(f"figure.{suffix}" for suffix in FORMATS),
}
"""All files that an analysis may write; nothing else in its folder is touched."""


def analysis_table(result: Result) -> Table:
    """Return the table of an analysis, from the result of a function of `ANALYSES`."""
    return REPORTS[result["kind"]][0](result)


def figure(result: Result) -> Drawing:
    """Return the figure of an analysis: the bytes of a file for each of `FORMATS`."""
    return REPORTS[result["kind"]][1](result)


def check_out(out: Path | None) -> None:
    """Refuse, before any work, a folder that is not absent or empty and does not hold an analysis."""
    if out is None or not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a directory that is absent or empty.")
    # An analysis that was stopped while it was written lacks analysis.json; temporary files are hidden.
    if not (out / FILE).is_file() and any(one.name not in _NAMES for one in out.iterdir() if one.name[0] != "."):
        raise foreign(out, "an analysis")


def save(result: Result, out: Path | str, *, force: bool = False) -> list[Path]:
    """Write an analysis, `analysis.json` last; an equal analysis may be rewritten, `force` replaces another one."""
    out = Path(out)
    check_out(out)
    with hold(out):
        return _save(result, out, force=force)


def _save(result: Result, out: Path, *, force: bool) -> list[Path]:
    if (out / FILE).is_file() and not force:
        found: Any = read_json(out / FILE, "analysis")
        if found != json.loads(json.dumps(result)):
            kind = found.get("kind") if isinstance(found, dict) else "unknown"
            raise UsageError(
                f"--out {out} holds another analysis ({kind}, from other files or settings); it was left untouched. "
                "Give another directory, or --force to replace it."
            )
    made, drawn = analysis_table(result), figure(result)
    tables = {"table": made, **made.further, **made.unshown}
    content = {f"{name}.csv": one.csv().encode() for name, one in tables.items()}
    content |= {f"figure.{suffix}": drawn[suffix] for suffix in FORMATS}
    for name in _NAMES - content.keys() - {FILE}:  # files of the analysis that is replaced
        (out / name).unlink(missing_ok=True)
    for name, data in content.items():
        write_bytes(out / name, data)
    write_json(out / FILE, result)
    return [out / name for name in (*content, FILE)]
