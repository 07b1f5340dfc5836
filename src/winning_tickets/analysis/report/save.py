"""An analysis as files: `analysis.json`, `table.csv` and the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from winning_tickets.analysis.report.analysis_figures import figure
from winning_tickets.analysis.report.analysis_tables import table
from winning_tickets.analysis.report.figures import FORMATS
from winning_tickets.analysis.report.tables import Result
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.files import read_json, write_bytes, write_json

FILE = "analysis.json"
TABLE = "table.csv"
FIGURE = "figure"
_FURTHER = (
    *("correlations", "grid", "cells", "used_by", "layers", "overlap", "structures"),
    *("settings", "differences", "labels"),
)
_NAMES = {FILE, TABLE, *(f"{name}.csv" for name in _FURTHER), *(f"{FIGURE}.{suffix}" for suffix in FORMATS)}
"""All that an analysis may have written; nothing else in its folder is touched."""


def check_out(out: Path | None) -> None:
    """Make sure, before any work, that a folder is absent, empty or holds an analysis.

    Raises:
        UsageError: it is a file or holds something else.
    """
    if out is None or not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a directory that is absent or empty.")
    # One that was stopped while it was written lacks analysis.json; temporary files are hidden.
    if not (out / FILE).is_file() and any(one.name not in _NAMES for one in out.iterdir() if one.name[0] != "."):
        raise UsageError(
            f"--out {out} holds files that are not an analysis; it was left untouched. "
            "Give a directory that is absent or empty."
        )


def save(result: Result, out: Path | str, force: bool = False) -> list[Path]:
    """Write an analysis; the same one may be written again, since the files come out byte for byte the same.

    Args:
        result: what a function of `ANALYSES` returned.
        out: a folder that is absent or empty, or holds this very analysis.
        force: replace another analysis in `out`.

    Returns:
        The files; `analysis.json` is written last.

    Raises:
        UsageError: `out` holds another analysis (without `force`) or something else; it was left untouched.
        TrainingError: the file system refused.
    """
    out = Path(out)
    check_out(out)
    if (out / FILE).is_file() and not force:
        found: Any = read_json(out / FILE, "analysis")
        if found != _plain(result):
            kind = found.get("kind") if isinstance(found, dict) else "unknown"
            raise UsageError(
                f"--out {out} holds another analysis ({kind}, from other files or settings); it was left untouched. "
                "Give another directory, or --force to replace it."
            )
    made, drawn = table(result), figure(result)
    content = {TABLE: made.csv().encode()}
    content |= {f"{name}.csv": one.csv().encode() for name, one in {**made.further, **made.unshown}.items()}
    content |= {f"{FIGURE}.{suffix}": drawn[suffix] for suffix in FORMATS}
    for name in _NAMES - content.keys() - {FILE}:  # of the analysis that is replaced
        (out / name).unlink(missing_ok=True)
    for name, data in content.items():
        write_bytes(out / name, data)
    write_json(out / FILE, result)
    return [out / name for name in (*content, FILE)]


def _plain(value: Any) -> Any:
    """As it comes back from JSON: tuples are lists there."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
