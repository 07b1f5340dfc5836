"""The figure of the phase transition: what is drawn, in which style, and refusals."""

import re
import xml.etree.ElementTree as ET

import pytest

from winning_tickets.report.figures import FORMATS, PhasePoint, phase_figure
from winning_tickets.report.style import BLUE, GREEN, ORANGE
from winning_tickets.runs.errors import ContentError

FULL = PhasePoint(1.0, [0.6, 0.7])
CURVES = {
    "winning": [PhasePoint(0.6, [0.5, 0.52]), PhasePoint(0.8, [0.7, 0.74])],
    "random": [PhasePoint(0.8, [0.6])],
    "losing": [PhasePoint(0.8, [0.5])],
}


def drawn(axes_of, *arguments, **options):
    """The lines of a drawing by their label, without the values of single seeds."""
    lines = axes_of(*arguments, **options).get_lines()
    return {line.get_label(): line for line in lines if not line.get_label().startswith("_")}


@pytest.fixture
def axes_of(tmp_path, monkeypatch):
    """A function that draws, and gives the axes that were drawn on."""
    from matplotlib.figure import Figure

    made = []
    original = Figure.add_subplot
    monkeypatch.setattr(Figure, "add_subplot", lambda self, **given: made.append(original(self, **given)) or made[-1])

    def draw(*arguments):
        phase_figure(*arguments, tmp_path / "phases")
        return made[-1]

    return draw


def test_lines_go_from_the_full_model_through_the_means(axes_of):
    lines = drawn(axes_of, CURVES, FULL, "accuracy")
    assert list(lines) == ["full model", "winning", "random", "losing"]
    assert list(lines["winning"].get_xdata()) == [100, 80, 60]
    assert list(lines["winning"].get_ydata()) == pytest.approx([65, 72, 51])
    assert list(lines["full model"].get_ydata()) == pytest.approx([65, 65])
    assert [lines[name].get_color() for name in CURVES] == [BLUE, ORANGE, GREEN]
    assert len({lines[name].get_marker() for name in CURVES}) == 3
    assert lines["winning"].get_markevery() == [1, 2]


def test_the_axis_falls_and_a_point_at_the_full_weight_is_not_doubled(axes_of):
    axes = axes_of({"winning": [PhasePoint(0.3, [0.5]), PhasePoint(1.0, [0.8])]}, FULL, "f1")
    left, right = axes.get_xlim()
    assert left > 100 > right == pytest.approx(28)
    line = axes.get_lines()[1]
    assert list(line.get_ydata()) == pytest.approx([80, 50])
    assert axes.get_ylabel() == "F1 (x 100)"


def test_the_values_of_the_seeds_stand_behind_each_mean(axes_of):
    behind = [line for line in axes_of(CURVES, FULL, "accuracy").get_lines() if line.get_label().startswith("_")]
    places = {float(line.get_xdata()[0]): sorted(map(float, line.get_ydata())) for line in behind}
    several = {100 * one.remaining: one.scores for one in CURVES["winning"] if len(one.scores) > 1}
    assert {place: values for place, values in places.items() if place in several} == {
        place: pytest.approx(sorted(100 * score for score in scores)) for place, scores in several.items()
    }
    assert 100 not in places, "the full model is no ticket of a selection"


def test_bands_are_one_deviation_wide(axes_of):
    axes = axes_of({"winning": CURVES["winning"]}, FULL, "accuracy")
    (band,) = (one for one in axes.collections)
    heights = {round(float(y), 6) for x, y in band.get_paths()[0].vertices if x == 80}
    deviation = 100 * 0.04 / 2**0.5
    assert heights == {round(72 - deviation, 6), round(72 + deviation, 6)}


def test_names_of_ones_own_have_looks_of_their_own(axes_of):
    names = ["winning", "magnitude", "movement"]
    lines = drawn(axes_of, {name: [PhasePoint(0.5, [0.5])] for name in names}, FULL, "accuracy")
    assert len({lines[name].get_color() for name in names}) == 3
    assert len({lines[name].get_marker() for name in names}) == 3


def test_files_are_complete_and_the_same_each_time(tmp_path):
    files = phase_figure(CURVES, FULL, "accuracy", tmp_path / "a" / "phases", title="RTE")
    assert [file.name for file in files] == [f"phases.{suffix}" for suffix in FORMATS]
    again = phase_figure(CURVES, FULL, "accuracy", tmp_path / "b" / "phases", title="RTE")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    svg = files[1].read_text()
    dashes = set(re.findall(r"stroke-dasharray: ([^;\"]+)", svg))
    assert len(dashes) == 3  # the full model, random and losing; winning is solid
    shown = {"".join(e.itertext()) for e in ET.fromstring(svg).iter() if e.tag.endswith("}text")}
    assert {"RTE", "weight remaining (%)", "winning", "full model", "accuracy (x 100)"} <= shown


def test_refusals(tmp_path):
    with pytest.raises(ContentError, match="There is no ticket to draw; give one or more points"):
        phase_figure({"winning": []}, FULL, "accuracy", tmp_path / "x")
    with pytest.raises(ContentError, match="Found 80 as the weight that remains; expected a fraction above 0"):
        phase_figure({"winning": [PhasePoint(80, [0.5])]}, FULL, "accuracy", tmp_path / "x")
    with pytest.raises(ContentError, match="no run has a value"):
        phase_figure({"winning": [PhasePoint(0.8, [])]}, FULL, "accuracy", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
