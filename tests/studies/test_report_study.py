"""The report of a study: which numbers it shows, what it says of missing and failed runs, how claims are judged."""

import csv
import io
import json
import statistics
import subprocess
import sys

import pytest

from samples.study_report_samples import PARAMETERS, fill_store, result_of, sample_plan, score_of, write_run
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.store.store import Store
from winning_tickets.studies.plan import part_of
from winning_tickets.studies.report import charts, long_form, report_files, report_study, report_text
from winning_tickets.studies.report.charts import draw_plot
from winning_tickets.studies.report.claims import judge_claim
from winning_tickets.studies.report.grids import condense_cell, form_of, make_cell, required_places, table_grid
from winning_tickets.studies.report.observations import StudyRun, describe_absent, gather_runs, observe
from winning_tickets.studies.report.plots import describe_reached, plot_grid, plot_of

DONE = {"metrics": {"f1": {"final": {"mean": 0.7, "values": [0.6, 0.8]}}}, "primary_metric": "f1", "seeds": [3, 5]}


def lost(point):
    """One run that is missing from the store."""
    return point.stage == "transfer" and point.axes == {
        "method": "OMP", "sparsity": 0.7, "task": "rte", "seed": 2
    }  # fmt: skip


def broken(point):
    """One run that failed."""
    return point.stage == "transfer" and point.axes == {
        "method": "TAMT", "sparsity": 0.7, "task": "mrpc", "seed": 1
    }  # fmt: skip


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    plan = sample_plan()
    return plan, fill_store(tmp_path_factory.mktemp("partial"), plan, lambda point: not lost(point), broken)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    plan = sample_plan()
    return plan, fill_store(tmp_path_factory.mktemp("full"), plan)


def values(plan, **wanted):
    """Scores of finished runs of `transfer` by a naive look at the plan, without the report."""
    return [
        score_of(point.axes)
        for point in plan.points
        if point.stage == "transfer" and all(point.axes[axis] == value for axis, value in wanted.items())
    ]


def titles(grid):
    """The headings of a table."""
    return [column.title for column in grid.columns]


# Observations


def test_a_run_of_several_seeds_gives_a_number_for_each():
    run = StudyRun("a", "transfer", "transfer", {"task": "mrpc"}, status="done", result=DONE)
    found = observe([run], "score")
    assert [(one.axes, one.state, one.value) for one in found] == [
        ({"task": "mrpc", "seed": 3}, "done", 0.6),
        ({"task": "mrpc", "seed": 5}, "done", 0.8),
    ]
    assert [one.axes.get("metric") for one in observe([run], "metrics.*.final")] == ["f1", "f1"]


def test_seeds_that_failed_inside_a_run_are_failed_and_have_no_number():
    run = StudyRun("a", "transfer", "transfer", {}, status="done", result={**DONE, "failed_seeds": [7]})
    assert [(one.axes["seed"], one.state, one.value) for one in observe([run], "score")][-1] == (7, "failed", None)
    none = {"metrics": {}, "primary_metric": "f1", "seeds": [], "failed_seeds": [0]}
    run = StudyRun("a", "transfer", "transfer", {}, status="done", result=none)
    assert [(one.state, one.value) for one in observe([run], "score")] == [("failed", None)]


@pytest.mark.parametrize("status", ["absent", "running", "unfinished"])
def test_a_run_that_is_not_done_has_a_place_for_each_planned_seed_and_metric(status):
    config = {"seeds": [0, 1]}
    run = StudyRun("a", "transfer", "transfer", {"task": "mnli"}, config, status)
    found = observe([run], "metrics.*.final")
    assert [(one.axes["seed"], one.axes["metric"], one.state) for one in found] == [
        (0, "accuracy_matched", "missing"),
        (0, "accuracy_mismatched", "missing"),
        (1, "accuracy_matched", "missing"),
        (1, "accuracy_mismatched", "missing"),
    ]


@pytest.mark.parametrize("value", [None, float("nan"), "0.5", True, [0.5]])
def test_what_is_no_finite_number_is_missing(value):
    run = StudyRun("a", "evaluate", "evaluate", {}, status="done", result={"kd_loss": value})
    assert [(one.state, one.value) for one in observe([run], "kd_loss")] == [("missing", None)]


def test_places_in_lists():
    run = StudyRun("a", "search", "search", {}, status="done", result={"rungs": [{"x": 1}, {"x": 2}]})
    paths = ("rungs.0.x", "rungs.-1.x", "rungs.2.x", "rungs.--1.x", "rungs.-.x", "rungs.².x", f"rungs.{'9' * 5000}.x")
    assert [observe([run], path)[0].value for path in paths] == [1, 2, None, None, None, None, None]


def test_what_no_run_can_measure_is_refused():
    run = StudyRun(
        "a", "evaluate", "evaluate", {}, status="done", result={"kd_loss": 1e200}, facts={"path": "runs/a/x"}
    )
    with pytest.raises(ContentError, match=r"runs/a/x has the value 1e\+200, and no run measures more than 1e\+100"):
        observe([run], "kd_loss")


def test_a_result_of_a_failed_run_is_never_read():
    run = StudyRun("a", "evaluate", "evaluate", {}, status="failed", result={"kd_loss": 0.1})
    assert [(one.state, one.value) for one in observe([run], "kd_loss")] == [("failed", None)]


# Cells


def numbered(run_id, value, **axes):
    result = None if value is None else {"x": value}
    return observe(
        [StudyRun(run_id, "s", "evaluate", axes, status="absent" if value is None else "done", result=result)], "x"
    )


def test_tasks_are_averaged_inside_each_seed_and_only_seeds_with_all_tasks_count():
    observations = [
        *numbered("a", 0.2, task="rte", seed=0),
        *numbered("b", 0.4, task="mrpc", seed=0),
        *numbered("c", 0.6, task="rte", seed=1),
        *numbered("d", None, task="mrpc", seed=1),
    ]
    cell = make_cell(observations, ["task"])
    assert cell.values == (pytest.approx(0.3),)
    assert (cell.n, cell.expected, cell.failed, cell.partial) == (1, 2, 0, True)
    assert cell.text(lambda value: f"{value:.2f}") == "0.30 (1 of 2)"


def test_a_row_that_lacks_a_task_of_the_others_has_no_mean():
    own = numbered("a", 0.2, task="rte", seed=0)
    everything = [*own, *numbered("b", 0.4, task="mrpc", seed=0)]
    assert make_cell(own, ["task"], required_places(everything, ["task"])).text(str) == "– (0 of 1)"


def test_one_run_at_several_places_is_one_number():
    same = [*numbered("a", 0.2, search_seed=0), *numbered("a", 0.2, search_seed=1)]
    other = numbered("b", 0.4, search_seed=2)
    assert make_cell([*same, *other]).values == (0.2, 0.4)
    assert make_cell(same).summary.std is None


# Tables


def test_markdown_of_a_complete_table(full):
    plan, store = full
    text = table_grid(plan.study, "main", gather_runs(plan, store)).markdown()
    assert text == (
        "**Scores**\n\n"
        "| method | sparsity |            rte | rte (paper) |           mrpc |           mean |\n"
        "| ------ | -------- | -------------: | ----------: | -------------: | -------------: |\n"
        "| dense  | –        | **70.5 ± 0.5** |             | **80.5 ± 0.5** | **75.5 ± 0.5** |\n"
        "| OMP    | 0.5      |     64.5 ± 0.5 |             |     74.5 ± 0.5 |     69.5 ± 0.5 |\n"
        "| OMP    | 0.7      |     62.5 ± 0.5 |             |     72.5 ± 0.5 |     67.5 ± 0.5 |\n"
        "| TAMT   | 0.5      |     66.6 ± 0.6 |  66.8 ± 1.1 |     76.6 ± 0.6 |     71.6 ± 0.6 |\n"
        "| TAMT   | 0.7      |     64.6 ± 0.6 |             |     74.6 ± 0.6 |     69.6 ± 0.6 |\n\n"
        "Mean ± standard deviation (ddof=1) of 3 repetitions.\n\n"
        "mean: the mean over the columns inside each repetition first.\n"
    )


def test_partial_and_failed_cells_say_so(partial):
    plan, store = partial
    grid = table_grid(plan.study, "main", gather_runs(plan, store))
    text = grid.markdown()
    # 62.25 and its deviation, over the two seeds that are there.
    assert "| 62.3 ± 0.4 (2 of 3) |" in text
    assert "74.6 ± 0.8 (2 of 3, 1 failed)" in text
    assert "4 of 15 cells are partial and say how many they have" in text
    column = titles(grid).index("mean")
    row = grid.labels.index(("TAMT", "0.7"))
    expected = [
        statistics.fmean(values(plan, method="TAMT", sparsity=0.7, seed=seed)) for seed in (0, 2)
    ]  # seed 1 failed on one task
    assert grid.cells[row, column].values == pytest.approx(expected)
    assert (row, 2) not in grid.bold, "a partial or lower cell is not the best"


def test_latex_of_a_partial_table(partial):
    plan, store = partial
    lines = table_grid(plan.study, "main", gather_runs(plan, store)).latex().splitlines()
    assert lines[0] == r"\begin{table}"
    assert lines[4:7] == [
        r"\begin{tabular}{llrrrr}",
        r"\toprule",
        r"method & sparsity & rte & rte (paper) & mrpc & mean \\",
    ]
    assert r"dense & -- & \textbf{70.5 $\pm$ 0.5} &  & \textbf{80.5 $\pm$ 0.5} & \textbf{75.5 $\pm$ 0.5} \\" in lines
    assert lines[-3:] == [r"\bottomrule", r"\end{tabular}", r"\end{table}"]


def test_csv_of_a_table_is_unrounded_and_names_the_runs(full):
    plan, store = full
    rows = list(csv.DictReader(io.StringIO(table_grid(plan.study, "main", gather_runs(plan, store)).csv())))
    assert len(rows) == 15
    (row,) = [one for one in rows if (one["method"], one["sparsity"], one["column"]) == ("TAMT", "0.5", "rte")]
    own = values(plan, method="TAMT", sparsity=0.5, task="rte")
    assert float(row["mean"]) == pytest.approx(statistics.fmean(own), abs=1e-15)
    assert float(row["std"]) == pytest.approx(statistics.stdev(own))
    assert (row["n"], row["planned"], row["failed"], row["published"], row["published_std"]) == (
        "3", "3", "0", "0.668", "0.011"
    )  # fmt: skip
    runs = [
        point.run
        for point in plan.points
        if point.axes.items() >= {"method": "TAMT", "sparsity": 0.5, "task": "rte"}.items()
    ]
    assert row["runs"].split() == runs


def test_every_metric_has_its_own_column_also_before_any_run_is_done(tmp_path):
    def with_mnli(body):
        body["scales"]["smoke"] = {**PARAMETERS, "tasks": ["mnli", "mrpc"]}

    plan = sample_plan(with_mnli)
    heads = ["mnli accuracy_matched", "mnli accuracy_mismatched", "mrpc accuracy", "mrpc f1"]
    empty = table_grid(plan.study, "metrics", gather_runs(plan, Store(tmp_path / "none")))
    assert titles(empty)[1:] == heads
    assert {cell.text(str) for cell in empty.cells.values()} == {"– (0 of 3)"}
    done = table_grid(plan.study, "metrics", gather_runs(plan, fill_store(tmp_path / "all", plan)))
    assert titles(done)[1:] == heads
    means = [done.cells[done.labels.index(("OMP",)), column].mean for column in range(1, 5)]
    assert means == pytest.approx([0.695, 0.795, 0.745, 0.845])


def test_a_path_that_no_run_has_is_told(full):
    def misspelt(body):
        body["tables"]["main"]["values"] = {"score": "metrics.acuracy.final"}

    plan = sample_plan(misspelt)
    grid = table_grid(plan.study, "main", gather_runs(plan, full[1]))
    assert grid.problems == (
        "main: No finished run has metrics.acuracy.final; their results have failed_seeds, metrics, primary_metric, "
        "run_id, seeds, sparsity, task, ticket_id, verb, versions.",
    )


ABSENT = {"stage": "transfer", "value": "score.last"}


@pytest.mark.parametrize(
    ("claim", "fields"),
    [
        ("better", {"value": "score.last"}),
        ("better", {"better": {"axis": None, "first": None, "second": ABSENT}}),
        ("loss", {"correlates": {"x": ABSENT, "y": {"stage": "transfer"}, "sign": "positive"}}),
    ],
)
def test_a_path_of_a_claim_that_no_run_has_is_told(full, claim, fields):
    def misspelt(body):
        body["claims"][claim] |= fields

    plan = sample_plan(misspelt)
    _, report = report_files(plan, full[1], ())
    (problem,) = report["problems"]
    assert problem.startswith(f"{claim}: No finished run has score.last; their results have failed_seeds, metrics, ")


def test_a_path_without_a_value_is_right():
    """No sparsity may have a winning ticket."""
    runs = [StudyRun("r", "s", "analyse", {}, status="done", result={"highest": [{"highest": None}]})]
    assert describe_absent("highest.0.highest", runs) == []
    assert describe_absent("highest.0.hihgest", runs) == [
        "No finished run has highest.0.hihgest; their results have highest."
    ]


# Figures


def path_value(path, axes, result, facts=None):
    """The one number at a path."""
    run = StudyRun("r", "s", "super", axes, status="done", result=result, facts=facts or {})
    (one,) = observe([run], path)
    return one.value


def test_paths_may_hold_axes():
    result = {"selections": {"winning": {"10": {"mean": 0.1}, "12.5": {"mean": 0.2}}}, "full": {"mean": 0.3}}
    path = "selections.${selection}.${level}.mean"
    assert path_value(path, {"selection": "winning", "level": 10}, result) == 0.1
    assert path_value(path, {"selection": "winning", "level": 12.5}, result) == 0.2
    assert path_value(path, {"selection": "losing", "level": 10}, result) is None
    assert path_value("${part}.mean", {"part": "full"}, result) == 0.3
    assert path_value("${part}.mean", {}, result) is None


def test_the_score_of_one_task_of_several():
    def task(metric, value):
        return {"primary_metric": metric, "metrics": {metric: {"best": {"values": [value]}}, "other": {}}}

    result = {"tasks": {"rte": task("accuracy", 0.5), "stsb": task("pearson", 0.7)}, "seeds": [4]}
    assert path_value("tasks.${task}.score.best", {"task": "stsb"}, result) == 0.7
    assert path_value("tasks.${task}.score.best", {"task": "rte"}, result) == 0.5


def test_an_entry_of_a_list_is_found_by_what_it_says():
    rungs = {
        "rungs": [{"sparsity": 0.4999, "steps": 3, "folder": "a"}, {"sparsity": 0.6998, "steps": 5, "folder": "b"}]
    }
    assert path_value("rungs.sparsity=${sparsity}.steps", {"sparsity": 0.7}, rungs) == 5
    assert path_value("rungs.sparsity=${sparsity}.steps", {"sparsity": 0.6}, rungs) is None
    assert path_value("rungs.sparsity=${sparsity}.steps", {}, rungs) is None
    assert path_value("rungs.folder=a.steps", {}, rungs) == 3


def test_what_the_store_tells_of_a_run_is_a_value():
    assert path_value("run.seconds", {}, {"run": {"seconds": 1.0}}, {"seconds": 12.5}) == 12.5


@pytest.mark.parametrize(
    ("statistic", "expected"), [("median", 2.0), ("best", 7.0), ("std", statistics.stdev([1, 2, 7]))]
)
def test_other_statistics_than_the_mean(statistic, expected):
    runs = [StudyRun(f"r{i}", "s", "v", {"i": i}, status="done", result={"x": x}) for i, x in enumerate((2, 7, 1))]
    cell = condense_cell(make_cell(observe(runs, "x")), statistic)
    assert cell.values == (pytest.approx(expected),)
    assert (cell.partial, cell.run_ids) == (False, ("r0", "r1", "r2"))
    missing = condense_cell(make_cell(observe([*runs, StudyRun("r3", "s", "v", {"i": 3})], "x")), statistic)
    assert (missing.values, missing.text(str)) == ((), "– (0 of 1)")
    single = condense_cell(make_cell(observe(runs[:1], "x")), statistic)
    assert single.values == (() if statistic == "std" else (2.0,))


def test_a_table_of_another_statistic_says_so(full):
    def deviations(body):
        body["tables"]["main"]["statistic"] = "std"

    grid = table_grid(sample_plan(deviations).study, "main", gather_runs(*full))
    assert grid.notes[0] == "Standard deviation (ddof=1) of the repetitions, once all of them are there."
    row, column = grid.labels.index(("TAMT", "0.5")), titles(grid).index("rte")
    own = values(full[0], method="TAMT", sparsity=0.5, task="rte")
    assert grid.cells[row, column].values == (pytest.approx(statistics.stdev(own)),)


def test_a_level_may_have_a_value_of_its_own(full):
    def with_level(body):
        body["figures"]["scores"]["level"] = [{"stage": "dense", "value": "seeds.0"}]

    plot = plot_of(sample_plan(with_level).study, "scores", gather_runs(*full))
    assert plot.panels[0].levels["dense"].summary.mean == pytest.approx(1.0)  # the mean of the seeds 0, 1 and 2


def test_a_level_has_the_name_that_its_runs_have_in_tables(full):
    def renamed(body):
        body["stages"]["dense"].setdefault("label", {})["method"] = "Full"
        body["figures"]["scores"]["reach"] = "dense"

    plan = sample_plan(renamed)
    plot = plot_of(plan.study, "scores", gather_runs(plan, full[1]))
    assert list(plot.panels[0].levels) == ["Full"]
    assert "no number yet" not in " ".join(describe_reached(plot))


def test_a_line_has_the_means_of_seeds_over_tasks_and_the_dense_level(full):
    plan, store = full
    plot = plot_of(plan.study, "scores", gather_runs(plan, store))
    (panel,) = plot.panels
    assert [curve.name for curve in panel.curves] == ["OMP", "TAMT"]
    tamt = panel.curves[1]
    assert [point.x for point in tamt.points] == [0.5, 0.7]
    per_seed = [statistics.fmean(values(plan, method="TAMT", sparsity=0.7, seed=seed)) for seed in (0, 1, 2)]
    assert tamt.points[1].cell.values == pytest.approx(per_seed)
    assert panel.levels["dense"].summary.mean == pytest.approx(0.755)


def test_where_lines_reach_a_score(full):
    runs = gather_runs(*full)
    plan = full[0]
    assert describe_reached(plot_of(plan.study, "scores", runs)) == [
        "OMP does not reach 70.0.",
        "TAMT reaches 70.0 first at sparsity 0.5.",
    ]

    def best_of_omp(body):
        body["figures"]["scores"]["reach"] = "OMP"

    assert describe_reached(plot_of(sample_plan(best_of_omp).study, "scores", runs)) == [
        "TAMT reaches 69.5 first at sparsity 0.5."
    ]

    def dense(body):
        body["figures"]["scores"]["reach"] = "dense"

    assert describe_reached(plot_of(sample_plan(dense).study, "scores", runs)) == [
        "OMP does not reach 75.5.",
        "TAMT does not reach 75.5.",
    ]


def test_a_scatter_matches_runs_of_two_stages_by_the_axes_that_both_have(full):
    plan, store = full
    plot = plot_of(plan.study, "loss", gather_runs(plan, store))
    points = [point for curve in plot.panels[0].curves for point in curve.points]
    assert [(point.name, point.x) for point in points] == [
        ("OMP / 0.5", 0.15), ("OMP / 0.7", 0.19), ("TAMT / 0.5", 0.1), ("TAMT / 0.7", 0.14)
    ]  # fmt: skip
    assert points[2].cell.values == (pytest.approx(statistics.fmean(values(plan, method="TAMT", sparsity=0.5))),)
    found = plot.panels[0].correlation
    xs, ys = [point.x for point in points], [point.cell.summary.mean for point in points]
    assert found["n"] == 4
    assert found["pearson"] == pytest.approx(statistics.correlation(xs, ys))


def test_a_heat_map_and_its_table(full):
    plan, store = full
    plot = plot_of(plan.study, "heat", gather_runs(plan, store))
    assert {place: cell.values for place, cell in plot.panels[0].matrix.items()} == {
        ("OMP", "0.5"): (0.15,), ("OMP", "0.7"): (0.19,), ("TAMT", "0.5"): (0.1,), ("TAMT", "0.7"): (0.14,)
    }  # fmt: skip
    grid = plot_grid(plot)
    assert (grid.labels, titles(grid)) == ([("OMP",), ("TAMT",)], ["method", "0.5", "0.7"])


def overlap_plot(result):
    def overlap(body):
        body["stages"]["compare"] = {
            "verb": "compare", "with": {"targets": ["@search"]}, "label": {"ticket": "all"}
        }  # fmt: skip
        body["figures"] = {
            "overlap": {"kind": "heatmap", "stage": "compare", "x": "ticket", "y": "kept_jaccard", "title": "Overlap"}
        }

    plan = sample_plan(overlap)
    (run_id,) = {point.run for point in plan.points if point.stage == "compare"}
    facts = {"path": "runs/a/result.json"}
    return plot_of(plan.study, "overlap", [StudyRun(run_id, "compare", "compare", {}, {}, "done", result, facts=facts)])


def test_a_heat_map_of_a_matrix_in_one_result():
    plot = overlap_plot({"names": ["a", "b"], "kept_jaccard": [[1.0, 0.25], [0.25, 1.0]]})
    assert plot.panels[0].matrix["a", "b"].values == (0.25,)
    assert plot.problems == ()
    assert [[cell.text(lambda x: f"{x:g}")] for cell in plot_grid(plot).cells.values()] == [
        ["1"],
        ["0.25"],
        ["0.25"],
        ["1"],
    ]


@pytest.mark.parametrize(
    "matrix", [[[1.0, 0.25], [0.25]], [[1.0, 0.25]], [[1.0, "x"], [0.25, 1.0]], [[1.0, True], [0, 1]], [[1.0, 0.25], 1]]
)
def test_a_matrix_that_was_edited_is_refused(matrix):
    message = "runs/a/result.json has a kept_jaccard that is no matrix of numbers for its 2 names: it was edited"
    with pytest.raises(ContentError, match=message):
        overlap_plot({"names": ["a", "b"], "kept_jaccard": matrix})


def test_names_in_a_result_do_not_decide_how_large_a_picture_is(monkeypatch):
    names = ["a" * 100_000, "b" * 100_000]
    plot = overlap_plot({"names": names, "kept_jaccard": [[1.0, 0.5], [0.5, 1.0]]})
    text = draw_plot(plot, ["svg"], plot_grid(plot))["svg"].decode()
    assert [name[:37] + "..." in text for name in names] == [True, True]
    assert names[0][:38] not in text
    assert 'height="324pt"' in text  # 4.5 inches for two rows and 40 characters
    monkeypatch.setattr(charts, "_MOST_INCHES", 4.25)
    plot = overlap_plot({"names": list("abcdefgh"), "kept_jaccard": [[0.5] * 8] * 8})
    text = draw_plot(plot, ["svg"], plot_grid(plot))["svg"].decode()
    assert 'width="306pt"' in text
    assert 'height="306pt"' in text


# Claims


def test_a_better_method_holds_by_an_interval_over_tasks_and_seeds(full):
    plan, store = full
    verdict = judge_claim(plan.study, "better", gather_runs(plan, store))
    finding = verdict.finding
    # The differences 0.02, 0.021 and 0.022 of the seeds are the same on all tasks: only the seeds are a sample.
    half = 4.302652730 * 0.001 / 3**0.5  # Student's t, 2 degrees of freedom, 97.5 %
    assert (verdict.word, finding.n, finding.planned) == ("holds", 12, 12)
    assert finding.effect.estimate == pytest.approx(0.021)
    assert finding.effect.interval == pytest.approx((0.021 - half, 0.021 + half))
    assert verdict.reason.startswith("Mean difference +2.1, 95 % interval [+1.9, +2.3], p = ")
    assert verdict.reason.endswith("over 12 of 12 planned pairs (2 tasks, 3 seeds).")


def change_claim(**fields):
    def change(body):
        body["claims"]["better"] |= fields

    return change


def test_the_other_way_round_is_contradicted(full):
    swapped = {"axis": "method", "first": "OMP", "second": "TAMT"}
    plan = sample_plan(change_claim(better=swapped))
    verdict = judge_claim(plan.study, "better", gather_runs(plan, full[1]))
    assert verdict.word == "contradicted"
    plan = sample_plan(change_claim(better=swapped, lower_is_better=True))
    assert judge_claim(plan.study, "better", gather_runs(plan, full[1])).word == "holds"


@pytest.mark.parametrize(("margin", "word"), [(0.03, "holds"), (0.01, "contradicted"), (0.021, "inconclusive")])
def test_not_worse_than_a_margin(full, margin, word):
    def change(body):
        swapped = {"axis": "method", "first": "OMP", "second": "TAMT"}
        body["claims"]["better"] = {
            "text": "Close.", "stage": "transfer", "not_worse": swapped, "margin": margin,
        }  # fmt: skip

    plan = sample_plan(change)
    verdict = judge_claim(plan.study, "better", gather_runs(plan, full[1]))
    assert (verdict.word, verdict.finding.n) == (word, 12)


@pytest.mark.parametrize(("noise", "needed"), [((0.05, -0.04, 0.01), {}), ((0.05, -0.01, 0.01), {"seed": 29})])
def test_a_difference_that_the_runs_do_not_show(tmp_path, noise, needed):
    plan = sample_plan(lambda body: body["scales"].update(smoke={**PARAMETERS, "tasks": ["rte"]}))
    store = fill_store(tmp_path, plan, lambda point: point.stage != "transfer")
    for point in plan.points:
        if point.stage == "transfer" and point.axes["task"] == "rte" and point.axes["sparsity"] == 0.5:
            gain = noise[point.axes["seed"]] if point.axes["method"] == "TAMT" else 0.0
            result = result_of(plan, point)
            result["metrics"]["accuracy"]["final"]["values"] = [0.6 + gain]
            write_run(tmp_path, plan, point, result)
    verdict = judge_claim(plan.study, "better", gather_runs(plan, store))
    assert (verdict.word, verdict.finding.n, verdict.finding.planned) == ("inconclusive", 3, 6)
    size = (4.302652730 + 1.060660172) * statistics.stdev(noise) / 3**0.5  # t, 97.5 % and 80 %
    assert verdict.finding.effect.detectable == pytest.approx(size)
    assert verdict.finding.effect.needed == needed, "at most 100"
    assert verdict.reason.endswith(
        f"The smallest effect that these runs would show in four of five studies is {100 * size:.1f}."
        + (f" If the estimate is right, {needed['seed']} seeds would mostly be enough." if needed else "")
    )


def test_too_few_pairs_give_no_verdict(tmp_path):
    plan = sample_plan()
    store = fill_store(tmp_path, plan, lambda point: point.axes.get("seed", 0) == 0 and point.axes.get("task") != "rte")
    verdict = judge_claim(plan.study, "better", gather_runs(plan, store))
    assert (verdict.word, verdict.finding.effect, verdict.finding.missing_runs) == ("inconclusive", None, 20)
    assert verdict.reason == (
        "2 of 12 planned pairs are there, with 0 to 1 repetitions of a task; a verdict needs 3 of each: "
        "20 runs are missing."
    )


def test_a_correlation_needs_points_and_its_interval_decides(full, tmp_path):
    plan, store = full
    verdict = judge_claim(plan.study, "loss", gather_runs(plan, store))
    assert (verdict.word, verdict.reason) == (
        "inconclusive",
        "4 of 4 planned points are there: 2 methods, and an interval needs 5.",
    )

    def more(body):
        by_objective = {"TAMT": "mlm", "KD": "kd", "MIX": "mlm+kd"}
        body["stages"]["search"]["over"]["method"] = {
            "OMP": {"method": "magnitude"},
            "Rand": {"method": "random"},
            **{name: {"method": "mask-training", "objective": one} for name, one in by_objective.items()},
        }
        body["claims"]["wrong"] = {"text": "Not so.", "correlates": {**body["claims"]["loss"]["correlates"]}}
        body["claims"]["wrong"]["correlates"]["sign"] = "positive"
        wanted = body["claims"]["loss"]["correlates"]
        some = wanted | {"y": wanted["y"] | {"where": [{"sparsity": {"below": 0.6}}]}}
        body["claims"]["some"] = {"text": "So.", "correlates": some}

    plan = sample_plan(more)
    runs = gather_runs(plan, fill_store(tmp_path, plan))
    verdict = judge_claim(plan.study, "loss", runs)
    assert (verdict.word, verdict.finding.n, verdict.finding.planned) == ("holds", 10, 10)
    assert verdict.finding.effect.interval[1] < 0
    assert "planned points of 5 methods. Within methods r = -1.00, over 10 points." in verdict.reason
    assert judge_claim(plan.study, "wrong", runs).word == "contradicted"
    assert judge_claim(plan.study, "some", runs).finding.planned == 5


# All of it


def test_a_report_writes_all_files_and_the_same_bytes_again(partial, tmp_path):
    plan, store = partial
    result = report_study(plan, store, tmp_path / "out")
    assert result["runs"] == {"done": 36, "failed": 1, "missing": 1}
    assert result["claims"]["better"]["verdict"] == "holds"
    assert result["claims"]["better"]["n"] == 10
    there = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(there) == sorted([*result["files"], "report.json"])
    stems = ["table-main", "table-metrics", "figure-scores", "figure-by-task", "figure-loss", "figure-heat"]
    assert {f"{stem}.{suffix}" for stem in stems for suffix in ("md", "tex", "csv")} <= set(there)
    assert {f"{stem}{suffix}" for stem in stems[2:] for suffix in (".svg", "-dark.svg", ".png")} <= set(there)
    assert json.loads(there["report.json"])["problems"] == []
    report_study(plan, store, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == there


def test_a_smaller_report_removes_files_of_the_larger_one(full, tmp_path):
    plan, store = full
    report_study(plan, store, tmp_path, ["md", "csv"])
    assert (tmp_path / "table-main.csv").exists()
    report_study(plan, store, tmp_path, ["md"])
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", *[".md"] * 6]


def test_a_report_of_a_part_leaves_out_what_none_of_its_runs_belongs_to(partial, tmp_path):
    plan, store = partial
    part = part_of(plan, ("stage=evaluate", "method=OMP"))
    result = report_study(part, store, tmp_path / "losses", ["html"])
    shown = [result[kind] for kind in ("tables", "figures", "claims")]
    assert shown == [[], ["heat"], {}]
    assert result["runs"] == {"done": 4, "failed": 0, "missing": 0}
    assert report_text(result).startswith("sample at smoke, part stage=evaluate and method=OMP: 4 of 4 runs done.")
    page = (tmp_path / "losses" / "index.html").read_text()
    assert "<strong>This is a part of the study:</strong> runs with stage=evaluate and method=OMP" in page
    # Missing and failed runs stay in the part that they belong to, and claims are judged on the pairs of that part.
    result = report_study(part_of(plan, ("stage=transfer", "sparsity=0.7")), store, tmp_path / "scores", ["html"])
    assert result["tables"] == ["main"], "the other one shows sparsity 0.5 only"
    assert result["figures"] == ["scores", "by-task", "loss"]
    assert result["runs"] == {"done": 12, "failed": 1, "missing": 1}
    assert (result["claims"]["better"]["n"], result["claims"]["better"]["planned"]) == (4, 6)
    assert report_study(plan, store, tmp_path / "whole", ["md"])["part"] == []


def test_a_report_of_an_empty_store_is_all_missing(tmp_path):
    plan = sample_plan()
    result = report_study(plan, Store(tmp_path / "store"), tmp_path / "out", ["md", "html", "svg"])
    assert result["runs"] == {"done": 0, "failed": 0, "missing": 38}
    assert {claim["verdict"] for claim in result["claims"].values()} == {"inconclusive"}
    assert not list((tmp_path / "out").glob("*.svg"))
    assert "There is nothing to draw yet" in (tmp_path / "out" / "index.html").read_text()


def test_what_the_report_refuses(full, tmp_path):
    plan, store = full
    with pytest.raises(UsageError, match="Unknown format 'pfd'. Did you mean 'pdf'\\?"):
        report_study(plan, store, tmp_path / "out", ["pfd"])
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds files that are not the report of a study; it was left untouched"):
        report_study(plan, store, tmp_path, ["md"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    report_study(plan, store, tmp_path / "out", ["md"])

    def other(body):
        body["name"] = "other"

    with pytest.raises(UsageError, match="holds the report of sample at smoke, this one is of other at smoke"):
        report_study(sample_plan(other), store, tmp_path / "out", ["md"])
    report_study(sample_plan(other), store, tmp_path / "out", ["md"], force=True)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["study"] == "other"


def test_the_long_form_has_every_number_once(full):
    plan, store = full
    runs = gather_runs(plan, store)
    rows = list(csv.DictReader(io.StringIO(long_form(runs))))
    (row,) = [
        one
        for one in rows
        if (one["method"], one["sparsity"], one["task"], one["seed"]) == ("OMP", "0.7", "mrpc", "2")
        and one["value"] == "metrics.f1.final.values.0"
    ]
    assert float(row["number"]) == pytest.approx(
        score_of({"method": "OMP", "sparsity": 0.7, "task": "mrpc", "seed": 2}) + 0.1
    )
    assert row["status"] == "done"
    places = [tuple(one.values())[:-1] for one in rows]
    assert len(places) == len(set(places))
    missing = long_form(gather_runs(plan, Store("/nonexistent-store")))
    assert len(missing.splitlines()) == 1 + 38


def test_no_torch():
    code = "import sys, winning_tickets.studies.report; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("score.best", "50.0"),
        ("full.rest.mean", "50.0"),  # the part of a dev set that chose nothing
        ("super_ticket.selection.mean", "50.0"),
        ("selections.winning.20.whole.mean", "50.0"),
        ("kd_loss", "0.500"),
        ("interest.mean", "0.500"),
    ],
)
def test_scores_are_shown_times_100(path, shown):
    assert form_of(path)(0.5) == shown
