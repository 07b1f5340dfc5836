"""A loss or gradients that are NaN or infinite: stopped or skipped, reported, the last good state kept."""

from __future__ import annotations

import json
import logging
import math
from contextlib import contextmanager

import pytest
import torch
from typer.testing import CliRunner

from samples.learning import corpus_of, learning
from samples.tiny_models import make_model
from samples.tiny_tasks import task_data, tasks_fixture
from winning_tickets import Runtime, TransferConfig, transfer
from winning_tickets.cli import app
from winning_tickets.config import FitHeadConfig
from winning_tickets.finetuning.fit_head import fit_head
from winning_tickets.finetuning.sharing_optimizer import SharedUpdate, SharingOptimizer
from winning_tickets.pruning.mask_optimizer import BertAdam
from winning_tickets.pruning.search import search, search_all
from winning_tickets.runs.directory import read_log
from winning_tickets.runs.errors import TrainingError, UsageError
from winning_tickets.training.optimizers import MTDNNAdamax
from winning_tickets.training.trainer import MAX_SKIPPED, FiniteSteps, TicketTrainer, gradient_norm

STOP, SKIP = Runtime(quiet=True), Runtime(quiet=True, non_finite="skip")
BAD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_tiny_tasks = tasks_fixture(lambda name: task_data(name))


@contextmanager
def poisoned(steps, value, where):
    """At some steps the loss, or one entry of one gradient, is not a number."""
    before = TicketTrainer.training_step

    def training_step(self, inputs):
        sums = before(self, inputs)
        if self.step + 1 in steps and where == "gradients":
            group = self.optimizer.param_groups[0]["params"]
            next(parameter for parameter in group if parameter.grad is not None).grad.view(-1)[0] = value
        elif self.step + 1 in steps:
            sums = {name: part * value for name, part in sums.items()}
        return sums

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TicketTrainer, "training_step", training_step)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    make_model(folder / "bert", head="mlm+pooler")
    make_model(folder / "headless", head="none")
    return folder, str(folder / "bert"), corpus_of(folder)


def mask_training(world, out, runtime):
    search(learning(world[1], "mask-training", world[2], objective="kd", sparsity=0.5), out, runtime)
    return out


def imp(world, out, runtime):
    search(learning(world[1], "imp", world[2], objective="mlm", sparsity=0.5, round_steps=4), out, runtime)
    return out


def fine_tuning(world, out, runtime):
    transfer(TransferConfig(target=world[1], task="rte", steps=4, save_model=True), out, runtime)
    return out / "seed-0"


def head(world, out, runtime):
    settings = {"steps": 4, "segments": "packed:16", "batch_tokens": 64}
    fit_head(FitHeadConfig.of(model=str(world[0] / "headless"), corpus=world[2], **settings), out, runtime)
    return out


def artefacts(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}


def cases(*quick):
    """Every verb with every fault; all but some are slow."""
    every = [
        (verb, where, value)
        for verb in (mask_training, imp, fine_tuning, head)
        for where, value in (("loss", "nan"), ("loss", "-inf"), ("gradients", "nan"), ("gradients", "inf"))
    ]
    slow = [pytest.param(*case, marks=pytest.mark.slow) for case in every if case not in quick]
    return pytest.mark.parametrize(("verb", "where", "value"), [*quick, *slow])


@cases((mask_training, "loss", "nan"), (fine_tuning, "gradients", "inf"))
def test_it_stops_before_the_step_and_goes_on_from_there(world, tmp_path, verb, where, value):
    with (
        poisoned({3}, BAD[value], where),
        pytest.raises(TrainingError, match=f"The {where} (is|are) not finite at step 3 ") as told,
    ):
        verb(world, tmp_path / "out", STOP)
    assert "Nothing of that step was applied; the last good state, after step 2, is kept in " in str(told.value)
    assert "or run the same command again with --non-finite skip" in str(told.value)
    (kept,) = (tmp_path / "out").rglob("checkpoint-2")
    assert str(kept) in str(told.value)
    whole = artefacts(verb(world, tmp_path / "whole", STOP))
    assert artefacts(verb(world, tmp_path / "out", STOP)) == whole != {}


@cases((mask_training, "gradients", "nan"), (imp, "loss", "nan"), (fine_tuning, "loss", "-inf"))
def test_it_skips_the_step_where_that_is_wanted(world, tmp_path, caplog, verb, where, value):
    caplog.set_level(logging.INFO, "winning_tickets")
    with poisoned({2, 3}, BAD[value], where):
        run = verb(world, tmp_path / "out", SKIP)
    assert json.loads((run / "result.json").read_text())["skipped_steps"] == [2, 3]
    records = [record for record in read_log(run) if "learning_rate" in record]
    assert [record.get("skipped", False) for record in records] == [False, True, True, False]
    assert [set(record) & {"kd", "mlm", "loss"} == set() for record in records] == [False, True, True, False]
    told = [line for line in caplog.messages if "not finite" in line]
    assert [line.partition(" (")[0].rpartition(" ")[2] for line in told] == ["2", "3"]
    assert all(line.endswith("The step was skipped.") for line in told)


def test_a_stopped_run_goes_on_by_skipping(world, tmp_path):
    with poisoned({3}, math.nan, "loss"):
        with pytest.raises(TrainingError, match="at step 3"):
            fine_tuning(world, tmp_path / "out", STOP)
        resumed = fine_tuning(world, tmp_path / "out", SKIP)
        whole = fine_tuning(world, tmp_path / "whole", SKIP)
    assert artefacts(resumed) == artefacts(whole)
    assert json.loads((resumed / "result.json").read_text())["skipped_steps"] == [3]


def test_each_level_tells_of_its_own_steps(world, tmp_path):
    config = learning(world[1], "mask-training", world[2], objective="kd", level=(25, 50), score_init="random")
    with poisoned({2}, math.nan, "loss"):
        search_all(config, tmp_path / "out", SKIP)
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert [(rung["folder"], rung["skipped_steps"]) for rung in result["rungs"]] == [
        ("level-25", [2]),
        ("level-50", [2]),
    ]
    assert "skipped_steps" not in result


def test_a_run_that_gave_up_skipping_has_not_forgotten_it(world, tmp_path):
    config = TransferConfig(target=world[1], task="rte", steps=15, eval_steps=5)
    with poisoned(set(range(3, 15)), math.nan, "loss"):
        for _ in range(2):
            with pytest.raises(TrainingError, match="at step 13 .* The 10 steps before it were skipped") as told:
                transfer(config, tmp_path / "out", SKIP)
            assert "and use another --out." in str(told.value)
            assert "--non-finite skip" not in str(told.value)


def test_without_such_a_step_both_ways_are_the_same(world, tmp_path):
    stop, skip = (mask_training(world, tmp_path / name, how) for name, how in (("stop", STOP), ("skip", SKIP)))
    assert artefacts(stop) == artefacts(skip)
    for name in ("config.json", "ticket.json", "result.json"):
        assert (stop / name).read_bytes() == (skip / name).read_bytes()


def test_too_many_in_a_row_stop_all_the_same():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer, steps = torch.optim.SGD([weight], lr=1.0), FiniteSteps(skip=True)
    for step in range(1, MAX_SKIPPED + 1):
        steps.check(step, {"kd": 0.5}, math.inf, optimizer)
        assert steps.skipped
    steps.check(11, {"kd": 0.5}, 1.0, optimizer)
    assert not steps.skipped
    for step in range(12, 12 + MAX_SKIPPED):
        steps.check(step, {"kd": math.nan}, 1.0, optimizer)
    message = r"The gradients are not finite at step 22 \(norm = nan, kd = 0.5\). The 10 steps before it were skipped."
    with pytest.raises(TrainingError, match=message):
        steps.check(22, {"kd": 0.5}, math.nan, optimizer)


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_one_entry_is_enough(value):
    weights = [
        torch.nn.Parameter(torch.ones(3, 4)),
        torch.nn.Parameter(torch.ones(5)),
        torch.nn.Parameter(torch.ones(2)),
    ]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    weights[0].grad, weights[1].grad = torch.full((3, 4), 2.0), torch.full((5,), 3.0)
    assert float(gradient_norm(optimizer)) == pytest.approx(math.sqrt(12 * 4 + 5 * 9))
    weights[1].grad[4] = value
    assert not math.isfinite(float(gradient_norm(optimizer)))


def sharing(weights, strict):
    named = {str(index): weight for index, weight in enumerate(weights)}
    update = SharedUpdate("adamw", 0.1, 0.5)
    return SharingOptimizer(named, ["a"], {}, {}, update=update, strict=strict)


OPTIMIZERS = {
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.1, weight_decay=0.5, fused=True),
    "adamax": lambda weights: torch.optim.Adamax(weights, lr=0.1, weight_decay=0.5),
    "adamax-mtdnn": lambda weights: MTDNNAdamax(weights, lr=0.1, weight_decay=0.5),
    "bertadam": lambda weights: BertAdam(
        [{"params": weights, "lr": 0.1}], betas=(0.9, 0.999), epsilon=1e-6, weight_decay=0.5, correct_bias=False
    ),
    "sharing": lambda weights: sharing(weights, strict=True),
    "sharing as released": lambda weights: sharing(weights, strict=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimiser_moves_anything_in_a_skipped_step(name):
    """Neither momentum nor weight decay does, and no step is counted."""

    def step(gradient):
        if "sharing" in name:
            optimizer.select("a")
        for weight in weights:
            weight.grad = torch.full_like(weight, gradient)
        steps.check(1, {"task": 1.0}, float(gradient_norm(optimizer)), optimizer)
        optimizer.step()

    weights = [torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(5))]
    optimizer, steps = OPTIMIZERS[name](weights), FiniteSteps(skip=True)
    step(1.0)
    before = [weight.detach().clone() for weight in weights], json.dumps(optimizer.state_dict(), default=str)
    step(math.nan)
    assert all(torch.equal(now, then) for now, then in zip(weights, before[0], strict=True))
    assert json.dumps(optimizer.state_dict(), default=str) == before[1]
    step(1.0)
    assert not any(torch.equal(now, then) for now, then in zip(weights, before[0], strict=True))


def test_the_option(world, tmp_path):
    words = ["search", world[1], "--method", "mask-training", "--objective", "kd", "--corpus", world[2], "--steps", "4"]
    words += ["--segments", "packed:16", "--batch-tokens", "64", "--quiet", "--out", str(tmp_path / "out")]
    wrong = CliRunner().invoke(app, [*words, "--non-finite", "ignore"])
    assert isinstance(wrong.exception, UsageError)
    assert "non-finite: Input should be 'stop' or 'skip' (found 'ignore')" in str(wrong.exception)
    with poisoned({2}, math.nan, "gradients"):
        assert CliRunner().invoke(app, [*words, "--non-finite", "skip"]).exit_code == 0
    assert json.loads((tmp_path / "out/result.json").read_text())["skipped_steps"] == [2]
