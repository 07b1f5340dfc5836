"""Pictures as the papers print them: differences with dark cells and counts, gains, hours, points, pies, p-values."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from scipy import stats

from samples.study_samples import little
from winning_tickets.runs.errors import UsageError
from winning_tickets.studies.load import load_study, recipe_names
from winning_tickets.studies.report.charts import draw_plot
from winning_tickets.studies.report.grids import table_grid
from winning_tickets.studies.report.observations import StudyRun
from winning_tickets.studies.report.plots import plot_grid, plot_of

TASKS = ("rte", "mrpc")
NOISE = {0: 0.001, 1: -0.003, 2: 0.002}


def scores(**axes):
    """Runs of a source on a task, and of the full model, with their seeds; a source is best on its own task."""
    runs = []
    for source, task, seed in itertools.product(("rte", "mrpc", "MLM"), TASKS, (0, 1, 2)):
        value = 0.6 + 0.01 * (source == task) + 0.02 * (source == "MLM" and task == "rte") + NOISE[seed]
        place = {"source": source, "task": task, "seed": seed} | axes
        runs.append(StudyRun(f"t{len(runs)}", "targets", "transfer", place, {}, "done", {"accuracy": value}))
    for task, seed in itertools.product(TASKS, (0, 1, 2)):
        place = {"row": "Full", "task": task, "seed": seed}
        runs.append(StudyRun(f"d{len(runs)}", "dense", "transfer", place, {}, "done", {"accuracy": 0.65 + NOISE[seed]}))
    return runs


def study(**shown):
    """A study with stages whose axes are labels."""
    one = {"verb": "transfer", "with": {"target": "tiny:bert", "task": "rte"}}
    labels = {"source": ["rte", "mrpc", "MLM"], "task": list(TASKS), "seed": [0, 1, 2]}
    stages = {
        "targets": one | {"label": labels},
        "dense": one | {"label": {"row": "Full", "task": list(TASKS), "seed": [0, 1, 2]}},
        "search": {"verb": "search", "with": {"model": "tiny:bert"}, "label": {"method": ["A", "B"], "step": [1, 2]}},
        "sharing": one | {"label": {"plm": "tiny"}},
    }
    return load_study(little(stages=stages, **shown))


HEAT = {"kind": "heatmap", "stage": "targets", "x": "task", "y": "accuracy", "series": "source"}
FULL = {"stage": "dense", "value": "accuracy", "name": "the full model"}


def heat(runs, published=(), **keys):
    found = study(figures={"f": HEAT | keys}, published=list(published))
    plot = plot_of(found, "f", runs)
    return plot, plot_grid(plot, found.published)


def test_a_heat_map_of_differences_subtracts_inside_each_seed():
    paper = [{"of": "f", "row": "MLM", "column": "rte", "value": -0.0029}]
    plot, grid = heat(scores(), paper, minus=FULL)
    cell = plot.panels[0].matrix["MLM", "rte"]
    assert cell.values == pytest.approx((-0.03,) * 3), "the noise of the seeds is in both and cancels"
    text = grid.markdown()
    assert "| MLM    | -3.00 ± 0.00 |       -0.29 | -5.00 ± 0.00 |" in text
    assert "Differences from the full model, inside each repetition first." in text


def test_colors_of_differences_diverge_from_zero():
    def shown(**keys):
        plot, grid = heat(scores(), **keys)
        svg = draw_plot(plot, ["svg"], grid)["svg"].decode()
        cells = re.findall(r'style="fill: (#[0-9a-f]{6}); stroke: #ffffff', svg)
        numbers = re.findall(r">([-+][\d.]+)<", svg)
        return svg, cells, numbers[: len(cells)]

    svg, cells, numbers = shown(minus={"source": "mrpc"})
    assert numbers == ["+1.00", "-1.00", "+2.00", "-1.00"]
    reds = [int(color[1:3], 16) > int(color[5:7], 16) for color in cells]
    assert reds == [False, True, False, True], "negative ones are red, and positive ones blue"
    assert "minus source mrpc" in svg, "the color bar"
    assert "minus" not in shown()[0], "numbers that are no differences need no color bar"


def test_axes_are_in_words():
    plot, grid = heat(scores())
    svg = draw_plot(plot, ["svg"], grid)["svg"].decode()
    assert ">RTE<" in svg
    assert ">MRPC<" in svg
    plot, grid = lines({"A": {0.5: 0.5, 0.7: 0.6}}, {}, axis="sparsity")
    svg = draw_plot(plot, ["svg"], grid)["svg"].decode()
    assert ">sparsity (%)<" in svg
    assert ">70<" in svg


def test_a_row_of_the_same_figure_is_subtracted_and_left_out():
    plot, _ = heat(scores(), minus={"source": "mrpc"})
    matrix = plot.panels[0].matrix
    assert {row for row, _ in matrix} == {"rte", "MLM"}
    assert matrix["rte", "rte"].mean == pytest.approx(0.01)
    assert matrix["rte", "mrpc"].mean == pytest.approx(-0.01)


def test_what_lacks_its_partner_is_missing():
    runs = [run for run in scores() if run.stage != "dense" or run.axes["seed"] < 2]
    failed = StudyRun("f", "dense", "transfer", {"row": "Full", "task": "rte", "seed": 2}, {}, "failed")
    plot, _ = heat([*runs, failed], minus=FULL)
    cell = plot.panels[0].matrix["MLM", "rte"]
    assert (cell.n, cell.expected, cell.failed) == (2, 3, 1)
    assert plot.panels[0].matrix["MLM", "mrpc"].expected == 2, "no run of the full model is planned for this seed"


def test_dark_cells_reach_the_same_task_and_are_counted():
    plot, grid = heat(scores(), minus=FULL, mark_at_least="same", count="as high")
    panel = plot.panels[0]
    assert panel.marked == {("rte", "rte"), ("mrpc", "mrpc"), ("MLM", "rte")}
    assert {row: cell.mean for row, cell in panel.counts.items()} == {"rte": 1, "mrpc": 1, "MLM": 1}
    lines = grid.markdown().splitlines()
    assert lines[4].endswith("|       1 |")
    assert "| rte    | **-4.00 ± 0.00** |     -5.00 ± 0.00 |" in lines[4]
    assert (
        "Dark, and bold in the table: at least as high as the cell of the same name. as high: the number" in lines[-1]
    )


@pytest.mark.parametrize(("margin", "dark"), [(0.0, 0), (0.035, 1), ("std", 0)])
def test_dark_cells_reach_another_stage_but_for_a_margin(margin, dark):
    plot, _ = heat(scores(), mark_at_least=FULL, mark_margin=margin)
    assert len(plot.panels[0].marked) == dark


def test_a_number_may_be_the_limit_and_an_incomplete_row_has_no_count():
    runs = scores()
    runs[0] = StudyRun("m", "targets", "transfer", runs[0].axes)
    plot, grid = heat(runs, mark_at_least=0, count="n")
    assert {row: cell.mean for row, cell in plot.panels[0].counts.items()} == {"rte": None, "mrpc": 2, "MLM": 2}
    svg = draw_plot(plot, ["svg"], grid)["svg"].decode()
    assert svg.count(">2<") == 2


def test_gains_are_bars_over_a_line_at_zero():
    found = study(figures={"f": HEAT | {"kind": "bar", "minus": {"source": "mrpc"}}})
    plot = plot_of(found, "f", scores())
    assert [curve.name for curve in plot.panels[0].curves] == ["rte", "MLM"]
    assert [point.cell.mean for point in plot.panels[0].curves[0].points] == pytest.approx([0.01, -0.01])
    assert "minus source mrpc" in draw_plot(plot, ["svg"], plot_grid(plot))["svg"].decode()


def test_p_values_are_those_of_claims():
    noise = {("A", seed): value for seed, value in enumerate((0.61, 0.64, 0.62, 0.66, 0.63))}
    noise |= {("B", seed): value for seed, value in enumerate((0.60, 0.61, 0.62, 0.62, 0.62))}
    stage = {"verb": "transfer", "with": {"target": "tiny:bert", "task": "rte"}}
    stage["label"] = {"plm": "BASE", "method": ["A", "B"], "task": "rte", "seed": [0, 1, 2, 3, 4]}
    table = {"stage": "s", "rows": ["plm"], "columns": "task", "values": {"p": "x"}, "minus": {"method": "B"}}
    paper = [{"of": "t", "row": "BASE", "column": "rte", "value": 0.37}]
    found = load_study(little(stages={"s": stage}, tables={"t": table | {"statistic": "p"}}, published=paper))
    runs = [
        StudyRun(f"{method}{seed}", "s", "transfer", {"plm": "BASE", "method": method, "task": "rte", "seed": seed}, {},
                 "done", {"x": value})
        for (method, seed), value in noise.items()
    ]  # fmt: skip
    grid = table_grid(found, "t", runs)
    expected = stats.ttest_rel(*([noise[method, seed] for seed in range(5)] for method in "AB")).pvalue
    assert grid.cells[0, 1].mean == pytest.approx(expected)
    assert f"| BASE | {expected:.2g} |" in " ".join(grid.markdown().split())
    assert "0.37" in grid.markdown()
    assert "Two-sided p-value of the mean difference" in grid.notes[0]
    less = table_grid(found, "t", [*runs[:-1], StudyRun("B4", "s", "transfer", runs[-1].axes)])
    assert less.cells[0, 1].mean is None, "one seed is missing"
    same = [StudyRun(run.id, run.stage, run.verb, run.axes, {}, "done", {"x": 0.5}) for run in runs]
    assert table_grid(found, "t", same).cells[0, 1].mean == 1.0


def lines(heights, figure, folder=None, axis="step"):
    """The plot of a study of two methods along steps, or along another axis."""
    stage = {"verb": "transfer", "with": {"target": "tiny:bert", "task": "rte"}}
    positions = list(next(iter(heights.values())))
    labels = {"method": list(heights), axis: positions, "seed": [0, 1]}
    search = {"verb": "search", "with": {"model": "tiny:bert"}, "label": {"method": list(heights)}}
    keys = {"kind": "line", "stage": "s", "x": axis, "y": "x", "series": "method"} | figure
    found = load_study(little(stages={"s": stage | {"label": labels}, "search": search}, figures={"f": keys}))
    runs = [
        StudyRun(f"{method}{step}{seed}", "s", "transfer", {"method": method, axis: step, "seed": seed}, {}, "done",
                 {"x": value})
        for method, curve in heights.items() for step, value in curve.items() for seed in (0, 1)
    ]  # fmt: skip
    if folder is not None:
        for method, seconds in (("A", 36), ("B", 72)):
            (folder / method).mkdir()
            records = [{"step": step, "seconds": seconds} for step in range(1, 301)]
            text = "\n".join(json.dumps(record) for record in records)
            (folder / method / "metrics.jsonl").write_text(text)
            place = {"method": method}
            runs.append(StudyRun(method, "search", "search", place, {}, "done", {}, folder=folder / method))
    plot = plot_of(found, "f", runs)
    return plot, plot_grid(plot)


def test_hours_are_those_of_the_steps_in_the_log(tmp_path):
    heights = {"A": {100: 0.5, 300: 0.6}, "B": {100: 0.4, 300: 0.5}}
    hours = {"x_at": {"stage": "search", "value": "log.hours"}, "reach": 0.5, "x_label": "hours"}
    plot, grid = lines(heights, hours, tmp_path)
    found = {curve.name: [(point.x, point.cell.mean) for point in curve.points] for curve in plot.panels[0].curves}
    assert found == {
        "A": [(pytest.approx(1.0), 0.5), (pytest.approx(3.0), 0.6)],
        "B": [(pytest.approx(2.0), 0.4), (pytest.approx(6.0), 0.5)],
    }
    assert grid.labels == [("A", "100"), ("A", "300"), ("B", "100"), ("B", "300")]
    assert "B reaches 0.500 first at hours 6." in grid.notes
    assert "hours" in draw_plot(plot, ["svg"], grid)["svg"].decode()


def test_a_gap_is_a_line_of_its_own():
    plot, grid = lines({"A": {100: 0.5, 300: 0.6}, "B": {100: 0.4, 300: 0.3}}, {"gap": ["A", "B"], "reach": "A"})
    gap = plot.panels[0].curves[-1]
    assert (gap.name, [point.cell.mean for point in gap.points]) == ("A - B", pytest.approx([0.1, 0.3]))
    assert not any("A - B" in note for note in grid.notes), "it does not reach anything"
    assert "A - B" in draw_plot(plot, ["svg"], grid)["svg"].decode()


def test_words_come_after_the_numbers_of_a_logarithmic_axis():
    heights = {"A": {"all": 0.6, 1000: 0.4, 10_000: 0.5}}
    plot, grid = lines(heights, {"x_scale": "log"})
    assert [point.x for point in plot.panels[0].curves[0].points] == [1000, 10_000, "all"]
    svg = draw_plot(plot, ["svg"], grid)["svg"].decode()
    assert [svg.index(f">{tick}<") for tick in ("1k", "10k", "all")] == sorted(
        svg.index(f">{tick}<") for tick in ("1k", "10k", "all")
    )


def test_ticks_of_a_logarithmic_axis_are_plain_numbers():
    steps = (2, 5, 10, 25, 50, 100, 500, 600, 700, 800, 900, 1000)
    plot, grid = lines({"A": {step: 1 / step for step in steps}}, {"x_scale": "log"})
    svg = draw_plot(plot, ["svg"], grid)["svg"].decode()
    assert all(f">{tick}<" in svg for tick in ("2", "10", "100", "1k"))
    assert ">600<" not in svg, "no room"
    assert "mathdefault" not in svg


def test_ticks_of_a_logarithmic_axis_at_other_values_are_these_values(tmp_path):
    at = {"x_scale": "log", "x_at": {"stage": "search", "value": "log.hours"}}
    plot, grid = lines({"A": {100: 0.5, 300: 0.6}, "B": {100: 0.4, 300: 0.3}}, at, tmp_path)
    svg = draw_plot(plot, ["svg"], grid)["svg"].decode()
    assert all(f">{hours}<" in svg for hours in (1, 2, 3, 6))
    assert "mathdefault" not in svg


MARKS = re.compile(r'<use [^>]*x="([\d.]+)" y="[\d.]+" style="fill: #(?!333333)(?![^"]*opacity)')
"""Marks of a figure, without ticks, which are gray, and without the pale values of single seeds."""


def test_lines_of_one_position_are_points_beside_each_other():
    plot, grid = lines({"A": {100: 0.5}, "B": {100: 0.5}, "C": {100: 0.5}}, {})
    svg = draw_plot(plot, ["svg"], grid)["svg"].decode()
    # The first three marks are the points, and the next ones those of the legend.
    marks = MARKS.findall(svg)
    first, second, third = map(float, marks[:3])
    assert third - second == pytest.approx(second - first)
    assert second - first > 20


def test_a_line_chart_without_runs_is_drawn():
    plot, grid = lines({"A": {}}, {})
    assert not any(panel.curves for panel in plot.panels)
    assert draw_plot(plot, ["svg"], grid)["svg"].startswith(b"<svg")


def test_single_points_beside_a_line_do_not_hide_each_other():
    plot, grid = lines({"A": {100: 0.5, 200: 0.5}, "B": {200: 0.5}, "C": {200: 0.5}}, {})
    svg = draw_plot(plot, ["svg"], grid)["svg"].decode()
    marks = MARKS.findall(svg)
    left, right, *alone = map(float, marks[:4])
    assert sum(alone) / 2 == pytest.approx(right, abs=0.1)
    assert alone[1] - alone[0] == pytest.approx(0.02 * (right - left), rel=0.1)


def test_many_single_points_beside_a_line_are_all_inside_the_panel():
    alone = [f"B{index}" for index in range(9)]
    plot, grid = lines({"A": {100: 0.5, 200: 0.5}} | {name: {200: 0.5} for name in alone}, {})
    svg = draw_plot(plot, ["svg"], grid)["svg"].decode()
    marks = MARKS.findall(svg)
    left, width = map(
        float, re.search(r'<clipPath[^>]*>\s*<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg).groups()
    )
    places = [float(mark) for mark in marks[: 2 + len(alone)]]
    assert left + 5 < min(places)
    assert max(places) < left + width - 5


def test_the_full_model_is_a_point_of_a_scatter():
    x, y = {"stage": "targets", "value": "loss"}, "accuracy"
    points = {"Full BERT": {"x": {"stage": "dense", "value": "loss"}, "y": {"stage": "dense", "value": "accuracy"}}}
    figure = {"kind": "scatter", "stage": "targets", "x": x, "y": y, "series": "source", "points": points}
    runs = [
        StudyRun(run.id, run.stage, run.verb, run.axes, {}, "done", {**run.result, "loss": 2.0 + index / 10})
        for index, run in enumerate(scores())
    ]
    plot = plot_of(study(figures={"f": figure}), "f", runs)
    point = plot.panels[0].points["Full BERT"]
    losses = [run.result["loss"] for run in runs if run.stage == "dense"]
    assert point.x == pytest.approx(sum(losses) / len(losses))
    assert point.cell.mean == pytest.approx(0.65)
    grid = plot_grid(plot)
    assert grid.labels[-1] == ("Full BERT", "point")
    assert "Full BERT" in draw_plot(plot, ["svg"], grid)["svg"].decode()


def test_pies_of_importance():
    structures = [
        {"unit": "heads", "layer": 0, "index": 1, "importance": 0.5, "share": {"rte": 0.9, "cola": 0.1}},
        {"unit": "ffns", "layer": 0, "index": 0, "importance": 0.2, "share": {"rte": 0.5, "cola": 0.5}},
    ]
    result = {
        "encoder": {"layers": 1, "heads": 2}, "tasks": [{"task": "rte"}, {"task": "cola"}], "structures": structures,
        "importance": {"definition": "d"},
    }  # fmt: skip
    found = study(figures={"f": {"kind": "pies", "stage": "sharing", "x": "plm"}})
    run = StudyRun("s", "sharing", "analyse", {"plm": "tiny"}, {}, "done", result)
    plot = plot_of(found, "f", [run])
    grid = plot_grid(plot)
    assert grid.labels == [("head 0.1",), ("FFN 0",)]
    assert [column.title for column in grid.columns] == ["structure", "importance", "rte", "cola"]
    assert grid.cells[0, 2].mean == 0.9
    svg = draw_plot(plot, ["svg"], grid)["svg"].decode()
    assert ">RTE<" in svg
    assert ">CoLA<" in svg
    missing = plot_of(found, "f", [StudyRun("s", "sharing", "analyse", {"plm": "tiny"})])
    assert missing.empty


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"minus": {"sauce": "MLM"}}, "Unknown axis 'sauce'. Did you mean 'source'"),
        ({"minus": {"stage": "dens"}}, "Unknown stage 'dens'. Did you mean 'dense'"),
        ({"mark_at_least": {"stage": "dens"}}, "Unknown stage 'dens'"),
    ],
)
def test_unknown_stages_and_axes_are_told(keys, told):
    with pytest.raises(UsageError, match=told):
        heat(scores(), **keys)


PRINTED = {"bert-tickets-figure-5": 144, "bert-tickets-figure-7": 60, "bert-tickets-figure-8": 60}


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_the_printed_differences_stand_beside_ours(name):
    """The numbers and the counts of a figure, masked language modeling as a target among them."""
    assert name in recipe_names()
    found = load_study(name)
    assert len(found.published) == PRINTED[name]
    figure = found.figures["transfer"]
    assert figure.minus is not None
    assert {number.column for number in found.published} >= {"mnli", "squad", "mlm", figure.count}
