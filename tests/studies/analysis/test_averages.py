"""Average scores: both rules against the rows of the Super Tickets paper, and over seeds of stored transfers."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from winning_tickets.cli import app
from winning_tickets.data.metrics import COLUMNS, PAPER_TASKS, averages, column_average, metric_names, task_average
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.studies.analysis.averages import average_runs

# As in the tables: RTE, MRPC acc/F1, CoLA, SST, STS-B Pearson/Spearman, QNLI, QQP acc/F1, MNLI m/mm.
TABLE_1 = {
    "ST-DNN base": ([69.2, 86.2, 90.4, 57.8, 92.9, 89.7, 89.2, 91.2, 90.9, 88.0, 84.5, 84.4], 662.75 / 8, 82.8),
    "SuperT base": ([72.5, 87.5, 91.1, 58.8, 93.4, 89.8, 89.4, 91.3, 91.3, 88.3, 84.5, 84.5], 669.2 / 8, 83.7),
    "ST-DNN large": ([72.1, 85.2, 89.5, 62.1, 93.3, 89.9, 89.6, 92.2, 91.3, 88.4, 86.2, 86.1], 672.8 / 8, 84.1),
    "SuperT large": ([74.1, 88.0, 91.4, 64.3, 93.9, 89.9, 89.7, 92.4, 91.4, 88.5, 86.5, 86.2], 680.5 / 8, 85.1),
}
SUPERT_TEST = [69.6, 85.4, 89.4, 54.3, 94.1, 87.4, 86.2, 90.5, 89.1, 71.3, 84.6, 83.8]


def row(numbers: list[float]) -> dict[str, dict[str, float]]:
    """Results by task from the numbers of a table's row."""
    left = iter(numbers)
    return {task: {name: next(left) for name in names} for task, names in PAPER_TASKS.items()}


@pytest.mark.parametrize("name", TABLE_1)
def test_table_1(name: str) -> None:
    """662.75 = 69.2 + 88.3 + 57.8 + 92.9 + 89.45 + 91.2 + 89.45 + 84.45, and so on; the paper prints one digit."""
    numbers, by_hand, printed = TABLE_1[name]
    found = task_average(row(numbers))
    assert found.value == pytest.approx(by_hand, abs=1e-9)
    # A mean of exactly 83.65 is printed as 83.7.
    assert abs(found.value - printed) < 0.05 + 1e-9
    assert (found.missing, found.beyond) == ((), ())
    assert list(found.scores) == list(PAPER_TASKS)


def test_table_2() -> None:
    found = column_average(row(SUPERT_TEST))
    assert found.value == pytest.approx(723.8 / 9, abs=1e-9)
    assert round(found.value, 1) == 80.4
    assert sum(len(values) for values in found.scores.values()) == 9
    assert found.scores["mnli"] == (84.6, 83.8)
    devlin = {"rte": {"accuracy": 66.4}, "mrpc": {"f1": 88.9}, "cola": {"matthews": 52.1}, "sst2": {"accuracy": 93.5},
              "stsb": {"spearman": 85.8}, "qnli": {"accuracy": 90.5}, "qqp": {"f1": 71.2},
              "mnli": {"accuracy_matched": 84.6, "accuracy_mismatched": 83.4}}  # fmt: skip
    assert round(column_average(devlin).value, 1) == 79.6
    with pytest.raises(ContentError, match="The results of mrpc lack accuracy; found f1"):
        task_average(devlin)


def test_the_rules_differ_where_they_should() -> None:
    """Changing a first metric of a pair, or MNLI as a whole, moves the two averages differently."""
    base = {name: average.value for name, average in averages(row(SUPERT_TEST)).items()}
    moved = {**row(SUPERT_TEST), "qqp": {"accuracy": 99.1, "f1": 71.3}}
    assert averages(moved)["task_average"].value == pytest.approx(base["task_average"] + 10 / 2 / 8)
    assert averages(moved)["column_average"].value == pytest.approx(base["column_average"])
    moved = {**row(SUPERT_TEST), "mnli": {"accuracy_matched": 94.6, "accuracy_mismatched": 93.8}}
    assert averages(moved)["task_average"].value == pytest.approx(base["task_average"] + 10 / 8)
    assert averages(moved)["column_average"].value == pytest.approx(base["column_average"] + 2 * 10 / 9)


def test_the_tables_need_what_transfer_stores() -> None:
    for task, names in PAPER_TASKS.items():
        assert metric_names(TASKS[task]) == names
        assert set(COLUMNS[task]) <= set(names)


def test_fewer_and_other_tasks_are_named() -> None:
    results = {"squad": {"exact_match": 0.8, "f1": 0.9}, "rte": {"accuracy": 0.6}, "local": {"pearson": 0.2}}
    found = averages(results)
    assert found["task_average"].value == pytest.approx((0.85 + 0.6 + 0.2) / 3)
    assert found["column_average"].value == pytest.approx((0.9 + 0.6 + 0.2) / 3)
    for average in found.values():
        assert average.missing == ("mrpc", "cola", "sst2", "stsb", "qnli", "qqp", "mnli")
        assert average.beyond == ("squad", "local")


def test_nothing_to_average() -> None:
    with pytest.raises(ContentError, match="no task was given"):
        averages({})
    with pytest.raises(ContentError, match="The results of rte hold .*1.7e.308.*; no score is beyond 1e.100"):
        task_average({"rte": {"accuracy": 1.7e308}, "cola": {"matthews": 1.7e308}})
    with pytest.raises(ContentError, match="The results of local lack any metric; found nothing"):
        averages({"local": {}})


def run(folder: Path, task: str, seeds: list[int], **metrics: list[float]) -> Path:
    """A finished transfer; its best values are 0.1 above the final ones."""
    kinds = {name: {"final": values, "best": [value + 0.1 for value in values]} for name, values in metrics.items()}
    stored = {name: {kind: {"values": values} for kind, values in both.items()} for name, both in kinds.items()}
    content: dict[str, Any] = {"verb": "transfer", "task": task, "metrics": stored, "seeds": seeds, "failed_seeds": []}
    content["primary_metric"] = next(iter(metrics))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "result.json").write_text(json.dumps(content | {"ticket_id": None, "sparsity": 0.0}))
    return folder


def test_seeds_are_averaged_one_by_one(tmp_path: Path) -> None:
    rte = run(tmp_path / "rte", "rte", [2, 0, 1], accuracy=[0.3, 0.5, 0.6])
    mrpc = run(tmp_path / "mrpc", "mrpc", [0, 1], accuracy=[0.7, 0.8], f1=[0.8, 1.0])
    found = average_runs([rte, mrpc])
    assert (found["seeds"], found["left_out_seeds"]) == ([0, 1], {"rte": [2]})
    by_hand = [(0.5 + 0.75) / 2, (0.6 + 0.9) / 2]
    final = found["averages"]["task_average"]["final"]
    assert final["values"] == pytest.approx(by_hand)
    assert final["mean"] == pytest.approx(statistics.fmean(by_hand))
    assert final["std"] == pytest.approx(statistics.stdev(by_hand))
    assert final["n"] == 2
    assert found["averages"]["task_average"]["best"]["mean"] == pytest.approx(statistics.fmean(by_hand) + 0.1)
    column = found["averages"]["column_average"]["final"]["values"]
    assert column == pytest.approx([(0.5 + 0.8) / 2, (0.6 + 1.0) / 2])
    assert found["tasks"]["rte"]["metrics"]["accuracy"]["final"]["values"] == [0.5, 0.6]
    assert found["tasks"]["rte"]["run"] == str(rte)
    assert found["missing_tasks"] == ["cola", "sst2", "stsb", "qnli", "qqp", "mnli"]


def test_one_seed_has_no_deviation_and_failed_ones_are_left_out(tmp_path: Path) -> None:
    paths = [
        run(tmp_path / "rte", "rte", [1], accuracy=[0.5]),
        run(tmp_path / "w", "wnli", [0, 1], accuracy=[0.1, 0.3]),
    ]
    found = average_runs(paths)
    final = found["averages"]["column_average"]["final"]
    assert (final["mean"], final["std"], final["n"]) == (pytest.approx(0.4), None, 1)
    assert found["other_tasks"] == ["wnli"]


def test_what_cannot_be_averaged(tmp_path: Path) -> None:
    rte = run(tmp_path / "rte", "rte", [0], accuracy=[0.5])
    again = run(tmp_path / "again", "rte", [0], accuracy=[0.5])
    cola = run(tmp_path / "cola", "cola", [1, 2], matthews=[0.1, 0.2])
    none = run(tmp_path / "none", "sst2", [], accuracy=[])
    with pytest.raises(UsageError, match=r"rte and .*again are both runs of rte; an average takes one per task"):
        average_runs([rte, again])
    with pytest.raises(UsageError, match=r"No seed was run for all tasks \(rte 0; cola 1,2\); .* the same --seeds"):
        average_runs([rte, cola])
    with pytest.raises(ContentError, match="All seeds of .*none failed"):
        average_runs([none])
    with pytest.raises(UsageError, match="No run was given"):
        average_runs([])
    with pytest.raises(UsageError, match="There is no run .*nowhere"):
        average_runs([tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="is not a run; give folders"):
        average_runs([tmp_path])
    (again / "result.json").unlink()
    with pytest.raises(UsageError, match="again has not finished; run its command again"):
        average_runs([again])
    seed = {"verb": "transfer-seed", "task": "rte", "seed": 0, "final": {}, "best": {}, "primary_metric": "accuracy"}
    (again / "result.json").write_text(json.dumps(seed | {"ticket_id": None, "sparsity": 0.0}))
    with pytest.raises(UsageError, match="is one seed of a transfer; give the folder above it"):
        average_runs([again])
    (again / "result.json").write_text('{"verb": "search"}')
    with pytest.raises(ContentError, match="is not a result of tickets transfer"):
        average_runs([again])
    whole = {"verb": "transfer", "task": "rte", "metrics": {}, "ticket_id": None, "sparsity": 0.0}
    for damaged in (
        '{"verb": "transfer"}',
        '{"verb": "transfer", "seeds": [0], "metrics": {"accuracy": 1}}',
        json.dumps(whole | {"seeds": 5}),
        json.dumps(whole | {"seeds": ["0"]}),
        json.dumps(whole | {"seeds": [0, 0]}),
    ):
        (again / "result.json").write_text(damaged)
        with pytest.raises(ContentError, match="was edited"):
            average_runs([again])


def test_the_command(tmp_path: Path) -> None:
    paths = [
        str(run(tmp_path / "rte", "rte", [0, 1, 2], accuracy=[0.5, 0.6, 0.9])),
        str(run(tmp_path / "mrpc", "mrpc", [0, 1], accuracy=[0.7, 0.8], f1=[0.8, 1.0])),
    ]
    done = CliRunner().invoke(app, ["analyse", "average", *paths, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == average_runs(paths)
    done = CliRunner().invoke(app, ["analyse", "average", *paths])
    assert done.stdout.splitlines() == [
        "rte accuracy: final 55.0 ± 7.1, best 65.0 ± 7.1",
        "mrpc accuracy: final 75.0 ± 7.1, best 85.0 ± 7.1",
        "mrpc f1: final 90.0 ± 14.1, best 100.0 ± 14.1",
        "task_average (each task once): final 68.8 ± 8.8, best 78.8 ± 8.8",
        "column_average (the GLUE server's columns): final 72.5 ± 10.6, best 82.5 ± 10.6",
        "seeds: 0, 1",
        "left out, as not all tasks have them: rte 2",
        "missing of the paper's tasks: cola, sst2, stsb, qnli, qqp, mnli",
        "These averages are not those of the paper's tables.",
    ]
