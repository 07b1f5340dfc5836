"""The profiles of fine-tuning: when it is evaluated and what counts as best, each by what it does."""

from __future__ import annotations

import importlib
import itertools
import json
from pathlib import Path

import pytest
import torch

from samples.tiny_models import make_model
from samples.tiny_tasks import transfers_read
from winning_tickets import Runtime, TransferConfig, transfer
from winning_tickets.config.transfer import transfer_profile
from winning_tickets.data.tasks import TASKS
from winning_tickets.finetuning.evaluation import EvaluationPlan
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import UsageError
from winning_tickets.training.objectives.task import TaskObjective

QUIET = Runtime(quiet=True)
PROFILES = ("paper", "code", "tuned")
OPEN = [
    "evaluate_each_epoch",
    "eval_offset_steps",
    "best_includes_final",
    "best_above_zero",
    "best_by",
    "mnli_dev",
    "padding",
    "group_by_length",
    "dropout",
]


def plan(task, profile="tuned", steps=12, every=5, epoch=4, **fields):
    config = TransferConfig(target="m", task=task, profile=profile, **fields).resolved()
    return EvaluationPlan(config, TASKS[task], every, epoch, steps)


def records(*values):
    """Evaluations at steps 5, 10 and 12, the last of 12."""
    return [{"step": step, "evaluation": metrics} for step, metrics in zip((5, 10, 12), values, strict=True)]


def test_the_profiles_fill_every_open_choice():
    assert [transfer_profile(profile, "rte") for profile in PROFILES] == [
        dict(zip(OPEN, values, strict=True))
        for values in (
            (False, 0, True, False, "primary", "matched", "longest", False, "model"),
            (False, 0, False, True, "accuracy-or-mean", "mismatched", "max-length", False, "model"),
            (True, 0, True, False, "primary", "matched", "longest", True, 0.0),
        )
    ]
    assert [transfer_profile(profile, "squad")["eval_offset_steps"] for profile in PROFILES] == [0, 1, 0]
    for profile in PROFILES:
        resolved = TransferConfig(target="m", profile=profile).resolved()
        assert {name: getattr(resolved, name) for name in OPEN} == transfer_profile(profile, None)


def test_every_choice_is_explained():
    page = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "profiles.md"
    section = page.read_text(encoding="utf-8").split("## Transfer")[1].split("\n## ")[0]
    *rows, rate = [line.split("|")[1:5] for line in section.splitlines() if line.startswith("| `")]
    assert rate[0].strip(" `") == "learning_rate"  # of a task, and of width and steps: tests of the rule hold it
    assert [row[0].strip(" `") for row in rows] == [
        "evaluate_each_epoch",
        *OPEN[2:6],
        "eval_offset_steps",
        *OPEN[6:],
    ]
    spelled = {"False": "no", "True": "yes", "0.0": "0"}
    for name, *cells in rows:
        field = name.strip(" `")
        values = [transfer_profile(profile, "mnli")[field] for profile in PROFILES]
        shown = [cell.strip().replace("SQuAD: 1; else ", "") for cell in cells]
        assert shown == [spelled.get(str(value), str(value)) for value in values]


def test_an_explicit_choice_wins():
    config = TransferConfig(target="m", profile="code", mnli_dev="matched", best_above_zero=False).resolved()
    assert (config.mnli_dev, config.best_above_zero, config.best_by) == ("matched", False, "accuracy-or-mean")


@pytest.mark.parametrize(
    ("profile", "due", "counting"),
    [
        ("tuned", [4, 5, 8, 10, 12], [4, 5, 8, 10, 12]),
        ("paper", [5, 10, 12], [5, 10, 12]),
        ("code", [5, 10, 12], [5, 10]),
    ],
)
def test_when_it_is_evaluated(profile, due, counting):
    made = plan("rte", profile)
    assert [step for step in range(1, 13) if made.is_due(step)] == due
    assert [step for step in range(1, 13) if made.counts(step)] == counting


def test_a_last_step_that_is_evaluated_anyway_counts():
    """The released program evaluates after step 10 of 10 twice: in its loop, which counts, and after it."""
    assert plan("rte", "code", steps=10).counts(10)
    assert not plan("rte", "code", steps=12).counts(12)
    assert not plan("rte", "tuned", steps=12, best_includes_final=False).counts(12)


def test_the_released_squad_program_counts_from_one():
    made = plan("rte", "code", eval_offset_steps=1)
    assert [step for step in range(1, 13) if made.is_due(step)] == [4, 9, 12]


def test_the_final_evaluation_is_the_best_or_not():
    found = records({"accuracy": 0.5}, {"accuracy": 0.7}, {"accuracy": 0.9})
    assert [plan("rte", profile).best(found)["step"] for profile in PROFILES] == [12, 10, 12]


def test_of_equal_evaluations_the_first_is_the_best():
    found = records({"accuracy": 0.5}, {"accuracy": 0.7}, {"accuracy": 0.7})
    assert [plan("rte", profile).best(found)["step"] for profile in PROFILES] == [10, 10, 10]


def test_mrpc_is_chosen_by_accuracy_or_by_the_mean_with_f1():
    """0.70 and 0.90 have the mean 0.80, which beats an accuracy of 0.75; that step's accuracy of 0.70 is reported."""
    found = records({"accuracy": 0.7, "f1": 0.9}, {"accuracy": 0.75, "f1": 0.8}, {"accuracy": 0.1, "f1": 0.1})
    for task in ("mrpc", "qqp"):
        best = [plan(task, profile).best(found)["evaluation"]["accuracy"] for profile in PROFILES]
        assert best == [0.75, 0.7, 0.75]
        assert [plan(task, profile).primary for profile in PROFILES] == ["accuracy"] * 3
    above = records({"accuracy": 0.8, "f1": 0.1}, {"accuracy": 0.7, "f1": 0.88}, {"accuracy": 0.1, "f1": 0.1})
    assert plan("mrpc", "code").best(above)["step"] == 5  # an accuracy of 0.80 beats a mean of 0.79


def test_mnli_is_scored_on_matched_or_mismatched_genres():
    found = records(
        {"accuracy_matched": 0.8, "accuracy_mismatched": 0.6},
        {"accuracy_matched": 0.6, "accuracy_mismatched": 0.8},
        {"accuracy_matched": 0.1, "accuracy_mismatched": 0.1},
    )
    assert [plan("mnli", profile).primary for profile in PROFILES] == [
        "accuracy_matched",
        "accuracy_mismatched",
        "accuracy_matched",
    ]
    assert [plan("mnli", profile).best(found)["step"] for profile in PROFILES] == [5, 10, 5]
    assert plan("mnli", "tuned", mnli_dev="mismatched").best(found)["step"] == 10
    assert plan("mnli", "code").primary_split == "validation_mismatched"


def test_scores_of_zero_and_below_are_recorded_or_not():
    found = records({"matthews": -0.2}, {"matthews": -0.1}, {"matthews": -0.3})
    assert [plan("cola", profile).best(found)["evaluation"] for profile in PROFILES] == [
        {"matthews": -0.1},
        {"matthews": 0.0},
        {"matthews": -0.1},
    ]
    assert plan("cola", "code").best(found)["step"] is None
    zeros = [{"step": 5, "evaluation": {"pearson": 0.0, "spearman": 0.3}}]
    assert plan("stsb", "code").best(zeros) == {"step": None, "evaluation": {"pearson": 0.0, "spearman": 0.0}}
    assert plan("stsb", "tuned").best(zeros) == zeros[0]
    assert plan("cola", "code").best(records({"matthews": -0.2}, {"matthews": 0.1}, {"matthews": 0.3}))["step"] == 10


def test_a_plan_without_an_evaluation_that_counts():
    with pytest.raises(UsageError, match="there are 4 steps, one evaluation every 5, and best_includes_final is off"):
        plan("rte", "code", steps=4).check(["validation"])
    for profile in ("paper", "tuned"):
        plan("rte", profile, steps=4).check(["validation"])
    plan("rte", "code", steps=5).check(["validation"])


def test_a_training_does_not_stop_during_its_warm_up_or_at_equal_scores():
    """Evaluations after steps 4, 8 ... of 40 are worse and worse, or equal; the first ten steps are warm-up."""
    made = plan("rte", steps=40, every=4, epoch=4, patience=1, warmup_ratio=0.25)
    worse = [{"step": step, "evaluation": {"accuracy": 0.9 - step / 100}} for step in range(4, 41, 4)]
    same = [record | {"evaluation": {"accuracy": 0.5}} for record in worse]
    assert [4 * n for n in range(1, 6) if made.exhausted(worse[:n])] == [16, 20]
    assert not any(made.exhausted(same[:n]) for n in range(1, 11))
    without = plan("rte", steps=40, every=4, epoch=4, patience=1)
    assert without.exhausted(worse[:2])
    assert plan("rte", early_stopping=True).config.patience == 2


def test_a_degenerate_evaluation_is_the_best_only_if_all_are():
    """27 examples of RTE: one answer for all scores 0.667 on them, and the epochs that learn something score less."""
    scores = [(0.667, True), (0.63, False), (0.62, False)]
    found = [
        {"step": step, "evaluation": {"accuracy": 0.5}, "selection": {"accuracy": score}, "degenerate": degenerate}
        for step, (score, degenerate) in zip((4, 8, 12), scores, strict=True)
    ]
    made = plan("rte", every=4, patience=2, select_on=0.1)
    assert made.best(found)["step"] == 8
    assert not made.exhausted(found)
    assert made.best([record | {"degenerate": True} for record in found])["step"] == 4
    shared = [
        record | {"average": 0.9 - record["step"] / 100, "degenerate": {"rte": record["degenerate"]}}
        for record in found
    ]
    assert made.best(shared)["step"] == 8


@pytest.fixture
def bert(tmp_path, monkeypatch):
    transfers_read(monkeypatch)
    return str(make_model(tmp_path / "bert", head="mlm+pooler"))


def test_a_transfer_follows_its_profile(tmp_path, bert):
    """36 examples in batches of 8: 5 steps an epoch; an evaluation every fourth step."""
    config = TransferConfig(target=bert, task="mnli", epochs=2, batch_size=8, eval_steps=4, learning_rate=1e-3)
    steps, results = {}, {}
    for profile in PROFILES:
        out = tmp_path / profile
        results[profile] = transfer(config.model_copy(update={"profile": profile}), out, QUIET)
        log = [record for record in read_log(out / "seed-0") if "evaluation" in record]
        steps[profile] = [record["step"] for record in log]
        seed = json.loads((out / "seed-0" / "result.json").read_text())
        metric = "accuracy_mismatched" if profile == "code" else "accuracy_matched"
        counting = log[:-1] if profile == "code" else log
        best = max(counting, key=lambda record: record["evaluation"][metric])
        assert (seed["best_step"], seed["best"]) == (best["step"], best["evaluation"])
        assert seed["primary_metric"] == results[profile]["primary_metric"] == metric
        assert seed["final"] == log[-1]["evaluation"]
    assert steps == {"tuned": [4, 5, 8, 10], "paper": [4, 8, 10], "code": [4, 8, 10]}
    ids = {result["run_id"] for result in results.values()}
    assert len(ids) == 3


@pytest.mark.parametrize("profile", PROFILES)
def test_batches_are_padded_to_the_longest_or_to_the_maximum(tmp_path, bert, monkeypatch, profile):
    seen = []
    original = TaskObjective.__call__

    def watch(self, model, batch):
        seen.append((batch["input_ids"].shape[1], int(batch["attention_mask"].sum(1).max())))
        assert torch.equal(batch["attention_mask"].bool(), batch["input_ids"] != 0)
        return original(self, model, batch)

    monkeypatch.setattr(TaskObjective, "__call__", watch)
    config = TransferConfig(target=bert, task="sst2", steps=4, batch_size=2, eval_steps=2, max_length=40)
    transfer(config.model_copy(update={"profile": profile}), tmp_path / "run", QUIET)
    assert [width for width, _ in seen] == [40 if profile == "code" else longest for _, longest in seen]
    assert len(seen) == 4
    assert max(longest for _, longest in seen) < 40


def test_refusals(tmp_path, bert):
    config = TransferConfig(target=bert, task="rte", steps=3, profile="code")
    with pytest.raises(
        UsageError, match="No evaluation would count for best: there are 3 steps, one evaluation every 50"
    ):
        transfer(config, tmp_path / "run", QUIET)
    with pytest.raises(UsageError, match="^mnli_dev: matched needs --task mnli.$"):
        transfer(TransferConfig(target=bert, task="rte", mnli_dev="matched"), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="^eval_offset_steps -1 is impossible; it must be at least 0.$"):
        TransferConfig.of(target=bert, task="rte", eval_offset_steps=-1)
    with pytest.raises(UsageError, match="profile: Input should be 'paper', 'code' or 'tuned'"):
        TransferConfig.of(target=bert, profile="best")


@pytest.fixture
def worse_and_worse(monkeypatch):
    """Evaluations of which each is worse than the one before."""
    module, scores = importlib.import_module("winning_tickets.finetuning.transfer"), itertools.count()
    real = module.evaluate_dev_splits

    def falling(prepared, plm, **how):
        return real(prepared, plm, **how) | {"evaluation": {"accuracy": 0.9 - next(scores) / 100}}

    monkeypatch.setattr(module, "evaluate_dev_splits", falling)


def test_every_epoch_is_evaluated(tmp_path, bert):
    config = TransferConfig(target=bert, task="rte", epochs=3, batch_size=9, eval_steps="epoch", profile="paper")
    result = transfer(config, tmp_path / "run", QUIET)
    assert [record["step"] for record in read_log(tmp_path / "run" / "seed-0") if "evaluation" in record] == [4, 8, 12]
    assert (result["eval_steps"], result["stopped_early"]) == (4, 0)
    for wrong in (0, 1.5, True):
        with pytest.raises(
            UsageError, match=rf"^--eval-steps {wrong} is impossible; it must be at least 1, or epoch.$"
        ):
            TransferConfig.of(target=bert, eval_steps=wrong)


@pytest.mark.parametrize("profile", ["paper", "tuned"])
@pytest.mark.usefixtures("worse_and_worse")
def test_patience_counts_epochs_and_waits_for_the_end_of_the_warm_up(tmp_path, bert, profile):
    """The warm-up ends at step 8, so the epochs that end at 8 and 12 are compared; scores fall."""
    config = TransferConfig(target=bert, task="rte", profile=profile, epochs=6, batch_size=9, learning_rate=1e-12)
    config = config.model_copy(update={"patience": 1, "warmup_ratio": 0.3})
    result = transfer(config, tmp_path / "run", QUIET)
    seed = json.loads((tmp_path / "run" / "seed-0" / "result.json").read_text())
    assert (result["steps"], result["eval_steps"], seed["stopped_step"]) == (24, 4, 12)
    assert (result["stopped_early"], seed["stopped_early"]) == (1, True)
    assert [record["step"] for record in read_log(tmp_path / "run" / "seed-0") if "evaluation" in record] == [4, 8, 12]


@pytest.mark.usefixtures("worse_and_worse")
def test_evaluations_by_steps_are_counted_where_they_are_asked_for(tmp_path, bert):
    config = TransferConfig(target=bert, task="rte", epochs=6, batch_size=9, learning_rate=1e-12, profile="paper")
    config = config.model_copy(update={"patience": 2, "eval_steps": 2, "warmup_ratio": 0.25})
    transfer(config, tmp_path / "run", QUIET)
    seed = json.loads((tmp_path / "run" / "seed-0" / "result.json").read_text())
    assert seed["stopped_step"] == 10  # the first after the warm-up of six steps, and two more
