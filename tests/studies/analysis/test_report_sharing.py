"""Tables and figures of the analyses of sharing: what a reader sees, and the geometry of the pies."""

import csv
import io
import xml.etree.ElementTree as ET

import pytest

from samples.sharing_samples import CARDS, SHARING
from winning_tickets.studies.analysis.report.views import analysis_table, figure


def words(result):
    """The texts of a figure."""
    root = ET.fromstring(figure(result)["svg"])
    return {" ".join("".join(e.itertext()).split()) for e in root.iter() if e.tag.endswith("}text")}


@pytest.fixture
def wedges(monkeypatch):
    """A function that draws, and gives the filled slices: middle, radius, angles, colour, hatch."""
    from matplotlib.axes import Axes

    patches = []
    original = Axes.add_patch
    monkeypatch.setattr(Axes, "add_patch", lambda self, patch: (patches.append(patch), original(self, patch))[1])

    def draw(result):
        patches.clear()
        figure(result)
        return [patch for patch in patches if patch.get_fill() and patch.get_facecolor()[3] > 0]

    return draw


def test_pies_of_importance_and_share(wedges):
    slices = wedges(SHARING)
    first = [one for one in slices if one.center == (0, 0)]
    assert [(one.theta1, one.theta2) for one in first] == [(-90, 180), (180, 270)]  # clockwise from the top
    assert {one.r for one in first} == {0.46}
    assert first[0].get_facecolor() != first[1].get_facecolor()
    (alone,) = (one for one in slices if one.center == (1, 0))
    assert (alone.theta1, alone.theta2, alone.r) == (-90, 270, 0.23)
    assert alone.get_facecolor() == first[1].get_facecolor()
    assert not [one for one in slices if one.center == (0, 1)]  # no task makes anything of it
    ffns = [(one.center[1], one.r) for one in slices if one.center[0] > 2]
    assert ffns == [(0, 0.46), (0, 0.46), (1, 0.23), (1, 0.23)]  # on a scale of their own
    assert {"RTE", "$cola$", "FFN", "layer", "Ticket importance (radius) and task share (slices)"} <= words(SHARING)


def test_sectors_of_the_tasks_that_keep(wedges):
    without = SHARING | {"importance": None, "without_importance": ["rte"]}
    slices = wedges(without)
    assert len(slices) == 2 * 6
    first, second = (one for one in slices if one.center == (1, 0))
    assert first.get_facecolor() == (1, 1, 1, 1)  # rte does not keep it
    assert (second.theta1, second.theta2) == (90, 270)
    assert len({one.r for one in slices}) == 1
    assert "Which tasks keep which heads and FFNs" in words(without)
    assert "The tickets of rte have no importance, so the figure shows" in analysis_table(without).text()


def test_many_tasks_differ_without_colours(wedges):
    names = [f"task{i}" for i in range(12)]
    one = {"unit": "heads", "layer": 0, "index": 0, "tasks": names, "importance": 1.0}
    many = SHARING | {
        "encoder": SHARING["encoder"] | {"layers": 1, "heads": 1},
        "tasks": [{"task": name} for name in names],
        "structures": [one | {"share": dict.fromkeys(names, 1 / 12)}],
    }
    slices = wedges(many)
    looks = {(patch.get_facecolor(), patch.get_hatch()) for patch in slices}
    assert len(slices) == len(looks) == 12


def test_what_the_sharing_tables_say():
    text = analysis_table(SHARING).text()
    assert "| rte        |     3 |    1 |             80.0 |                    60.0 |" in text
    assert "| any task   |     4 |    2 |            100.0 |                   100.0 |" in text
    assert "| Heads                 |   0 |   1 |   3 |" in text
    assert "| 1                    |   0 |   0 |   2 |           1 |" in text
    assert "| rte \\| $cola$     | 0.750 |  0.751 | 0.500 |  0.500 |   0.600 |" in text
    assert "of all 1,000 parameters of m, embeddings included" in text
    assert "Without a ticket, so the whole encoder: $cola$." in text
    rows = list(csv.DictReader(io.StringIO(analysis_table(SHARING).unshown["structures"].csv())))
    assert rows[1]["share.$cola$"] == "1.0"
    assert rows[1]["n"] == "1"
    assert rows[3]["share.rte"] == ""


def test_who_dominates_is_said_of_three_tasks_or_more():
    share = {"rte": 0.2, "$cola$": 0.2, "mrpc": 0.6}
    three = SHARING | {
        "tasks": [*SHARING["tasks"], SHARING["tasks"][0] | {"task": "mrpc"}],
        "structures": [SHARING["structures"][0] | {"share": share}, SHARING["structures"][3]],
    }
    assert "One task has more than half of 1 of 2 structures: mrpc 1." in analysis_table(three).notes
    assert "more than half" not in analysis_table(SHARING).text()


def test_what_the_cards_say():
    text = analysis_table(CARDS).text()
    assert "| mrpc   | 3,000 | 400   | 1,725 |      2 | accuracy, f1 | 0 / 7.5 / 42               |" in text
    assert "| accuracy 75.0, f1 85.7 |            4 |                 3 |" in text
    assert "| $stsb$ |    50 | 1,500 | –     |      1 | pearson      |" in text
    assert "| mrpc   | validation | yes                       |   300 |  75.0 |" in text
    assert "| $stsb$ | train      | scores 0.00 / 2.50 / 5.00 |    50 |" in text
    assert "with another label only: mrpc 1." in text
    assert "Rows without a label, left out: 2 of $stsb$ validation." in text
    assert {"MRPC", "$stsb$", "1,000", "Words: shortest, median, longest"} <= words(CARDS)
