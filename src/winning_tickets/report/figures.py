"""Figures, drawn with Matplotlib's object interface: never pyplot, nothing kept between calls.

Their look is in `style.py`; text stays text; the same data gives the same bytes.
"""

from __future__ import annotations

import functools
import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from winning_tickets.report.style import (
    BLACK,
    BLUE,
    DARK,
    DASHED,
    DIVERGING,
    GREEN,
    GRID,
    HATCHING,
    INK,
    ORANGE,
    PURPLE,
    SEQUENTIAL,
    SKY,
    SMALLEST_POINTS,
    STYLE,
    TILE_INKS,
    VERMILLION,
    YELLOW,
    Look,
    in_words,
    looks,
)
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.escapes import printable_lines
from winning_tickets.runs.files import write_bytes
from winning_tickets.runs.statistics import summarize

_SINGLES: dict[str, Any] = {"markersize": 3, "alpha": 0.45, "markeredgewidth": 0}
FORMATS = ("png", "svg", "pdf")
_DPI = 160
_CENTIMETERS = 2.54  # in an inch
_PANEL_CENTIMETERS = 5.0  # the least width of one of several panels side by side, in print
_PRINTED: ContextVar[float | None] = ContextVar("printed width in centimeters", default=None)
# Dates and program names would change the bytes from run to run.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


class Drawing(Mapping[str, bytes]):
    """A figure, and the bytes of its file in each format; all files are made when the first one is read."""

    def __init__(self, figure: Any, salt: str, formats: Sequence[str]) -> None:
        self.figure = figure
        self._salt, self._formats, self._printed = salt, formats, _PRINTED.get()

    @functools.cached_property
    def _files(self) -> dict[str, bytes]:
        """The files, made once and always in the same order, as writing one slightly changes the layout of the next."""
        made: dict[str, bytes] = {}
        with _style(self._salt, self._printed), _refuse_too_narrow(self._printed):
            for suffix in self._formats:
                buffer = io.BytesIO()
                self.figure.savefig(buffer, format=suffix, dpi=_DPI, metadata=_METADATA[suffix])
                made[suffix] = buffer.getvalue()
        if "svg" in made:
            made["svg"] = (_clean_svg(made["svg"].decode()) + "\n").encode()
        return made

    def __getitem__(self, suffix: str) -> bytes:
        return self._files[suffix]

    def __iter__(self) -> Iterator[str]:
        return iter(self._formats)

    def __len__(self) -> int:
        return len(self._formats)


def _style(salt: str, printed: float | None) -> Any:
    import matplotlib as mpl

    size = {} if printed is None else {"font.size": SMALLEST_POINTS, "axes.titlesize": SMALLEST_POINTS}
    return mpl.rc_context(STYLE | {"svg.hashsalt": salt} | size)


@contextmanager
def _refuse_too_narrow(centimeters: float | None) -> Iterator[None]:
    """Raise `UsageError` where Matplotlib warns that the text of a figure for print leaves no room for its axes."""
    with warnings.catch_warnings():
        if centimeters is not None:
            warnings.filterwarnings("error", "constrained_layout not applied", UserWarning)
        try:
            yield
        except UserWarning:
            raise UsageError(
                f"A figure of {centimeters:g} cm has no room for its text; give a larger --width."
            ) from None


@contextmanager
def printed(centimeters: float | None) -> Iterator[None]:
    """Draw the figures of the block for print: of this width, with text of 8 points; None: as on a page.

    Panels that would be too narrow side by side are drawn below each other.
    """
    token = _PRINTED.set(centimeters)
    try:
        yield
    finally:
        _PRINTED.reset(token)


@contextmanager
def canvas(width: float, height: float, salt: str, formats: Sequence[str] = FORMATS) -> Iterator[tuple[Any, Drawing]]:
    """Yield an empty figure of a size in inches, to draw on inside the block, and the `Drawing` with its files.

    The salt makes the ids in the SVG differ from the ids of other figures on the same page. Inside `printed` the
    figure has that width; its height shrinks less than its width, as text does not shrink along.
    """
    from matplotlib.figure import Figure

    wide = _PRINTED.get()
    with _style(salt, wide):
        scale = 1.0 if wide is None else wide / _CENTIMETERS / width
        figure = Figure(figsize=(width * scale, height * max(scale, 0.6)), layout="constrained")
        yield figure, Drawing(figure, salt, formats)
        if wide is not None:
            with _refuse_too_narrow(wide):
                _fit_texts(figure)


def _fit_texts(figure: Any) -> None:
    """Give all text of a figure the size for print, and break titles and labels that are wider than their panel."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_fontsize(SMALLEST_POINTS)
    figure.draw_without_rendering()  # so that axes have their places
    for texts, box in [
        (figure.texts, figure.bbox),
        *((axes.findobj(Text, include_self=False), axes.get_window_extent()) for axes in figure.axes),
    ]:
        for text in texts:
            points = (box.height if text.get_rotation() == 90 else box.width) * 72 / figure.dpi
            letter = (0.7 if text.get_fontweight() == "bold" else 0.6) * SMALLEST_POINTS
            _break_lines(text, points / letter)


def _break_lines(text: Any, letters: float) -> None:
    """Break the lines of a text after so many letters, but not inside words; turn it if a word is longer."""
    if text.get_ha() == "right":
        return  # it stands beside its panel
    lines = text.get_text().split("\n")
    if text.get_ha() == "center" and any(len(word) > letters for line in lines for word in line.split()):
        text.set_rotation(90)
        return
    text.set_text("\n".join(textwrap.fill(line, max(1, int(letters)), break_long_words=False) for line in lines))


def _clean_svg(svg: str) -> str:
    """Return only the `<svg>` element, without unused ids (which would clash inside one HTML page)."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#([A-Za-z0-9_-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg).strip()
    return printable_lines(svg)


def dark_svg(svg: str) -> str:
    """Return the same figure for a dark background."""
    return _recolor(svg, DARK)


def page_svg(svg: str) -> str:
    """Return the same figure in the page's colors, which follow light and dark; outside a page it looks as before."""
    return _recolor(svg, {light: f"var(--figure-{light[1:].lower()}, {light})" for light in DARK})


def page_variables(*, dark: bool) -> dict[str, str]:
    """Return the CSS variables that `page_svg` refers to."""
    return {f"--figure-{light[1:].lower()}": counterpart if dark else light for light, counterpart in DARK.items()}


def _recolor(svg: str, colors: Mapping[str, str]) -> str:
    known = {light.lower(): color for light, color in colors.items()}

    def replace_colors(attribute: re.Match[str]) -> str:
        return re.sub(r"#[0-9A-Fa-f]{6}\b", lambda found: known.get(found[0].lower(), found[0]), attribute[0])

    # Only these attributes hold colors: a hash in a link or in a text stays.
    return re.sub(r'\b(?:style|fill|stroke)="[^"]*"', replace_colors, svg)


def layout_panels(count: int, most: int = 3) -> tuple[int, int]:
    """Return the numbers of columns and rows of a grid of panels, whose rows have about equal length."""
    if (wide := _PRINTED.get()) is not None:
        most = min(most, max(1, int(wide / _PANEL_CENTIMETERS)))
    down = -(-count // most)
    return -(-count // max(1, down)), down


def add_panels(drawing: Any, count: int, most: int = 3, **options: Any) -> list[Any]:
    """Return one pair of axes per panel; the rest of the last row stays empty."""
    across, down = layout_panels(count, most)
    places = list(drawing.subplots(down, across, squeeze=False, **options).flat)
    for axes in places[count:]:
        axes.set_visible(False)
    return places[:count]


def add_legend(drawing: Any, columns: int, handles: Sequence[Any] | None = None, **options: Any) -> None:
    """Add a legend below all panels, with the given handles or all drawn labels, in at most `columns` columns."""
    given = {} if handles is None else {"handles": handles}
    # Names may be long: use fewer columns if the figure is too narrow for them.
    for ncols in range(columns, 0, -1):
        legend = drawing.legend(loc="outside lower center", ncols=ncols, **{"fontsize": 9, **given, **options})
        if ncols == 1 or legend.get_window_extent().width <= drawing.bbox.width:
            return
        legend.remove()


def cut_label(name: str) -> str:
    """Return a label as it is drawn, cut to 40 characters: a long name must not make a figure take much memory."""
    return name if len(name) <= 40 else f"{name[:37]}..."


def swatch(label: str, **look: Any) -> Any:
    """Return an entry of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **look)


def percents(values: Iterable[float]) -> list[float]:
    """Return fractions times 100."""
    return [100 * value for value in values]


Mark = Literal["filled", "hollow", "none"]


@dataclass(frozen=True)
class Series:
    """Values by position: a line, a set of bars, or a cloud."""

    name: str  # label in the legend; empty for none
    x: Sequence[Any]  # positions; for bars the group
    y: Sequence[float | None]  # None leaves a gap
    spread: Sequence[tuple[float, float] | None] = ()  # lower and upper end around each value
    marks: Sequence[Mark] = ()  # one per value; empty if all are filled; `hollow` bars are hatched
    singles: Sequence[Sequence[float]] = ()  # the values that each mean is made from, drawn small behind it
    color: str = BLUE
    marker: str = ""  # marker and dashes are values of Matplotlib
    dashes: Any = "-"

    @property
    def points(self) -> list[tuple[Any, float, tuple[float, float], str]]:
        """Position, value, spread and mark of each value; without a spread both ends are the value."""
        count = len(self.y)
        parts = zip(self.x, self.y, self.spread or [None] * count, self.marks or ["filled"] * count, strict=True)
        return [(x, y, spread or (y, y), mark) for x, y, spread, mark in parts if y is not None]


def draw_line(axes: Any, series: Series, linewidth: float = 1.8) -> None:
    """Draw a line with its band, or a single point with its error bar; points with missing runs are hollow."""
    xs, ys, spreads, marks = (list(part) for part in zip(*series.points, strict=True))
    look = {"color": series.color, "marker": series.marker or None, "markersize": 5}
    for x, values in zip(series.x, series.singles, strict=False):
        _draw_singles(axes, x, values, series.color)
    filled, hollow = ([index for index, mark in enumerate(marks) if mark == kind] for kind in ("filled", "hollow"))
    style = {"linewidth": linewidth, "linestyle": series.dashes, "markevery": filled, **look}
    axes.plot(xs, ys, label=series.name or "_nolegend_", **style)
    if hollow:
        places = [xs[index] for index in hollow], [ys[index] for index in hollow]
        axes.plot(*places, linestyle="", markerfacecolor="none", **look)
    low, high = ([ends[side] for ends in spreads] for side in (0, 1))
    if low != high and len(xs) > 1:
        axes.fill_between(xs, low, high, color=series.color, alpha=0.15, linewidth=0)
    elif low != high:
        axes.vlines(xs, low, high, color=series.color, linewidth=1.2)


def _draw_singles(axes: Any, x: float, values: Sequence[float], color: str) -> None:
    """Draw the values behind a mean, if there are several."""
    if len(values) > 1:
        axes.plot([x] * len(values), values, "o", color=color, label="_nolegend_", **_SINGLES)


def draw_bars(axes: Any, bars: Sequence[Series], groups: Sequence[str], *, values: bool = False) -> None:
    """Draw sets of bars side by side in groups; hollow bars (with missing runs) are hatched.

    With `values` each bar has its value above it, all with equal decimals.
    """
    width = 0.8 / max(1, len(bars))
    largest = max((abs(point[1]) for one in bars for point in one.points), default=0.0)
    decimals = 3 if largest < 1 else 2 if largest < 10 else 1
    for index, one in enumerate(bars):
        label = one.name
        places = {group: groups.index(group) + (index - (len(bars) - 1) / 2) * width for group in one.x}
        for group, y, spread, mark in one.points:
            x = places[group]
            hatch = "///" if mark == "hollow" else None
            look = {"color": one.color, "hatch": hatch, "edgecolor": HATCHING, "linewidth": 0.0, "label": label}
            axes.bar(x, y, 0.92 * width, **look)
            label = "_nolegend_"
            if spread[0] != spread[1]:
                axes.plot([x, x], spread, color=INK, linewidth=1.2)
            if values:
                place = {"xy": (x, max(y, 0.0)), "xytext": (0, 3), "textcoords": "offset points"}
                axes.annotate(f"{y:.{decimals}f}", ha="center", fontsize=9, **place)
        for group, values_behind in zip(one.x, one.singles, strict=False):
            _draw_singles(axes, places[group], values_behind, INK)
    names = [textwrap.fill(cut_label(group), 14, break_long_words=False) for group in groups]
    axes.set_xticks(range(len(groups)), names)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.tick_params(axis="x", length=0)


@dataclass(frozen=True)
class Tile:
    """A cell of a heat map: its place from the left and from the top, the value of its color, and its texts."""

    column: int
    row: int
    value: float
    text: str
    width: int = 1
    below: str = ""


def draw_heat_map(axes: Any, tiles: Iterable[Tile], scale: float = 1.0, *, diverging: str = "") -> None:
    """Draw colored tiles with their numbers, darkest at `scale`; rows go down, and vector formats stay sharp.

    With `diverging`, colors diverge from zero to both sides, and it labels a color bar.
    """
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    right = bottom = 0
    for tile in tiles:
        shade = min(1.0, abs(tile.value) / scale) if scale > 0 else 0.0
        place = 0.5 + math.copysign(0.5 * shade, tile.value)
        color = mpl.colormaps[DIVERGING](place) if diverging else mpl.colormaps[SEQUENTIAL](shade)
        corner = (tile.column, tile.row)
        axes.add_patch(Rectangle(corner, tile.width, 1, facecolor=color, edgecolor="white", linewidth=1.0))
        look = {"ha": "center", "va": "center", "color": TILE_INKS[shade > (0.7 if diverging else 0.5)]}
        middle = tile.column + tile.width / 2
        axes.text(middle, tile.row + (0.3 if tile.below else 0.5), tile.text, fontsize=8.5, **look)
        if tile.below:
            axes.text(middle, tile.row + 0.72, tile.below, fontsize=SMALLEST_POINTS, **look)
        right, bottom = max(right, tile.column + tile.width), max(bottom, tile.row + 1)
    axes.set_xlim(0, right)
    axes.set_ylim(bottom, 0)
    hide_frame(axes)
    if diverging:
        values = mpl.cm.ScalarMappable(mpl.colors.Normalize(-scale, scale), DIVERGING)
        bar = axes.figure.colorbar(values, ax=axes, fraction=0.046, pad=0.03)
        bar.set_label(diverging, fontsize=9)
        bar.ax.tick_params(labelsize=SMALLEST_POINTS)
        bar.outline.set_visible(False)


def label_heat_map(
    axes: Any, columns: Sequence[str], rows: Sequence[str], *, turned: bool = False, **look: Any
) -> None:
    """Label columns (`turned` if asked) and rows; these also set the size of the map, even if tiles are missing."""
    turn = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([i + 0.5 for i in range(len(columns))], columns, **turn, **look)
    axes.set_yticks([i + 0.5 for i in range(len(rows))], rows, **look)


def hide_frame(axes: Any) -> None:
    """Hide the frame and the ticks, but not the tick labels."""
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


# In print without colors, the slices of a pie differ by gray level and by hatch.
_SLICES = (
    (BLUE, ""),
    (YELLOW, ""),
    (VERMILLION, "/////"),
    (SKY, "....."),
    (GREEN, "xxxxx"),
    (ORANGE, "-----"),
    (PURPLE, "|||||"),
    (BLACK, ""),
)


def slice_look(index: int) -> dict[str, Any]:
    """Return color and hatch of a slice; beyond the eighth slice they repeat with one more hatch."""
    color, hatch = _SLICES[index % len(_SLICES)]
    hatch += index // len(_SLICES) * "\\\\\\\\"
    return {"facecolor": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.0}


def draw_pie(
    axes: Any, center: tuple[float, float], radius: float, shares: Sequence[float], *, filled: Sequence[bool]
) -> None:
    """Draw slices clockwise from the top, on axes that go down; the sizes add up to 1, unfilled slices are white."""
    from matplotlib.patches import Wedge

    start = 0.0
    for index, (share, full) in enumerate(zip(shares, filled, strict=True)):
        if share:
            place = (center, radius, 360 * start - 90, 360 * (start + share) - 90)
            look = slice_look(index) if full else slice_look(0) | {"facecolor": "white", "hatch": ""}
            axes.add_patch(Wedge(*place, **look))
            # The outline is a patch of its own, as hatches have the color of the edge.
            axes.add_patch(Wedge(*place, facecolor="none", edgecolor=INK, linewidth=0.5))
        start += share


@dataclass(frozen=True)
class PhasePoint:
    """The scores of one ticket, or of the full model, by seed; `remaining` weight in (0, 1], 1 for the full model."""

    remaining: float
    scores: Sequence[float]


def phase_figure(
    curves: Mapping[str, Sequence[PhasePoint]], full: PhasePoint, metric: str, path: Path | str, *, title: str = ""
) -> list[Path]:
    """Write the figure of `draw_phases` into PNG, SVG and PDF files."""
    made = draw_phases(curves, full, metric, title)
    files = {suffix: Path(f"{path}.{suffix}") for suffix in FORMATS}
    for suffix, file in files.items():
        write_bytes(file, made[suffix])
    return list(files.values())


def draw_phases(curves: Mapping[str, Sequence[PhasePoint]], full: PhasePoint, metric: str, title: str = "") -> Drawing:
    """Draw the score against the remaining weight (Super Tickets, Figures 1, 4, 5 and 7).

    Each curve is the mean over seeds inside a band of one standard deviation (ddof=1). A curve begins at the full
    model, which is a ticket that prunes nothing; a dashed line shows the mean of the full model.
    `curves` has a point for each ticket by selection (`winning`, `random`, `losing`, or other names).
    """
    points = [point for curve in curves.values() for point in curve]
    if not points:
        raise ContentError("There is no ticket to draw; give one or more points for winning, random or losing tickets.")
    for point in [full, *points]:
        if not 0 < point.remaining <= 1:
            raise ContentError(
                f"Found {point.remaining} as the weight that remains; expected a fraction above 0 and up to 1."
            )
    with canvas(5.6, 4.0, f"phases {title}") as (drawing, made):
        axes = drawing.add_subplot(xlabel="weight remaining (%)", ylabel=f"{in_words(metric)} (x 100)")
        draw_level(axes, *_phase_values(full), label="full model")
        for (name, curve), look in zip(curves.items(), looks(curves, dashed=True), strict=True):
            draw_line(axes, _phase_series(name, curve, full, look))
        axes.set_xlim(102.0, max(0.0, 100 * min(point.remaining for point in points) - 2.0))
        axes.grid(axis="y")
        axes.set_title(title)
        add_legend(drawing, len(curves) + 1)
    return made


def _phase_values(point: PhasePoint) -> tuple[float, float]:
    """Return mean and standard deviation of the scores, times 100."""
    summary = summarize(point.scores)
    return 100 * summary.mean, 100 * (summary.std or 0.0)


def _phase_series(name: str, curve: Sequence[PhasePoint], full: PhasePoint, look: Look) -> Series:
    start = [] if any(point.remaining == 1 for point in curve) else [PhasePoint(1.0, full.scores)]
    ordered = sorted([*start, *curve], key=lambda point: -point.remaining)
    values = [_phase_values(point) for point in ordered]
    # The full model is not a ticket of this selection, so it has no marker.
    marks: list[Mark] = ["none" if point in start else "filled" for point in ordered]
    spread = [(mean - std, mean + std) for mean, std in values]
    x, y = percents(point.remaining for point in ordered), [mean for mean, _ in values]
    singles = [[] if point in start else percents(point.scores) for point in ordered]
    return Series(name, x, y, spread, marks, singles, look.color, look.marker, look.dashes)


def draw_level(axes: Any, value: float, deviation: float, label: str = "_nolegend_") -> None:
    """Draw a dashed reference line in a gray band of one deviation on both sides."""
    axes.axhline(value, label=label, **DASHED)
    if deviation:
        axes.axhspan(value - deviation, value + deviation, color=GRID, alpha=0.6, linewidth=0)
