"""MNLI without its mismatched set: the matched one is measured, the other is null, and nothing breaks on null."""

import json
from pathlib import Path

import pytest

from samples.tiny_tasks import task_data, tasks_fixture
from winning_tickets import Runtime, ShareConfig, TransferConfig, share, transfer
from winning_tickets.cli import show
from winning_tickets.data.metrics import averages, combine_splits
from winning_tickets.data.records import TaskData
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.store.records import shape_problem
from winning_tickets.studies.analysis.averages import average_runs
from winning_tickets.studies.analysis.results import read_runs
from winning_tickets.studies.commands.analyse import averages_text
from winning_tickets.studies.report.observations import StudyRun, observe

QUIET = Runtime(quiet=True)


def without_mismatched(name):
    data = task_data(name)
    if name != "mnli":
        return data
    return TaskData.of(data.task, data.train, {"validation_matched": data.validation["validation_matched"]}, "folder")


_tiny_tasks = tasks_fixture(without_mismatched)


@pytest.fixture(scope="module")
def done(bert, tmp_path_factory):
    """The folder of a transfer with two seeds, and its result."""
    folder = tmp_path_factory.mktemp("runs") / "mnli"
    config = TransferConfig(target=bert, task="mnli", steps=2, batch_size=8, seeds=(0, 1))
    transfer(config, folder, QUIET)
    return folder, json.loads((folder / "result.json").read_text())


def test_the_other_metric_is_null(done):
    folder, result = done
    nothing = {"mean": None, "std": None, "values": [None, None]}
    assert result["metrics"]["accuracy_mismatched"] == {"final": nothing, "best": nothing}
    assert 0 <= result["metrics"]["accuracy_matched"]["final"]["mean"] <= 1
    assert list(result["validation_examples"]) == ["validation_matched"]
    seed = json.loads((folder / "seed-0" / "result.json").read_text())
    assert seed["final"]["accuracy_mismatched"] is seed["best"]["accuracy_mismatched"] is None
    assert "\n  accuracy_mismatched: not measured\n" in show.transfer(result, Path("out")) + "\n"


def test_stored_results_are_read(done):
    folder, result = done
    assert shape_problem("result", result) is None
    assert [cell.metric for cell in read_runs([folder])] == ["accuracy_matched"] * 2
    assert read_runs([folder / "seed-0"])[0].seed == 0
    with pytest.raises(ContentError, match="has no accuracy_mismatched, as its data lacked that split"):
        read_runs([folder], metric="accuracy_mismatched")


def test_averages_take_what_was_measured_and_name_the_rest(done, bert, tmp_path):
    folder, result = done
    transfer(TransferConfig(target=bert, task="rte", steps=2, batch_size=8), tmp_path / "rte", QUIET)
    found = average_runs([folder, tmp_path / "rte"])
    scores = [average_runs([one])["averages"]["task_average"]["final"]["values"] for one in (folder, tmp_path / "rte")]
    assert scores[0] == result["metrics"]["accuracy_matched"]["final"]["values"]
    scores = [values[0] for values in scores]  # only the first seed was run for both
    assert found["averages"]["task_average"]["final"]["mean"] == pytest.approx(sum(scores) / 2)
    assert found["averages"]["column_average"]["final"]["mean"] == pytest.approx(sum(scores) / 2)
    assert found["missing_tasks"][-1] == "mnli accuracy_mismatched"
    assert found["tasks"]["mnli"]["metrics"]["accuracy_mismatched"]["final"]["mean"] is None
    text = averages_text(found)
    assert "mnli accuracy_mismatched: not measured" in text
    assert "These averages are not those of the paper's tables." in text
    with pytest.raises(ContentError, match="The results of mnli lack any metric; found nothing"):
        averages({"mnli": {"accuracy_matched": None, "accuracy_mismatched": None}})


def test_studies_have_a_place_without_a_number(done):
    run = StudyRun("a", "transfer", "transfer", {"task": "mnli"}, status="done", result=done[1])
    found = observe([run], "metrics.*.final")
    assert [(one.axes["metric"], one.state, one.value is None) for one in found] == [
        ("accuracy_matched", "done", False),
        ("accuracy_matched", "done", False),
        ("accuracy_mismatched", "missing", True),
        ("accuracy_mismatched", "missing", True),
    ]
    assert [one.state for one in observe([run], "score")] == ["done", "done"]


def test_tasks_that_share_an_encoder(bert, tmp_path):
    config = ShareConfig(tasks=("mnli", "rte"), model=bert, steps=2, mixing="round-robin", batch_size=4)
    result = share(config, tmp_path / "run", QUIET)
    assert result["tasks"]["mnli"]["metrics"]["accuracy_mismatched"]["best"]["mean"] is None
    assert result["missing_tasks"][-1] == "mnli accuracy_mismatched"
    assert result["averages"]["task_average"]["final"]["mean"] is not None
    assert "mnli accuracy_mismatched: not measured" in show.sharing(result, Path("out"))


def test_the_set_that_is_missing_cannot_be_the_primary_one(bert, tmp_path):
    config = TransferConfig(target=bert, task="mnli", steps=2, batch_size=8)
    for fields in ({"profile": "code"}, {"mnli_dev": "mismatched"}):
        with pytest.raises(
            UsageError,
            match="would be that on validation_mismatched, which the data of mnli lack; they have validation_matched. "
            "Set mnli_dev: matched",
        ):
            transfer(config.model_copy(update=fields), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()
    result = transfer(
        config.model_copy(update={"profile": "code", "mnli_dev": "matched", "eval_steps": 1}), tmp_path / "run", QUIET
    )
    assert result["primary_metric"] == "accuracy_matched"


def test_metrics_of_one_split():
    found = combine_splits(TASKS["mnli"], {"validation_matched": {"accuracy": 0.5}})
    assert found == {"accuracy_matched": 0.5, "accuracy_mismatched": None}
