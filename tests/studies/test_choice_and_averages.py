"""Tables as the papers make them: the best setting of a grid, averages in which a task with two metrics counts once."""

from __future__ import annotations

import pytest

from winning_tickets.config import SearchConfig
from winning_tickets.studies.load import load_study
from winning_tickets.studies.report.grids import choose_settings, make_cell, table_grid
from winning_tickets.studies.report.observations import StudyRun, observe


def published(name):
    """The numbers of a recipe by table and row: metrics by task, and the printed average."""
    rows, averages = {}, {}
    for one in load_study(name).published:
        task, _, metric = str(one.column).partition(" ")
        if metric:
            rows.setdefault((one.of, one.row), {}).setdefault(task, {})[metric] = one.value
        else:
            averages[one.of, one.row] = one.value
    return rows, averages


def runs_of(rows, path):
    """Finished runs with the paper's numbers as results."""
    for (_, row), tasks in rows.items():
        plm, _, method = row.partition(" / ")
        part = "full" if method == "ST-DNN" else "super_ticket"
        for task, metrics in tasks.items():
            found = {name: {path: {"mean": value, "values": [value]}} for name, value in metrics.items()}
            axes = {"plm": plm, "method": method, "part": part, "task": task, "seed": 0}
            stage = "single" if part == "full" else "super"
            result = {part: {"metrics": found}, "seeds": [0]}
            yield StudyRun(f"{row} {task}", stage, "super", axes, status="done", result=result)


def test_the_average_is_that_of_the_paper():
    """All averages of Table 1, from the numbers beside them; plain means of the columns are another rule."""
    rows, averages = published("super-tickets-table-1")
    grid = table_grid(load_study("super-tickets-table-1"), "scores", list(runs_of(rows, "whole")))
    at = [column.title for column in grid.columns].index("Average")
    found = {" / ".join(labels): grid.cells[row, at].mean for row, labels in enumerate(grid.labels)}
    assert found == {row: pytest.approx(averages["scores", row], abs=6e-4) for _, row in rows}
    assert len(found) == 4
    means = [value for metrics in rows["scores", "BASE / ST-DNN"].values() for value in metrics.values()]
    assert abs(sum(means) / len(means) - averages["scores", "BASE / ST-DNN"]) > 2e-3


def test_the_averages_of_shared_models_follow_from_their_rows():
    rows, averages = published("super-tickets-table-3")
    assert len(rows) == 8
    for place, tasks in rows.items():
        mean = sum(sum(metrics.values()) / len(metrics) for metrics in tasks.values()) / len(tasks)
        assert mean == pytest.approx(averages[place], abs=6e-4), place


def run(rate, seed, value):
    """A finished run of a setting, or one without a result."""
    result = None if value is None else {"x": value}
    axes = {"rate": rate, "seed": seed}
    return StudyRun(f"{rate}-{seed}", "t", "transfer", axes, status="done" if result else "absent", result=result)


def test_a_cell_has_the_setting_with_the_best_mean():
    found = observe([run(1, 0, 0.5), run(1, 1, 0.7), run(2, 0, 0.9), run(2, 1, 0.2)], "x")
    chosen = make_cell(choose_settings(found, ["rate"]))
    assert (chosen.mean, chosen.n) == (pytest.approx(0.6), 2)  # not the single best run, which has another setting
    assert make_cell(choose_settings(found, ["rate"], "min")).mean == pytest.approx(0.55)


def test_a_setting_that_is_not_done_keeps_its_cell_open():
    found = observe([run(1, 0, 0.5), run(1, 1, 0.7), run(2, 0, 0.9), run(2, 1, None)], "x")
    cell = make_cell(choose_settings(found, ["rate"]))
    assert cell.partial


def test_settings_of_a_run_are_values_with_those_of_its_profile():
    settings = SearchConfig(model="m", corpus="c", profile="paper", objective="kd")
    one = StudyRun("a", "s", "search", {}, status="done", result={"steps": 1}, settings=settings)
    assert [found.value for found in observe([one], "settings.batch_tokens")] == [8192]
    assert [found.value for found in observe([one], "settings.learning_rate")] == [2e-5]
