"""An empty figure that becomes PNG, SVG and PDF: the same drawing gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from winning_tickets.report.figures import STYLE, clean_svg

FORMATS = ("png", "svg", "pdf")
_DPI = 160
# Dates and names of programs would make the bytes of each run others.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@contextmanager
def canvas(
    width: float, height: float, salt: str, formats: Sequence[str] = FORMATS
) -> Iterator[tuple[Any, dict[str, bytes]]]:
    """An empty figure of so many inches, and the files that it is written to when the block is left."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    made: dict[str, bytes] = {}
    with mpl.rc_context(STYLE | {"svg.hashsalt": salt, "pdf.fonttype": 42}):
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing, made
        for suffix in formats:
            buffer = io.BytesIO()
            drawing.savefig(buffer, format=suffix, dpi=_DPI, metadata=_METADATA[suffix])
            made[suffix] = buffer.getvalue()
    if "svg" in made:
        made["svg"] = (clean_svg(made["svg"].decode()) + "\n").encode()
