"""Tables and statistics of reports."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winning_tickets.report import tables
from winning_tickets.report.tables import Column, Table
from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.statistics import summarize

COLUMNS = (
    Column("name", "Method"),
    Column("accuracy", "Accuracy", tables.percent),
    Column("loss", "Loss", tables.decimal),
    Column("took", "Time", tables.seconds),
)
ROWS = [
    {"name": "a|b", "accuracy": 0.6124, "loss": 0.0704, "took": 12.6, "ignored": 1},
    {"name": "[bold]", "accuracy": None, "took": 3.0},
]


def test_text_scales_fractions_and_marks_what_is_missing() -> None:
    assert Table(ROWS, COLUMNS, ["A note."]).text() == (
        "| Method | Accuracy |  Loss | Time |\n"
        "| ------ | -------: | ----: | ---: |\n"
        "| a\\|b   |     61.2 | 0.070 | 13 s |\n"
        "| [bold] |        – |     – |  3 s |\n"
        "\n"
        "A note."
    )


def test_markdown_has_title_notes_and_bold_cells() -> None:
    lines = Table(ROWS, COLUMNS, ["A *note*."], title="T_1", bold=frozenset({(0, 1)})).markdown().splitlines()
    assert lines[0] == r"**T\_1**"
    assert lines[4:6] == [
        r"| a\|b     | **61.2** | 0.070 | 13 s |",
        r"| \[bold\] |        – |     – |  3 s |",
    ]
    assert lines[-1] == r"A \*note\*."


def test_latex_has_caption_label_and_escaped_cells() -> None:
    table = Table(ROWS, COLUMNS, ["50 %."], title="A & B", name="ab", bold=frozenset({(0, 1)}))
    lines = table.latex().splitlines()
    assert lines[:7] == [
        r"\begin{table}",
        r"\centering",
        r"\caption{A \& B. 50 \%.}",
        r"\label{tab:ab}",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"Method & Accuracy & Loss & Time \\",
    ]
    assert lines[8] == r"a\textbar{}b & \textbf{61.2} & 0.070 & 13 s \\"
    assert lines[-3:] == [r"\bottomrule", r"\end{tabular}", r"\end{table}"]


def test_frame_and_csv_are_unrounded_and_have_gaps() -> None:
    table = Table(ROWS, COLUMNS)
    frame = table.to_frame()
    assert list(frame.columns) == ["name", "accuracy", "loss", "took"]
    assert frame["accuracy"].tolist() == [0.6124, None]
    assert table.csv() == "name,accuracy,loss,took\na|b,0.6124,0.0704,12.6\n[bold],,,3.0\n"
    assert Table([], COLUMNS).csv() == "name,accuracy,loss,took\n"


def test_html_escapes_and_aligns_numbers() -> None:
    html = Table([{"name": "<b>", "accuracy": 0.5}], COLUMNS[:2], title="T & U", bold=frozenset({(0, 1)})).html()
    assert '<th scope="row">&lt;b&gt;</th><td class="number"><strong>50.0</strong></td>' in html
    assert '<caption class="hidden">T &amp; U</caption>' in html
    assert '<th scope="col" class="number">Accuracy</th>' in html


def test_formats() -> None:
    assert tables.percent(0.6) == "60.0"
    assert tables.percent(-0.0312) == "-3.1"
    assert tables.decimal(0.07049) == "0.070"
    assert (tables.decimal(-1e-7), tables.percent(-1e-7)) == ("0.000", "0.0")
    assert tables.seconds(250.6) == "251 s"
    assert tables.text(3) == "3"


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_summary_agrees_with_the_standard_library(values: list[float]) -> None:
    found = summarize(values)
    assert found.n == len(values)
    assert math.isclose(found.mean, statistics.fmean(values), abs_tol=1e-9)
    assert found.std is not None
    assert math.isclose(found.std, statistics.stdev(values), rel_tol=1e-6, abs_tol=1e-6)
    assert found.interval is not None
    assert found.interval[0] <= found.mean <= found.interval[1]


def test_interval_of_three_seeds_is_students() -> None:
    found = summarize([0.80, 0.82, 0.84])
    assert found.interval is not None
    half = 4.302652729749464 * 0.02 / math.sqrt(3)  # t(0.975, 2 degrees of freedom)
    assert found.interval == pytest.approx((0.82 - half, 0.82 + half))


def test_one_seed_has_no_spread() -> None:
    assert summarize([0.8]) == summarize((0.8,))
    assert summarize([0.8]).std is None
    assert summarize([0.8]).interval is None


def test_failed_runs_are_never_numbers() -> None:
    with pytest.raises(ContentError, match="not finite"):
        summarize([0.8, math.nan])
    for values in ([1.7e308, 1.7e308], [1e200, -1e200]):  # whose sum, and whose squares, are infinite
        with pytest.raises(ContentError, match="Found a value beyond 1e.100 among"):
            summarize(values)
    with pytest.raises(ContentError, match="no run has a value"):
        summarize([])
