"""Figures as SVG text, drawn with Matplotlib's object interface: never pyplot, nothing kept between calls.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; text stays text; the same data gives the
same bytes.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)

INK, GRID = "#333333", "#DDDDDD"
_SIZE = (7.2, 3.9)  # inches; 518 points wide, which a page of text holds at 100 %
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        name: label at the end of the line; empty for a line without label.
        x: positions.
        y: values, as many as positions.
        color: hexadecimal; empty takes the palette's next.
        faint: drawn thin and pale, for raw values behind a smoothed line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = ""
    faint: bool = False


@dataclass(frozen=True)
class Bars:
    """One set of bars, a value for each group.

    Attributes:
        name: in the legend.
        values: one a group; None leaves a gap.
        errors: half-lengths of error bars, where there are any.
        color: hexadecimal; empty takes the palette's next.
    """

    name: str
    values: Sequence[float | None]
    errors: Sequence[float | None] | None = None
    color: str = ""


@dataclass(frozen=True)
class Point:
    """A labelled point."""

    name: str
    x: float
    y: float


def line_chart(
    series: Sequence[Series], xlabel: str, ylabel: str, title: str, levels: Mapping[str, float] | None = None
) -> str:
    """Lines over a common axis, each labelled at its end.

    Args:
        series: the lines.
        xlabel: name and unit of the positions.
        ylabel: name and unit of the values; the axis starts at zero, as that of the positions does.
        title: what is shown.
        levels: dashed horizontal lines by name.

    Returns:
        An `<svg>` element.
    """
    with _canvas(title, xlabel, ylabel) as (figure, axes, done):
        ends: list[tuple[float, float, str, str]] = []
        for one, color in zip(series, _colors([one.color for one in series]), strict=True):
            width, alpha = (0.9, 0.4) if one.faint else (2.0, 1.0)
            axes.plot(one.x, one.y, color=color, linewidth=width, alpha=alpha, solid_joinstyle="round")
            if not one.faint and len(one.x):
                axes.plot([one.x[-1]], [one.y[-1]], "o", color=color, markersize=5, clip_on=False)
                ends.append((one.x[-1], one.y[-1], one.name, color))
        positions = [x for one in series for x in one.x] or [1.0]
        right = max(positions)
        for name, value in (levels or {}).items():
            axes.axhline(value, color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
            ends.append((right, value, name, INK))
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, low), high)
        axes.set_xlim(min(0.0, *positions), right)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        _label_ends(figure, axes, [end for end in ends if end[2]])
    return done()


def bar_chart(groups: Sequence[str], bars: Sequence[Bars], xlabel: str, ylabel: str, title: str) -> str:
    """Grouped bars with their values written above them.

    Args:
        groups: names along the horizontal axis.
        bars: sets of bars; a legend is drawn where there are several.
        xlabel: name of the groups.
        ylabel: name and unit of the values.
        title: what is shown.

    Returns:
        An `<svg>` element.
    """
    width = 0.8 / max(1, len(bars))
    decimals = _decimals([value for one in bars for value in one.values if value is not None])
    with _canvas(title, xlabel, ylabel) as (_, axes, done):
        for index, (one, color) in enumerate(zip(bars, _colors([one.color for one in bars]), strict=True)):
            shift = (index - (len(bars) - 1) / 2) * width
            errors = one.errors or [None] * len(one.values)
            label = one.name
            for group, (value, error) in enumerate(zip(one.values, errors, strict=True)):
                if value is None:
                    continue
                axes.bar(
                    group + shift, value, 0.92 * width, color=color, label=label, yerr=error, capsize=3, ecolor=INK
                )
                label = "_nolegend_"
                above = max(value + (error or 0.0), 0.0)
                axes.annotate(
                    f"{value:.{decimals}f}",
                    (group + shift, above),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                )
        axes.set_xticks(range(len(groups)), [textwrap.fill(group, 12, break_long_words=False) for group in groups])
        axes.tick_params(axis="x", length=0)
        axes.margins(y=0.12)
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, low), high)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        if len(bars) > 1:
            axes.legend(frameon=False, ncols=len(bars), loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return done()


def scatter(points: Sequence[Point], xlabel: str, ylabel: str, title: str) -> str:
    """Points with their names beside them.

    Args:
        points: what is shown; the axes fit them and need not start at zero.
        xlabel: name and unit of the horizontal axis.
        ylabel: name and unit of the vertical axis.
        title: what is shown.

    Returns:
        An `<svg>` element.
    """
    with _canvas(title, xlabel, ylabel) as (_, axes, done):
        for point, color in zip(points, _cycle(len(points)), strict=True):
            axes.plot([point.x], [point.y], "o", color=color, markersize=7)
            axes.annotate(point.name, (point.x, point.y), (7, 4), textcoords="offset points", fontsize=9)
        axes.margins(0.15)
        axes.grid(color=GRID, linewidth=0.8)
    return done()


def _decimals(values: Sequence[float]) -> int:
    """Decimals that give the largest value three digits, so that all labels of a chart agree."""
    largest = max((abs(value) for value in values), default=0.0)
    return 3 if largest < 1 else 2 if largest < 10 else 1


def _cycle(count: int) -> list[str]:
    return [PALETTE[index % len(PALETTE)] for index in range(count)]


def _colors(asked: Sequence[str]) -> list[str]:
    return [own or color for own, color in zip(asked, _cycle(len(asked)), strict=True)]


def _label_ends(figure: Any, axes: Any, ends: list[tuple[float, float, str, str]]) -> None:
    """Write names to the right of the plot, moved apart where lines end close together, each with a short leader."""
    figure.canvas.draw()  # fixes the layout, without which heights in pixels are unknown
    low, high = axes.get_ylim()
    height = axes.get_window_extent().height
    points_per_unit = height * 72 / figure.dpi / (high - low)
    spacing = 13.0 / points_per_unit
    placed: list[float] = []
    ordered = sorted(ends, key=lambda end: end[1])
    for _, value, _, _ in ordered:
        placed.append(max(value, placed[-1] + spacing) if placed else value)
    # What was pushed above the plot moves everything below it down again.
    ceiling = high
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - spacing
    for (x, value, name, color), position in zip(ordered, placed, strict=True):
        axes.annotate(
            name,
            xy=(x, value),
            xycoords="data",
            xytext=(1.03, position),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.9, "shrinkA": 1, "shrinkB": 3},
        )


@contextmanager
def _canvas(title: str, xlabel: str, ylabel: str) -> Iterator[tuple[Any, Any, Callable[[], str]]]:
    """A figure, its axes, and a function that gives the SVG once the block is left."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    made: list[str] = []
    # The salt is the title, so that two figures of one page never share an id.
    with mpl.rc_context(STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_title(title)
        yield figure, axes, lambda: made[0]
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    made.append(clean_svg(buffer.getvalue()))


def clean_svg(svg: str) -> str:
    """Only the `<svg>` element, without the ids that nothing refers to (they would clash inside one HTML page)."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#([A-Za-z0-9_-]+)", svg))
    return re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg).strip()


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
