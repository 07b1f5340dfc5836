"""Choosing among learning rates, epochs and dropouts on one half of the dev set, and reporting the other half."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from samples.tiny_models import make_model
from samples.tiny_tasks import task_data, tasks_fixture
from winning_tickets import Runtime, TransferConfig, transfer
from winning_tickets.cli import show
from winning_tickets.data.tasks import TASKS
from winning_tickets.finetuning import choice
from winning_tickets.finetuning.setup import prepare_transfer
from winning_tickets.runs.errors import Interrupted, UsageError
from winning_tickets.runs.statistics import best_of
from winning_tickets.studies.facts import _fine_tuning

QUIET = Runtime(quiet=True)
_tiny_tasks = tasks_fixture(lambda name: task_data(name, validation=40))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    bert = make_model(tmp_path_factory.mktemp("models") / "bert", head="mlm+pooler")
    return TransferConfig.of(
        target=str(bert), task="rte", steps=2, batch_size=8, learning_rate=[1e-3, 1e-5], select_on=0.5, seeds=(0, 1)
    )


def test_the_best_mean_over_the_seeds_on_one_half_is_chosen_and_the_other_half_is_reported(config, tmp_path):
    result = transfer(config, tmp_path / "run", QUIET)
    alone = {rate: transfer(config.model_copy(update={"learning_rate": rate}), tmp_path / str(rate), QUIET)
             for rate in config.learning_rate}  # fmt: skip
    means = {rate: one["metrics"]["accuracy"]["final_selection"]["mean"] for rate, one in alone.items()}
    chosen = best_of(means)
    assert result["chosen"]["learning_rate"] == result["learning_rate"] == chosen
    assert result["metrics"] == alone[chosen]["metrics"]
    assert {one["learning_rate"]: one["final_selection"]["mean"] for one in result["candidates"]} == means
    assert (tmp_path / "run" / "seed-1" / "result.json").is_file()
    assert set(result["constant"]) == set(TASKS["rte"].metrics)
    text = show.transfer(result, Path("out"))
    assert f"chosen: learning_rate {chosen}" in text
    assert "scores are of 20 dev examples; the best evaluation was chosen on 20 others" in text


def test_finished_candidates_are_not_run_again(config, tmp_path, monkeypatch):
    whole = transfer(config, tmp_path / "whole", QUIET)
    real, done = choice.best_of, []

    def kill(means):
        raise Interrupted(15, "stopped by the test")

    monkeypatch.setattr(choice, "best_of", kill)
    with pytest.raises(Interrupted):
        transfer(config, tmp_path / "killed", QUIET)
    monkeypatch.setattr(choice, "best_of", real)
    monkeypatch.setattr("winning_tickets.finetuning.transfer.run_training", lambda *_: done.append(1))
    assert transfer(config, tmp_path / "killed", QUIET)["metrics"] == whole["metrics"]
    assert not done
    assert transfer(config, tmp_path / "killed", QUIET)["chosen"] == whole["chosen"]


@pytest.mark.parametrize("task", ["mnli", "stsb", "squad"])
def test_tasks_of_all_kinds_are_halved(config, task, tmp_path):
    update = {"task": task, "seeds": (0,), "max_length": 16, "doc_stride": 4 if task == "squad" else None}
    result = transfer(config.model_copy(update=update), tmp_path / "run", QUIET)
    splits = TASKS[task].validation_splits
    assert result["validation_examples"] == result["selection_examples"] == dict.fromkeys(splits, 20)
    assert ("mean accuracy_matched" in result["chosen"]["by"]) == (task == "mnli")
    assert all(len(kinds["final"]["values"]) == 1 for kinds in result["metrics"].values())
    json.dumps(result, allow_nan=False)


def test_every_field_makes_candidates_and_equal_sets_are_one_run(config):
    grid = TransferConfig.of(**dict(config) | {"steps": None, "epochs": ["2", "1"], "dropout": ["model", 0.1]})
    assert len(grid.candidates()) == 8
    assert (grid.epochs, grid.dropout) == ((1.0, 2.0), (0.1, "model"))
    again = TransferConfig.of(**dict(config) | {"learning_rate": [1e-5, 1e-3, 1e-5]})
    assert again == config
    assert TransferConfig.of(**dict(config) | {"learning_rate": [1e-5]}).learning_rate == 1e-5
    assert _fine_tuning(config)["learning_rate"] == (1e-5, 1e-3)


def test_ids_without_a_selection_are_those_of_before(config):
    single = {"learning_rate": 1e-3, "select_on": 0.0}
    found = TransferConfig.of(**dict(config) | single)
    assert "selected" not in found.identity(exclude_defaults=True)
    assert prepare_transfer(found, QUIET).plan.steps == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"select_on": 0.0}, "--learning-rate: of several values one is chosen on a part of the dev set"),
        ({"learning_rate": [1e-3, 0]}, "--learning-rate 0 is impossible; it must be above 0."),
        ({"epochs": [1, 2]}, "--epochs and --steps contradict each other"),
        ({"task": "mlm", "corpus": "pydocs", "select_on": 0.0}, "has no part of its text to choose on"),
    ],
)
def test_what_cannot_be_meant_is_refused(config, fields, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        transfer(TransferConfig.of(**dict(config) | fields), tmp_path / "run", QUIET)
