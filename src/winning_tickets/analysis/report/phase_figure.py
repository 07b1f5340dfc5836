"""The phase transition: score against the weight that remains (Super Tickets, Figures 1, 4, 5 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winning_tickets.analysis.report.figures import BLUE, FORMATS, GREEN, GRID, INK, ORANGE, PALETTE, canvas
from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.files import write_bytes
from winning_tickets.runs.statistics import summarise


@dataclass(frozen=True)
class PhasePoint:
    """The scores of one ticket, or of the full model.

    Attributes:
        remaining: weight that remains, in (0, 1]; 1 for the full model.
        scores: one a seed, 0-1.
    """

    remaining: float
    scores: Sequence[float]


@dataclass(frozen=True)
class _Look:
    color: str
    marker: str
    line: Any


# Markers and dashes tell the selections apart on paper without colours; the colours are the paper's.
_LOOKS = {
    "winning": _Look(BLUE, "o", "-"),
    "random": _Look(ORANGE, "s", (0, (5, 2))),
    "losing": _Look(GREEN, "^", (0, (1, 1.4))),
}
_OTHERS = "Dv<>*XP"


def phase_figure(
    curves: Mapping[str, Sequence[PhasePoint]], full: PhasePoint, metric: str, path: Path | str, title: str = ""
) -> list[Path]:
    """Draw the curves of several ways to select tickets, and write PNG, SVG and PDF.

    Each curve is the mean over seeds inside a band of one standard deviation (ddof=1), and begins at the full model,
    which is what a ticket that prunes nothing is; a dashed line carries on its mean.

    Args:
        curves: by selection (`winning`, `random`, `losing`, or names of your own): a point for each ticket, any order.
        full: the full model.
        metric: name of the scores, for the axis.
        path: of the files, without their endings.
        title: what is shown, such as the task and the model.

    Returns:
        The files that were written, in the order of `FORMATS`.

    Raises:
        ContentError: no curve, a share outside (0, 1], or a score that is missing or not finite.
        TrainingError: the file system refused.
    """
    _check(curves, full)
    path = Path(path)
    with canvas(5.6, 4.0, f"phases {title}") as (drawing, made):
        axes = drawing.add_subplot()
        _full_model(axes, full)
        others = iter(range(len(curves)))
        for name, points in curves.items():
            _curve(axes, name, points, full, _LOOKS.get(name) or _other(next(others)))
        lowest = min(point.remaining for points in curves.values() for point in points)
        axes.set_xlim(102.0, max(0.0, 100 * lowest - 2.0))
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_xlabel("weight remaining (%)")
        axes.set_ylabel(f"{metric} (x 100)")
        axes.set_title(title)
        drawing.legend(loc="outside lower center", ncols=len(curves) + 1, frameon=False, fontsize=9)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in FORMATS]
    for file, suffix in zip(files, FORMATS, strict=True):
        write_bytes(file, made[suffix])
    return files


def _check(curves: Mapping[str, Sequence[PhasePoint]], full: PhasePoint) -> None:
    if not any(curves.values()):
        raise ContentError("There is no ticket to draw; give one or more points for winning, random or losing tickets.")
    for point in [full, *(point for points in curves.values() for point in points)]:
        if not 0 < point.remaining <= 1:
            raise ContentError(
                f"Found {point.remaining} as the weight that remains; expected a fraction above 0 and up to 1."
            )


def _other(index: int) -> _Look:
    return _Look(PALETTE[(index + 3) % len(PALETTE)], _OTHERS[index % len(_OTHERS)], (0, (4, 1, 1, 1)))


def _full_model(axes: Any, full: PhasePoint) -> None:
    summary = summarise(full.scores)
    axes.axhline(100 * summary.mean, color=INK, linewidth=1.2, linestyle=(0, (5, 3)), label="full model")
    if summary.std is not None:
        low, high = (100 * (summary.mean + sign * summary.std) for sign in (-1, 1))
        axes.axhspan(low, high, color=GRID, alpha=0.6, linewidth=0)


def _curve(axes: Any, name: str, points: Sequence[PhasePoint], full: PhasePoint, look: _Look) -> None:
    start = [] if any(point.remaining == 1 for point in points) else [PhasePoint(1.0, full.scores)]
    ordered = sorted([*start, *points], key=lambda point: -point.remaining)
    summaries = [summarise(point.scores) for point in ordered]
    x = [100 * point.remaining for point in ordered]
    mean = [100 * one.mean for one in summaries]
    std = [100 * (one.std or 0.0) for one in summaries]
    low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)
    # The full model is no ticket of this selection and gets no marker.
    marked = slice(len(start), None)
    style = {"color": look.color, "linestyle": look.line, "linewidth": 1.8, "marker": look.marker, "markersize": 5.5}
    axes.plot(x, mean, markevery=marked, label=name, **style)
