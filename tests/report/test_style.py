"""The look of figures: one color for each method, readable on both backgrounds."""

import pytest

from winning_tickets.config import METHOD_NAMES
from winning_tickets.report import style
from winning_tickets.report.style import in_words, looks, method_color


@pytest.mark.parametrize(
    ("names", "color"),
    [
        (("TAMT-KD", "mask-training", "mask training (KD)", "TAMT-KD (released code)", "winning"), style.BLUE),
        (("TAMT-MLM", "mask training, MLM"), style.SKY),
        (("TAMT-MLM+KD",), style.PURPLE),
        (("IMP", "imp", "IMP-KD 1e-4", "iterative pruning by KD", "IMP (released code)"), style.VERMILLION),
        (("OMP", "OMP-global", "magnitude"), style.GREEN),
        (("Rand", "random"), style.ORANGE),
        (("Full", "full model", "dense", "ST-DNN"), style.BLACK),
        (("importance", "SuperT", "super ticket"), style.INDIGO),
        (("rte", "improved", "randomized", "supervised", "0.7", ""), None),
    ],
)
def test_a_method_has_one_color_under_all_its_names(names, color):
    assert {name: method_color(name) for name in names} == dict.fromkeys(names, color)


def test_every_method_has_a_color_that_no_other_method_has():
    colors = [method_color(name) for name in METHOD_NAMES]
    assert None not in colors
    assert len(set(colors)) == len(METHOD_NAMES)


def test_names_that_are_no_methods_take_the_colors_that_are_left():
    made = looks(["IMP 1e-4", "tuned", "IMP 3e-4", "paper"])
    assert [one.color for one in made] == [style.VERMILLION, style.BLUE, style.VERMILLION, style.GREEN]
    assert made[0].dashes != made[2].dashes
    assert len({one.marker for one in made}) == 4
    many = looks(map(str, range(20)))
    assert len({(one.color, one.marker, str(one.dashes)) for one in many}) == 20
    assert len({str(one.dashes) for one in looks(["a", "b", "c"], dashed=True)}) == 3


def test_bars_and_dots_of_one_method_have_different_colors():
    names = ["IMP-KD 1e-4", "IMP-KD 3e-4", "TAMT-KD", "tuned"]
    made = looks(names, apart=True)
    assert [one.color for one in made] == [style.VERMILLION, style.GREEN, style.BLUE, style.PURPLE]


def test_every_color_has_a_counterpart_on_a_dark_page():
    colors = {value for name, value in vars(style).items() if name.isupper() and str(value).startswith("#")}
    assert colors - {style.YELLOW} <= set(style.DARK), "yellow is for slices, which keep their colors"


def test_numbers_are_named_as_people_write_them():
    assert [in_words(name) for name in ("kd_loss", "f1", "jaccard", "exact_match")] == [
        "KD loss",
        "F1",
        "Jaccard similarity",
        "exact match",
    ]
