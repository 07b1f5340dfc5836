"""Choosing on a part of the dev set, early stopping, Adamax and head dropout in a transfer."""

import importlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from samples.tiny_models import make_model
from samples.tiny_tasks import task_data, tasks_fixture
from winning_tickets import Runtime, TransferConfig, transfer
from winning_tickets.data.metrics import compute_metrics
from winning_tickets.data.tasks import TASKS
from winning_tickets.finetuning.evaluation import EvaluationPlan
from winning_tickets.finetuning.setup import load_base, prepare_transfer
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import Interrupted, UsageError
from winning_tickets.training.optimizers import decay_groups, make_optimizer
from winning_tickets.training.predict import encode_split, predict_split
from winning_tickets.training.trainer import Checkpoints

QUIET = Runtime(quiet=True)


_tiny_tasks = tasks_fixture(lambda name: task_data(name, validation=40))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    bert = make_model(tmp_path_factory.mktemp("models") / "bert", head="mlm+pooler")
    return TransferConfig(
        target=str(bert), task="rte", epochs=2, batch_size=8, learning_rate=1e-3, eval_steps=2, select_on=0.25
    )


def test_the_parts_are_disjoint_seeded_and_make_up_the_whole(config):
    prepared = prepare_transfer(config, QUIET)
    (chosen, rest) = prepared.selection["validation"]
    assert (len(chosen.split), len(rest.split)) == (10, 30)
    original = task_data("rte", validation=40).validation["validation"]
    order = original.order_by_content(0)
    assert sorted(order) == list(range(40)) != order
    assert chosen.split.texts[0] + rest.split.texts[0] == [original.texts[0][i] for i in order]
    assert chosen.split.labels == [original.labels[i] for i in order[:10]]
    backwards = original.take(list(range(40))[::-1])  # an example's half depends on its texts, not on its place
    moved = backwards.take(backwards.order_by_content(0)[:10])
    assert sorted(zip(*moved.texts, strict=True)) == sorted(zip(*chosen.split.texts, strict=True))
    assert chosen.encoded.columns["input_ids"] == prepared.validation["validation"].columns["input_ids"][:10]
    other = prepare_transfer(config.model_copy(update={"select_on_seed": 1}), QUIET).selection["validation"][0]
    assert other.split != chosen.split
    larger = prepare_transfer(config.model_copy(update={"select_on": 0.5}), QUIET).selection["validation"][0]
    assert larger.split.texts[0][:10] == chosen.split.texts[0]
    assert prepare_transfer(config.model_copy(update={"select_on": 0.0}), QUIET).selection == {}


def test_windows_over_texts_go_with_their_examples(config):
    spans = config.model_copy(update={"task": "squad", "max_length": 16, "doc_stride": 4})
    prepared = prepare_transfer(spans, QUIET)
    whole = prepared.validation["validation"]
    assert len(whole) > 40
    plm = load_base(prepared.target, prepared.task)
    for part in prepared.selection["validation"]:
        alone = encode_split(plm, part.split, 16, "span", doc_stride=4)
        assert part.encoded.owners == alone.owners
        assert part.encoded.labels == alone.labels
        assert [ids.tolist() for ids in part.encoded.columns["input_ids"]] == [
            ids.tolist() for ids in alone.columns["input_ids"]
        ]
        assert all(np.array_equal(a, b) for a, b in zip(part.encoded.places, alone.places, strict=True))


def test_the_best_evaluation_is_that_of_the_selection_and_is_reported_on_all_parts(config, tmp_path):
    result = transfer(config.model_copy(update={"save_model": True}), tmp_path / "run", QUIET)
    records = [record for record in read_log(tmp_path / "run" / "seed-0") if "evaluation" in record]
    scores = [record["selection"]["accuracy"] for record in records]
    best = records[scores.index(max(scores))]
    stored = json.loads((tmp_path / "run" / "seed-0" / "result.json").read_text())
    assert stored["best_step"] == best["step"]
    metrics = result["metrics"]["accuracy"]
    assert metrics["best_selection"]["values"] == [max(scores)]
    assert metrics["best"]["values"] == [best["rest"]["accuracy"]]
    assert metrics["final"]["values"] == [records[-1]["rest"]["accuracy"]]
    assert metrics["best_whole"]["values"] == [best["evaluation"]["accuracy"]]
    assert (result["validation_examples"], result["selection_examples"]) == ({"validation": 30}, {"validation": 10})
    for record in records:  # 10 and 30 of 40 examples
        mean = (record["selection"]["accuracy"] + 3 * record["rest"]["accuracy"]) / 4
        assert record["evaluation"]["accuracy"] == pytest.approx(mean)

    prepared = prepare_transfer(config, QUIET)
    plm = load_base(prepared.target, prepared.task)
    plm.model.load_state_dict(load_file(tmp_path / "run" / "seed-0" / "model" / "model.safetensors"))
    for place, part in enumerate(("selection", "rest")):
        dev = prepared.selection["validation"][place]
        logits = np.stack(predict_split(plm, dev.encoded))
        found = compute_metrics(prepared.task, logits.argmax(-1), np.asarray(dev.split.labels))[0]
        # The run predicted both parts in batches of other sizes, so a label may change where two are all but equal.
        ties = float((np.ptp(np.sort(logits)[:, -2:], axis=1) < 1e-4).mean())
        assert found == pytest.approx(records[-1][part], abs=ties)


def test_training_is_the_same_whatever_is_chosen_on(config, tmp_path):
    for name, share in (("part", 0.25), ("whole", 0.0)):
        transfer(config.model_copy(update={"select_on": share, "save_model": True}), tmp_path / name, QUIET)
    models = [load_file(tmp_path / name / "seed-0" / "model" / "model.safetensors") for name in ("part", "whole")]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ([0.5, 0.6, 0.6], 1, False),
        ([0.5, 0.6, 0.5], 1, True),
        ([0.5, 0.6, 0.6], 2, False),
        ([0.5, 0.6, 0.5, 0.4], 2, True),
        ([0.5], 1, False),
        ([0.5, 0.4], None, False),
    ],
)
def test_patience_counts_evaluations_since_the_best_one(config, scores, patience, expected):
    plan = EvaluationPlan(config.model_copy(update={"patience": patience}).resolved(), TASKS["rte"], 2, 5, 20)
    records = [{"step": 2 * n, "evaluation": {"accuracy": score}} for n, score in enumerate(scores, start=1)]
    assert plan.exhausted(records) is expected


@pytest.fixture
def worse_and_worse(monkeypatch):
    """Evaluations that fall from the second one on."""
    module = importlib.import_module("winning_tickets.finetuning.transfer")
    real, seen = module.evaluate_dev_splits, {}

    def falling(prepared, plm, **how):
        step = seen.setdefault("step", 0) + 1
        seen["step"] = step
        part = {"accuracy": 0.9 - 0.1 * abs(step - 2)}
        return real(prepared, plm, **how) | {"selection": part}

    monkeypatch.setattr(module, "evaluate_dev_splits", falling)
    return seen


def test_early_stopping(config, tmp_path, worse_and_worse):
    result = transfer(config.model_copy(update={"patience": 2}), tmp_path / "run", QUIET)
    stored = json.loads((tmp_path / "run" / "seed-0" / "result.json").read_text())
    # evaluations after steps 2, 4, 5 (end of the epoch), 6: the best is the second
    assert (stored["best_step"], stored["stopped_step"], stored["steps"]) == (4, 6, 10)
    assert result["metrics"]["accuracy"]["best_selection"]["values"] == [0.9]
    assert [record["step"] for record in read_log(tmp_path / "run" / "seed-0") if "loss" in record][-1] == 6
    assert not list((tmp_path / "run").rglob("checkpoint-*"))


def test_a_run_that_was_killed_before_it_stopped_early_ends_the_same(config, tmp_path, worse_and_worse, monkeypatch):
    chosen = config.model_copy(update={"patience": 2, "save_model": True})
    transfer(chosen, tmp_path / "whole", QUIET)
    worse_and_worse.clear()
    real, steps = Checkpoints.on_step_end, []

    def stop(self, trainer):
        real(self, trainer)
        steps.append(trainer.step)
        if len(steps) == 5:
            raise Interrupted(15, "stopped by the test")

    monkeypatch.setattr(Checkpoints, "on_step_end", stop)
    runtime = Runtime(quiet=True, checkpoint_steps=4)
    with pytest.raises(Interrupted, match="stopped by the test"):
        transfer(chosen, tmp_path / "killed", runtime)
    worse_and_worse["step"] = 2  # the evaluations after steps 2 and 4 are kept with the checkpoint of step 4
    transfer(chosen, tmp_path / "killed", runtime)
    models = [load_file(tmp_path / name / "seed-0" / "model" / "model.safetensors") for name in ("whole", "killed")]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    results = [json.loads((tmp_path / name / "seed-0" / "result.json").read_text()) for name in ("whole", "killed")]
    assert results[0] | {"train_seconds": 0} == results[1] | {"train_seconds": 0}


@pytest.mark.parametrize("kind", ["adamax", "adamax-mtdnn"])
def test_adamax_takes_the_steps_of_a_naive_loop(kind):
    generator = torch.Generator().manual_seed(0)
    start = {"weight": torch.randn(3, 2, generator=generator), "bias": torch.randn(3, generator=generator)}
    gradients = [{n: torch.randn(v.shape, generator=generator) for n, v in start.items()} for _ in range(4)]
    found = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    optimizer = make_optimizer(kind, decay_groups(found.values(), 0.1), 0.01)
    for step in gradients:
        for name, value in found.items():
            value.grad = step[name].clone()
        optimizer.step()
    for name, value in start.items():
        decay = 0.1 if name == "weight" else 0.0
        mean, largest, weight = torch.zeros_like(value), torch.zeros_like(value), value.double()
        for number, step in enumerate(gradients, start=1):
            gradient = step[name].double()
            if kind == "adamax":
                gradient = gradient + decay * weight
                mean = 0.9 * mean + 0.1 * gradient
                largest = torch.maximum(0.999 * largest, gradient.abs() + 1e-8)
                weight = weight - 0.01 / (1 - 0.9**number) * mean / largest
            else:
                mean = 0.9 * mean + 0.1 * gradient
                largest = torch.maximum(0.999 * largest, gradient.abs() + 1e-6)
                weight = weight - 0.01 * (mean / (largest + 1e-6) + decay * weight)
        torch.testing.assert_close(found[name].double(), weight, rtol=1e-5, atol=1e-6)


def test_the_optimiser_and_the_dropout_of_the_head_are_those_asked_for(config, tmp_path):
    changed = config.model_copy(update={"optimizer": "adamax-mtdnn", "head_dropout": 0.4})
    prepared = prepare_transfer(changed, QUIET)
    assert load_base(prepared.target, prepared.task).model.dropout.p == 0.4
    results = [transfer(one, tmp_path / str(n), QUIET) for n, one in enumerate((config, changed))]
    assert results[0]["run_id"] != results[1]["run_id"]
    logs = [read_log(tmp_path / str(n) / "seed-0") for n in range(2)]
    losses = [[record["loss"] for record in log if "loss" in record] for log in logs]
    assert losses[0][-1] != losses[1][-1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"select_on": 1.0}, r"--select-on 1\.0 is impossible; it must be below 1\."),
        ({"select_on": 0.01}, r"--select-on 0\.01 takes 0 of the 40 examples of validation; at least one must be"),
        ({"patience": 0}, r"--patience 0 is impossible; it must be at least 1\."),
        ({"head_dropout": 1.0}, r"--head-dropout 1\.0 is impossible; it must be below 1\."),
    ],
)
def test_what_cannot_be_meant_is_refused(config, fields, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        transfer(TransferConfig.of(**dict(config) | fields), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()
