"""Figures: valid SVG, deterministic, with text as text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from winning_tickets.analysis.report import figures
from winning_tickets.analysis.report.figures import Bars, Point, Series

LINES = [Series("dense", [1, 2, 3], [0.1, 0.4, 0.5]), Series("ticket", [1, 2, 3], [0.1, 0.3, 0.499])]


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in ET.fromstring(svg).iter() if e.tag.endswith("}text")]


def charts() -> dict[str, str]:
    return {
        "line": figures.line_chart(LINES, "step", "loss", "Lines", {"majority": 0.2}),
        "bar": figures.bar_chart(["in", "out"], [Bars("a", [1.0, None], [0.1, None]), Bars("b", [2, 3])], "", "y", "B"),
        "scatter": figures.scatter([Point("p & q", 0.1, 60.0), Point("$r$", 0.2, 50.0)], "x", "y", "Points"),
    }


@pytest.mark.parametrize("kind", ["line", "bar", "scatter"])
def test_svg_is_one_element_and_deterministic(kind: str) -> None:
    svg = charts()[kind]
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    assert svg == charts()[kind]
    assert "<metadata>" not in svg
    ET.fromstring(svg)


def test_text_stays_text_and_is_escaped() -> None:
    assert {"step", "loss", "Lines", "dense", "ticket", "majority"} <= set(texts(charts()["line"]))
    assert {"p & q", "$r$", "Points"} <= set(texts(charts()["scatter"]))


def test_bars_carry_their_values_with_equal_decimals() -> None:
    assert {"1.00", "2.00", "3.00", "in", "out", "a", "b"} <= set(texts(charts()["bar"]))
    small = figures.bar_chart(["in"], [Bars("a", [0.0712])], "", "y", "Small")
    assert "0.071" in texts(small)
    assert "a" not in texts(small), "one set of bars needs no legend"


def test_ids_of_different_figures_do_not_clash() -> None:
    first, second = (
        set(re.findall(r' id="([^"]+)"', figures.line_chart(LINES, "x", "y", title))) for title in ("One", "Two")
    )
    assert first
    assert not first & second


def test_labels_of_lines_that_end_together_are_moved_apart() -> None:
    svg = figures.line_chart(LINES, "x", "y", "Close")
    heights = {text: float(y) for y, text in re.findall(r'<text [^>]*?y="([\d.]+)"[^>]*>(dense|ticket)</text>', svg)}
    assert heights["ticket"] - heights["dense"] > 10


def test_nothing_global_is_left_changed() -> None:
    before = dict(mpl.rcParams)
    charts()
    assert dict(mpl.rcParams) == before
