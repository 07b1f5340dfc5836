"""Task files: definitions of tasks of the user's own files, all mistakes at once, and a transfer from end to end."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from samples.tiny_models import TEXT, make_model
from winning_tickets import Runtime, TransferConfig, transfer
from winning_tickets.cli import app
from winning_tickets.data.task_files import load_definitions
from winning_tickets.finetuning.setup import prepare_transfer
from winning_tickets.models.heads import load_for_task
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.training.task_data import load_data

FILES = "train_file: train.csv, validation_file: dev.csv"
ONE = f"t: {{{FILES}, text_columns: body, label_column: topic, dropout_p: 0.25, train_size: 16, learning_rate: 0.002}}"
QUIET = Runtime(quiet=True)


@pytest.fixture
def write(tmp_path):
    def put(text):
        (tmp_path / "tasks.yml").write_text(text, encoding="utf-8")
        return tmp_path / "tasks.yml"

    return put


def test_the_keys_of_a_task(write, tmp_path):
    (tmp_path / "train.csv").write_text("body,topic\na cat,x\na dog,y\nrain,\n")
    (tmp_path / "dev.csv").write_text("body,topic\na bird,y\n")
    path = write(
        f"support: {{{FILES}, text_columns: body, label_column: topic, metric: macro_f1, drop_unlabelled: true,\n"
        "  weight: 2, learning_rate: 0.001, dropout_p: 0.1, train_size: 0.5%, ticket: tickets/mine}\n"
        f"other: {{{FILES}, train_size: 100, text_columns: [a, b]}}\n"
    )
    support, other = load_definitions(path).values()
    assert (support.text_columns, support.ticket, support.train_size) == (("body",), "tickets/mine", "0.5%")
    assert (other.text_columns, other.train_size, other.weight) == (("a", "b"), "100", 1.0)
    data = load_data(TransferConfig(target="m", task="support", task_file=str(path)))
    task = data.task
    assert (task.name, task.labels, task.metrics) == ("support", ("x", "y"), ("macro_f1", "accuracy"))
    assert (task.weight, task.learning_rate, task.head_dropout, task.train_size) == (2.0, 0.001, 0.1, "0.5%")
    assert data.unlabelled == {"train": 1, "validation": 0}


def test_only_the_tasks_that_are_wanted_must_be_right(write):
    path = write(f"a: {{{FILES}}}\nb: {{{FILES}}}\nc: {{train_file: x.csv}}\n")
    assert list(load_definitions(path, ["b", "a"])) == ["b", "a"]
    with pytest.raises(UsageError, match=r"tasks.yml: Unknown task 'support'. Known: a, b, c."):
        load_definitions(path, ["support"])


def test_all_problems_at_once(write):
    path = write(
        "a: {train_file: train.csv, labelcolumn: topic}\n"
        f"b: {{{FILES}, dropout_p: 1, weight: 0, learning_rate: -1, train_size: ten, kind: mlm}}\n"
        "'../c': {}\n"
        "d: 7\n"
    )
    with pytest.raises(UsageError) as caught:
        load_definitions(path)
    assert str(caught.value).splitlines() == [
        f"{path}, line 1, task a: validation_file is missing.",
        f"{path}, line 1, task a: Unknown field 'labelcolumn'. Did you mean 'label_column' or 'text_columns'? Known: "
        "drop_unlabelled, dropout_p, kind, label_column, learning_rate, metric, text_columns, ticket, train_file, "
        "train_size, validation_file, weight.",
        f"{path}, line 2, task b: kind: Input should be 'classification', 'regression', 'multilabel', 'tokens' or "
        "'span' (found 'mlm').",
        f"{path}, line 2, task b: dropout_p 1 is impossible; it must be below 1.",
        f"{path}, line 2, task b: --train-size ten is not a size; use a number of examples such as 1000, or a "
        "percentage such as 10%.",
        f"{path}, line 2, task b: weight 0 is impossible; it must be above 0.",
        f"{path}, line 2, task b: learning_rate -1 is impossible; it must be above 0.",
        f"{path}, line 3, task ../c: The name of a task may hold letters, digits, dots, dashes and underscores only.",
        f"{path}, line 4, task d: Expected keys and values such as train_file: train.csv, found 7.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"a: {{{FILES}}}\nb:\n  kind: span\n  kind: span\n", "line 4: 'kind' is there already, in line 3; keep one."),
        (f"a: {{{FILES}}}\na: {{{FILES}}}\n", "line 2: 'a' is there already, in line 1; keep one."),
        ("a: [1", "line 1: not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: not valid YAML: could not determine a constructor"),
        ("a: 2001-99-99", "not valid YAML: month must be in 1..12."),
        ("", "must map tasks to definitions"),
        ("- a\n", "must map tasks to definitions"),
        ("{}", "must map tasks to definitions"),
    ],
)
def test_files_that_are_not_task_files(write, text, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        load_definitions(write(text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"There is no file .*none.yml"):
        load_definitions(tmp_path / "none.yml")
    (tmp_path / "latin.yml").write_bytes("a: é".encode("latin1"))
    with pytest.raises(ContentError, match="is not UTF-8"):
        load_definitions(tmp_path / "latin.yml")


@pytest.fixture
def world(write, tmp_path):
    """A tiny model, a task file and its data."""
    rows = [f"{TEXT[i % 6]},{('bad', 'good')[i % 2]}\n" for i in range(24)]
    (tmp_path / "train.csv").write_text("body,topic\n" + "".join(rows))
    (tmp_path / "dev.csv").write_text("body,topic\n" + "".join(rows[:8]))
    write(ONE)
    make_model(tmp_path / "model", head="none")
    return tmp_path


def settings(world, **fields):
    known = {"target": str(world / "model"), "task": "t", "task_file": str(world / "tasks.yml"), "steps": 6}
    return TransferConfig.of(**known | {"batch_size": 8} | fields)


def test_transfer_of_a_defined_task(world):
    result = transfer(settings(world, save_model=True), world / "run", QUIET)
    assert (result["task"], result["train_examples"], result["learning_rate"]) == ("t", 16, 0.002)
    assert result["metrics"]["accuracy"]["final"]["mean"] >= 0.5
    info = json.loads((world / "run" / "seed-0" / "model" / "task.json").read_text())
    assert (info["labels"], info["text_columns"]) == (["bad", "good"], ["body"])
    assert transfer(settings(world, save_model=True), world / "run", QUIET) == result


def test_the_definition_is_part_of_the_identity_and_its_place_is_not(world):
    first = prepare_transfer(settings(world), QUIET)
    moved = world / "elsewhere.yml"
    moved.write_text((world / "tasks.yml").read_text() + "\nother: {kind: ranking}\n")
    second = prepare_transfer(settings(world, task_file=str(moved)), QUIET)
    assert second.identity(second.config) == first.identity(first.config)
    moved.write_text((world / "tasks.yml").read_text().replace("0.25", "0.5"))
    third = prepare_transfer(settings(world, task_file=str(moved)), QUIET)
    assert third.identity(third.config) != first.identity(first.config)


def test_dropout_before_the_head(world):
    prepared = prepare_transfer(settings(world), QUIET)
    plm = load_for_task(prepared.target.load, prepared.task)
    inside = set(plm.encoder.modules())
    outside = [m.p for m in plm.model.modules() if type(m).__name__ == "Dropout" and m not in inside]
    assert outside == [0.25]
    assert {m.p for m in inside if type(m).__name__ == "Dropout"} == {0.1}


def test_smart_in_a_transfer(world):
    config = settings(world, smart={"alpha": 2.0, "radius": 0.01, "norm": "l2"})
    result = transfer(config, world / "smart", QUIET)
    assert result["smart"]["alpha"] == 2.0
    log = [json.loads(line) for line in (world / "smart" / "seed-0" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["smart"] >= 0 for record in log if "evaluation" not in record)
    with pytest.raises(UsageError, match="--smart and --bf16 contradict each other"):
        transfer(config, world / "other", Runtime(quiet=True, bf16=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task-file", "{file}"], "--task-file needs --task, the name of one of its tasks."),
        (["--task-file", "{file}", "--task", "tt"], "Unknown task 'tt'. Did you mean 't'?"),
        (["--task-file", "{file}.yml", "--task", "t"], "There is no file"),
        (["--task-file", "{file}", "--task", "t", "--smart", "-1"], "--smart -1.0 is impossible"),
        (["--task-file", "{file}", "--task", "t", "--label-column", "x"], "--label-column needs --train-file"),
        (["--task-file", "{file}", "--task", "t", "--data-dir", "."], "--data-dir is for known tasks, not for those"),
    ],
)
def test_mistakes_on_the_command_line(world, words, message):
    given = [word.format(file=world / "tasks.yml") for word in words]
    words = ["transfer", str(world / "model"), *given, "--dry-run", "--out", str(world / "out")]
    with pytest.raises(UsageError, match=re.escape(message)):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_plan_takes_what_the_option_does_not_say_from_the_file(world):
    (world / "config.yml").write_text("smart: {alpha: 3, norm: l1}\n")
    words = ["transfer", str(world / "model"), "--task-file", str(world / "tasks.yml"), "--task", "t", "--smart", "0.5"]
    more = ["--config", str(world / "config.yml"), "--dry-run", "--json", "--out", str(world / "out")]
    plan = json.loads(CliRunner().invoke(app, words + more, catch_exceptions=False).stdout)["plan"]
    assert (plan["smart"]["alpha"], plan["smart"]["norm"], plan["task"]) == (0.5, "l1", "t")
