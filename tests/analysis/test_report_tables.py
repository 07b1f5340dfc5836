"""Tables and statistics of reports."""

from __future__ import annotations

import io
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from winning_tickets.analysis.report import tables
from winning_tickets.analysis.report.tables import Column
from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.statistics import summarise

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


def test_markdown_scales_fractions_and_marks_what_is_missing() -> None:
    assert tables.markdown(ROWS, COLUMNS) == (
        "| Method | Accuracy |  Loss | Time |\n"
        "| ------ | -------: | ----: | ---: |\n"
        "| a\\|b   |     61.2 | 0.070 | 13 s |\n"
        "| [bold] |        – |     – |  3 s |\n"  # noqa: RUF001 - the dash of a missing value
    )


def test_formats() -> None:
    assert tables.percent(0.6) == "60.0"
    assert tables.percent(-0.0312) == "-3.1"
    assert tables.decimal(0.07049) == "0.070"
    assert tables.seconds(250.6) == "251 s"
    assert tables.text(3) == "3"


def test_console_shows_the_same_cells_literally() -> None:
    out = io.StringIO()
    Console(file=out, width=60).print(tables.console(ROWS, COLUMNS))
    shown = out.getvalue()
    for line in tables.cells(ROWS, COLUMNS):
        assert all(cell in shown for cell in line)
    assert "[bold]" in shown


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_summary_agrees_with_the_standard_library(values: list[float]) -> None:
    found = summarise(values)
    assert found.n == len(values)
    assert math.isclose(found.mean, statistics.fmean(values), abs_tol=1e-9)
    assert found.std is not None
    assert math.isclose(found.std, statistics.stdev(values), rel_tol=1e-6, abs_tol=1e-6)
    assert found.interval is not None
    assert found.interval[0] <= found.mean <= found.interval[1]


def test_interval_of_three_seeds_is_students() -> None:
    found = summarise([0.80, 0.82, 0.84])
    assert found.interval is not None
    half = 4.302652729749464 * 0.02 / math.sqrt(3)  # t(0.975, 2 degrees of freedom)
    assert found.interval == pytest.approx((0.82 - half, 0.82 + half))


def test_one_seed_has_no_spread() -> None:
    assert summarise([0.8]) == summarise((0.8,))
    assert summarise([0.8]).std is None
    assert summarise([0.8]).interval is None


def test_failed_runs_are_never_numbers() -> None:
    with pytest.raises(ContentError, match="not finite"):
        summarise([0.8, math.nan])
    for values in ([1.7e308, 1.7e308], [1e200, -1e200]):  # whose sum, and whose squares, are infinite
        with pytest.raises(ContentError, match="Found a value beyond 1e.100 among"):
            summarise(values)
    with pytest.raises(ContentError, match="no run has a value"):
        summarise([])
