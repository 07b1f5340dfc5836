"""Figures: valid SVG, deterministic, with text as text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from winning_tickets.report import figures
from winning_tickets.report.figures import Series

GROUPS = ["in", "out"]
BARS = [Series("p & q", GROUPS, [1.0, None], [(0.9, 1.1), None]), Series("$r$", GROUPS, [2, 3])]
LINES = [Series("dense", [1, 2, 3], [0.1, 0.4, 0.5]), Series("ticket", [1, 2, 3], [0.1, 0.3, 0.499])]


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter() if e.tag.endswith("}text")]


def drawn(title: str, draw: Callable[[Any], None]) -> str:
    """Return the svg of one panel."""
    with figures.canvas(7.2, 4.2, title, ("svg",)) as (drawing, made):
        axes = drawing.add_subplot()
        axes.set(title=title, xlabel="step", ylabel="loss")
        draw(axes)
        axes.legend()
    return made["svg"].decode().strip()


def draw_lines(axes: Any) -> None:
    for line in LINES:
        figures.draw_line(axes, line)


def charts() -> dict[str, str]:
    return {
        "line": drawn("Lines", draw_lines),
        "bar": drawn("B", lambda axes: figures.draw_bars(axes, BARS, GROUPS, values=True)),
    }


@pytest.mark.parametrize("kind", ["line", "bar"])
def test_svg_is_one_element_and_deterministic(kind: str) -> None:
    svg = charts()[kind]
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    assert svg == charts()[kind]
    assert "<metadata>" not in svg
    ET.fromstring(svg)


def test_text_stays_text_and_is_escaped() -> None:
    assert {"step", "loss", "Lines", "dense", "ticket"} <= set(texts(charts()["line"]))
    assert {"p & q", "$r$", "B"} <= set(texts(charts()["bar"]))


def test_bars_carry_their_values_with_equal_decimals() -> None:
    assert {"1.00", "2.00", "3.00", "in", "out"} <= set(texts(charts()["bar"]))
    one = [Series("a", ["in"], [0.0712])]
    assert "0.071" in texts(drawn("Small", lambda axes: figures.draw_bars(axes, one, ["in"], values=True)))


@pytest.mark.parametrize(("name", "columns"), [("ticket", 4), ("iterative pruning with 1050 steps", 2), ("w" * 90, 1)])
def test_a_legend_has_as_many_columns_as_fit(name: str, columns: int) -> None:
    drawing = Figure(figsize=(7.2, 4.2), layout="constrained")
    figures.add_legend(drawing, 4, [figures.swatch(f"{name} {number}", marker="o") for number in range(8)])
    (legend,) = drawing.legends
    assert legend._ncols == columns
    if columns > 1:
        assert legend.get_window_extent().width <= drawing.bbox.width


def test_ids_of_different_figures_do_not_clash() -> None:
    first, second = (set(re.findall(r' id="([^"]+)"', drawn(title, draw_lines))) for title in ("One", "Two"))
    assert first
    assert not first & second


def test_partial_points_are_hollow_and_gaps_are_left_out() -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    figures.draw_line(axes, Series("a", [1, 2, 3], [0.1, None, 0.5], marks=["filled", "filled", "hollow"], marker="o"))
    line, hollow = axes.get_lines()
    assert (list(line.get_xdata()), line.get_markevery()) == ([1, 3], [0])
    assert (list(hollow.get_xdata()), hollow.get_markerfacecolor()) == ([3], "none")


def test_a_single_point_has_an_error_bar() -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    figures.draw_line(axes, Series("a", [0.7], [0.5], [(0.4, 0.6)], marker="o"))
    (bar,) = axes.collections
    assert [list(map(float, end)) for end in bar.get_segments()[0]] == [[0.7, 0.4], [0.7, 0.6]]


def test_nothing_global_is_left_changed() -> None:
    before = dict(mpl.rcParams)
    charts()
    assert dict(mpl.rcParams) == before
