"""Tickets sharing from the outside: what a step moves, numbers, resuming, failed seeds, refusals."""

import dataclasses
import importlib
import itertools
import json
import math
import os
import shutil
import signal
import statistics
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import get_linear_schedule_with_warmup

from samples.tiny_models import make_model
from samples.tiny_tasks import task_data, tasks_fixture
from winning_tickets import Runtime, SearchConfig, ShareConfig, SharedModel, Ticket, share
from winning_tickets.config import Smart
from winning_tickets.data.encode import make_collator
from winning_tickets.data.metrics import averages, compute_metrics
from winning_tickets.data.mixing import MixedBatches, TaskBatches
from winning_tickets.data.records import Split, TaskData
from winning_tickets.data.tasks import TASKS
from winning_tickets.finetuning.sharing_setup import check_sharing, prepare_sharing
from winning_tickets.finetuning.sharing_trainer import SharedEvaluations, Sharing, make_sharing_trainer
from winning_tickets.models.heads import load_for_task
from winning_tickets.models.loading import base_hash, load_plm, weight_hashes
from winning_tickets.pruning.search import search
from winning_tickets.runs.directory import RunDirectory, read_log
from winning_tickets.runs.errors import ContentError, Interrupted, TrainingError, UsageError
from winning_tickets.tickets.cards import read_card
from winning_tickets.training.multitask import SharedEncoder
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.predict import encode_split, predict_split
from winning_tickets.training.trainer import Callback

sharing_module = importlib.import_module("winning_tickets.finetuning.sharing")
QUIET = Runtime(quiet=True)
SIZES = {"rte": 20, "mrpc": 12, "stsb": 9}
NAMES = tuple(SIZES)


_tiny_tasks = tasks_fixture(lambda name: task_data(name, SIZES.get(name, 12), 12))


@pytest.fixture(scope="module")
def folders(bert, tmp_path_factory):
    """Tickets of heads and FFNs, and one of single weights."""
    path = tmp_path_factory.mktemp("tickets")
    for task, seed in (("rte", 1), ("mrpc", 2)):
        counts = {"prune_heads": (2,), "prune_ffns": (1,)}
        config = SearchConfig(model=bert, method="importance", selection="random", seed=seed, objective="kd", **counts)
        search(config, path / task, QUIET)
    search(SearchConfig(model=bert, method="magnitude", sparsity=0.5), path / "stsb", QUIET)
    return {task: str(path / task) for task in NAMES}


@pytest.fixture(scope="module")
def config(folders):
    """Two epochs of 5 + 3 + 3 steps, the tickets of two tasks, a third one that uses the whole encoder."""
    return ShareConfig(
        tasks=NAMES,
        tickets={"rte": folders["rte"], "mrpc": folders["mrpc"]},
        epochs=2,
        batch_size=4,
        learning_rate=1e-3,
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of an uninterrupted run with seeds 0 and 1, which others are compared with."""
    path = tmp_path_factory.mktemp("whole") / "run"
    share(config.model_copy(update={"seeds": (0, 1)}), path, QUIET)
    return path


def stored(path):
    return json.loads((path / "result.json").read_text())


def weights_of(run, seed=0):
    model = run / f"seed-{seed}" / "model"
    found = load_file(model / "encoder" / "model.safetensors")
    for head in model.glob("tasks/*/head.safetensors"):
        found |= {f"{head.parent.name}/{key}": value for key, value in load_file(head).items()}
    return found


def same_runs(a, b):
    weights = [weights_of(run) for run in (a, b)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    logs = [[{**r, "seconds": None} for r in read_log(run / "seed-0")] for run in (a, b)]
    assert logs[0] == logs[1]
    ignored = {"train_seconds": None}
    assert stored(a / "seed-0") | ignored == stored(b / "seed-0") | ignored


def test_the_summary(whole, config, folders, bert):
    result, seeds = stored(whole), [stored(whole / f"seed-{seed}") for seed in (0, 1)]
    assert (result["verb"], result["seeds"], result["failed_seeds"], result["tickets"]) == (
        "share",
        [0, 1],
        [],
        "given",
    )
    assert (result["steps_per_epoch"], result["steps"], result["epochs"]) == (11, 22, 2.0)
    assert (result["optimizer"], result["mixing"], result["strict"]) == ("adamw", "proportional", True)
    assert (result["learning_rate"], result["warmup_ratio"], result["weight_decay"]) == (1e-3, 0.1, 0.01)
    assert list(result["tasks"]) == list(NAMES)
    for name, task in result["tasks"].items():
        for metric, kinds in task["metrics"].items():
            for kind in ("final", "best"):
                values = [seed["tasks"][name][kind][metric] for seed in seeds]
                assert kinds[kind]["values"] == values
                assert kinds[kind]["mean"] == pytest.approx(statistics.fmean(values))
                assert kinds[kind]["std"] == pytest.approx(statistics.stdev(values))
        assert (task["train_examples"], task["batches"]) == (SIZES[name], math.ceil(SIZES[name] / 4))
        assert task["data_hash"] == task_data(name, SIZES[name], 12).fingerprint
    assert result["tasks"]["stsb"]["ticket_id"] is None
    assert result["tasks"]["rte"]["ticket_id"] == Ticket.from_pretrained(folders["rte"]).id
    scores = [averages({name: seed["tasks"][name]["final"] for name in NAMES})["task_average"].value for seed in seeds]
    assert result["averages"]["task_average"]["final"]["values"] == scores
    assert set(result["averages"]) == {"task_average", "column_average"}
    assert "cola" in result["missing_tasks"]
    assert result["base_hash"] == base_hash(weight_hashes(load_plm(bert).encoder))
    assert not (whole / "seed-0" / ".scratch").exists()
    card = read_card(whole / "seed-0" / "model")
    shown = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    finals = {name: seeds[0]["tasks"][name]["final"] for name in NAMES}
    assert shown == {(name, metric): value for name, own in finals.items() for metric, value in own.items()}


def test_it_evaluates_at_the_end_of_each_epoch_with_the_tasks_own_ticket_and_each_task_has_its_best(whole, config):
    records = [record for record in read_log(whole / "seed-0") if "evaluation" in record]
    assert [record["step"] for record in records] == [11, 22]
    seed, shared = stored(whole / "seed-0"), SharedModel.open(whole / "seed-0" / "model")
    for name in NAMES:
        task = seed["tasks"][name]
        assert task["final"] == records[-1]["evaluation"][name]
        best = max(records, key=lambda record: record["evaluation"][name][task["primary_metric"]])
        assert (task["best"], task["best_step"]) == (best["evaluation"][name], best["step"])
    plm, ticket = shared.load_task("stsb"), shared.ticket("mrpc")
    assert shared.ticket("stsb") is None
    data = task_data("stsb", 9, 12)
    found = predict_split(plm, encode_split(plm, data.validation["validation"], 128))
    assert compute_metrics(data.task, np.stack(found)[:, 0], np.array(data.validation["validation"].labels))[
        0
    ] == pytest.approx(seed["tasks"]["stsb"]["final"])
    plm = shared.load_task("mrpc")
    data = task_data("mrpc", 12, 12)
    encoded, labels = encode_split(plm, data.validation["validation"], 128), data.validation["validation"].labels
    dense = np.stack(predict_split(plm, encoded))
    ticket.apply_(plm.model, allow_other_weights=True)
    pruned = np.stack(predict_split(plm, encoded))
    assert not np.allclose(dense, pruned, atol=1e-3)
    assert compute_metrics(data.task, pruned.argmax(-1), np.array(labels))[0] == pytest.approx(
        seed["tasks"]["mrpc"]["final"]
    )


def test_weight_remaining_counts_what_at_least_one_task_keeps(tmp_path, bert, folders, whole):
    result = stored(whole)
    assert result["weight_remaining"] == 1.0  # stsb has no ticket
    assert result["tasks"]["stsb"]["weight_remaining"] == 1.0
    encoder = load_plm(bert).encoder
    names = {name: parameter.numel() for name, parameter in encoder.named_parameters()}
    tickets = {task: Ticket.from_pretrained(folders[task]) for task in ("rte", "mrpc")}
    kept = {task: ticket.masks_on(encoder) for task, ticket in tickets.items()}
    gone = {task: sum(int((~mask).sum()) for mask in masks.values()) for task, masks in kept.items()}
    both = sum(int((~kept["rte"][n] & ~kept["mrpc"][n]).sum()) for n in names if n in kept["rte"] and n in kept["mrpc"])
    total = sum(names.values())
    assert result["tasks"]["rte"]["weight_remaining"] == 1 - gone["rte"] / total < 1
    two = ShareConfig(tasks=("rte", "mrpc"), tickets={t: folders[t] for t in ("rte", "mrpc")}, steps=1, batch_size=2)
    found = share(two, tmp_path / "run", QUIET)
    assert found["weight_remaining"] == 1 - both / total
    assert max(gone.values()) > both > 0
    weights = load_file(tmp_path / "run" / "seed-0" / "model" / "encoder" / "model.safetensors")
    for name in kept["rte"]:
        if name in kept["mrpc"]:
            closed = ~kept["rte"][name] & ~kept["mrpc"][name]
            assert weights[name].view(torch.int32)[closed].count_nonzero() == 0


class EveryStep(Callback):
    """Compares everything before and after each step of a whole training."""

    def __init__(self, sharing, tickets, sources):
        self.sharing, self.tickets, self.sources = sharing, tickets, sources
        self.before, self.seen = self.snapshot(), []

    def snapshot(self):
        optimizer, found = self.sharing.optimizer, {}
        for name, parameter in self.named().items():
            found[name, ""] = parameter.detach().clone()
            for field in ("exp_avg", "exp_avg_sq", "step"):
                full = torch.zeros_like(parameter)
                for part in optimizer.slices[name]:
                    state = optimizer._inner.state.get(part.value, {}).get(field)
                    if state is None:
                        continue
                    value = state.expand(part.value.shape).float() if field == "step" else state
                    if part.piece.index is None:
                        part.piece.of(full).copy_(value)
                    else:
                        part.piece.put_(full, value)
                found[name, field] = full
        return found

    def named(self):
        return dict(self.sharing.model.base_model.named_parameters()) | self.sharing.model.heads

    def on_step_end(self, trainer):
        after, task = self.snapshot(), self.sources[trainer.step - 1]
        ticket = self.tickets.get(task)
        masks = ticket.masks_on(self.sharing.model.base_model) if ticket else {}
        for (name, field), value in after.items():
            old = self.before[name, field]
            if name.startswith("models."):
                free = torch.full(value.shape, not name.startswith(f"models.{task}."))
            else:
                free = ~masks[name] if name in masks else torch.zeros(value.shape, dtype=torch.bool)
            assert torch.equal(value.view(torch.int32)[free], old.view(torch.int32)[free]), (trainer.step, name)
        assert any(not torch.equal(value, self.before[key]) for key, value in after.items())
        self.before = after
        self.seen.append(task)


def watched(monkeypatch, config, out):
    """A run of which every step is compared, and the tasks of its steps."""
    made = []
    original = sharing_module.make_sharing_trainer

    def trainer(prepared, sharing, seed, *rest, **how):
        found = original(prepared, sharing, seed, *rest, **how)
        sources = [next(iter(found.batches[step])) for step in range(len(found.batches))]
        made.append(EveryStep(sharing, prepared.tickets, sources))
        found.callbacks.append(made[-1])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(sharing_module, "make_sharing_trainer", trainer)
        share(config, out, QUIET)
    return made[0].seen


def test_through_the_whole_trainer_a_step_leaves_everything_outside_the_ticket_alone(
    tmp_path, config, folders, monkeypatch
):
    every = config.model_copy(update={"tickets": folders, "weight_decay": 0.1, "epochs": 1.0})
    seen = watched(monkeypatch, every, tmp_path / "run")
    assert sorted(seen) == sorted(["rte"] * 5 + ["mrpc"] * 3 + ["stsb"] * 3)


@pytest.mark.slow
def test_strict_and_leaking_updates_differ(tmp_path, config, folders, monkeypatch):
    strict = config.model_copy(update={"profile": "paper", "epochs": 1.0})
    leaking = config.model_copy(update={"profile": "code", "epochs": 1.0})
    results = [share(one, tmp_path / str(one.profile), QUIET) for one in (strict, leaking)]
    assert [result["strict"] for result in results] == [True, False]
    assert [result["optimizer"] for result in results] == ["adamax-mtdnn"] * 2
    first, second = (weights_of(tmp_path / name) for name in ("paper", "code"))
    assert not torch.equal(first["encoder.layer.0.attention.self.query.weight"],
                           second["encoder.layer.0.attention.self.query.weight"])  # fmt: skip
    with pytest.raises(AssertionError):
        watched(monkeypatch, leaking, tmp_path / "watched")


def naive_multi_task(bert, seed, steps, optimizer_of, by_length=False):
    """Plain multi-task fine-tuning, written anew: batches of tasks in turn, one torch optimiser."""
    models, batches = {}, {}
    for name, size in SIZES.items():
        torch.manual_seed(seed)
        plm = load_for_task(lambda **options: load_plm(bert, **options), TASKS[name])
        encoded = encode_split(plm, task_data(name, size, 12).train, 128)
        batches[name] = TaskBatches(encoded, make_collator(plm.tokenizer), 4, seed, by_length=by_length)
        models[name] = plm.model
    model = SharedEncoder(models).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    order = MixedBatches(batches, {name: b.per_epoch for name, b in batches.items()}, "proportional", steps, seed=seed)
    optimizer = optimizer_of(model)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.1 * steps), steps)
    for step in range(steps):
        ((name, batch),) = order[step].items()
        objective = TaskObjective(TASKS[name].kind)
        loss = objective(model.models[name], batch)["loss"] / objective.counts(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("by_length", [True, False])
def test_without_tickets_it_is_plain_multi_task_fine_tuning(tmp_path, bert, by_length):
    """The same batches through a naive loop with torch's AdamW give the same weights, on what every task moves."""
    settings = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.0}
    grouping = {} if by_length else {"group_by_length": False}  # the default of the profile
    config = ShareConfig(tasks=NAMES, model=bert, **settings, **grouping, dropout_p="0")
    result = share(config, tmp_path / "run", QUIET)
    assert (result["tickets"], result["weight_remaining"]) == ("none", 1.0)
    adamw = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0)
    expected = naive_multi_task(bert, 0, 11, lambda model: adamw(model.parameters()), by_length)
    found = weights_of(tmp_path / "run")
    start = load_plm(bert).encoder.state_dict()
    moved = 0.0
    for name, value in expected.base_model.named_parameters():
        if name.endswith("key.bias"):
            continue  # the softmax takes no notice of it: its gradient is rounding, which Adam makes as large as any
        torch.testing.assert_close(found[name], value, atol=2e-6, rtol=1e-5)
        moved += float((value.detach() - start[name]).abs().max())
    assert moved > 0.01
    for name, value in expected.heads.items():
        _, task, key = name.split(".", 2)
        torch.testing.assert_close(found[f"{task}/{key}"], value, atol=2e-6, rtol=1e-5)


class Killed(BaseException):
    """A power cut: nothing after it runs."""


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("every", "at"),
    [(5, 7), *(pytest.param(*case, marks=SLOW) for case in ((2, 7), (11, 12), (5, 5), (4, 22), (30, 3)))],
)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, config, whole, monkeypatch, every, at):
    runtime = Runtime(quiet=True, checkpoint_steps=every)
    original = SharedEvaluations.on_step_end

    def kill(self, trainer):
        original(self, trainer)
        if trainer.step == at:
            raise Killed

    monkeypatch.setattr(SharedEvaluations, "on_step_end", kill)
    with pytest.raises(Killed):
        share(config, tmp_path / "killed", runtime)
    assert not (tmp_path / "killed" / "seed-0" / "result.json").exists()
    monkeypatch.setattr(SharedEvaluations, "on_step_end", original)
    share(config, tmp_path / "killed", runtime)
    same_runs(whole, tmp_path / "killed")


def test_a_killed_run_with_tickets_of_single_weights_resumes_too(tmp_path, config, folders, monkeypatch):
    every = config.model_copy(update={"tickets": folders, "profile": "paper", "epochs": 1.0, "mixing": "annealed"})
    share(every, tmp_path / "whole", QUIET)
    original = SharedEvaluations.on_step_end

    def kill(self, trainer):
        if trainer.step == 6:
            raise Killed

    monkeypatch.setattr(SharedEvaluations, "on_step_end", kill)
    with pytest.raises(Killed):
        share(every, tmp_path / "killed", Runtime(quiet=True, checkpoint_steps=5))
    monkeypatch.setattr(SharedEvaluations, "on_step_end", original)
    share(every, tmp_path / "killed", QUIET)
    same_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=SLOW)])
def test_a_signal_stops_after_a_checkpoint(tmp_path, config, whole, monkeypatch, number, code):
    original = SharedEvaluations.on_step_end

    def send(self, trainer):
        if trainer.step == 3:
            os.kill(os.getpid(), number)
        original(self, trainer)

    monkeypatch.setattr(SharedEvaluations, "on_step_end", send)
    with pytest.raises(Interrupted, match="after step 3 of 22; a checkpoint is in .*seed-0. Run the same") as caught:
        share(config, tmp_path / "stopped", QUIET)
    assert caught.value.exit_code == code
    monkeypatch.setattr(SharedEvaluations, "on_step_end", original)
    share(config, tmp_path / "stopped", QUIET)
    same_runs(whole, tmp_path / "stopped")


@pytest.mark.slow
def test_a_nan_stops_the_seed_is_kept_as_failed_and_the_same_command_goes_on(tmp_path, config, whole, monkeypatch):
    original = TaskObjective.__call__
    calls = []

    def spoil(self, model, batch):
        calls.append(1)
        return {"loss": original(self, model, batch)["loss"] * (float("nan") if len(calls) == 4 else 1.0)}

    monkeypatch.setattr(TaskObjective, "__call__", spoil)
    both = config.model_copy(update={"seeds": (0, 1)})
    with pytest.raises(TrainingError, match=r"1 of 2 seeds failed \(0\)\. Seed 0: The loss is not finite at step 4"):
        share(both, tmp_path / "run", QUIET)
    assert "The loss is not finite at step 4" in json.loads((tmp_path / "run/seed-0/error.json").read_text())["error"]
    summary = stored(tmp_path / "run")
    assert (summary["seeds"], summary["failed_seeds"]) == ([1], [0])
    found = summary["tasks"]["rte"]["metrics"]["accuracy"]["final"]
    assert found["values"] == stored(whole)["tasks"]["rte"]["metrics"]["accuracy"]["final"]["values"][1:]
    monkeypatch.setattr(TaskObjective, "__call__", original)
    assert share(both, tmp_path / "run", QUIET)["tasks"] == stored(whole)["tasks"]
    same_runs(whole, tmp_path / "run")
    assert not (tmp_path / "run" / "seed-0" / "error.json").exists()


def test_a_finished_run_is_not_done_again_and_belongs_to_its_settings(tmp_path, config, whole, folders, monkeypatch):
    shutil.copytree(whole, tmp_path / "run")
    both = config.model_copy(update={"seeds": (0, 1)})
    monkeypatch.setattr(sharing_module, "run_training", lambda *_: pytest.fail("trained again"))
    assert share(both, tmp_path / "run", QUIET) == stored(whole)
    shutil.copytree(folders["rte"], tmp_path / "moved")
    moved = both.model_copy(update={"tickets": dict(both.tickets) | {"rte": str(tmp_path / "moved")}})
    assert share(moved, tmp_path / "run", QUIET) == stored(whole)  # what is in the ticket counts, not where it is
    swapped = both.model_copy(update={"tickets": dict(both.tickets) | {"rte": folders["mrpc"]}})
    for other in (swapped, both.model_copy(update={"strict": False}), both.model_copy(update={"tasks": NAMES[::-1]})):
        with pytest.raises(UsageError, match="holds another run"):
            share(other, tmp_path / "run", QUIET)


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"mixing": "round-robin"}, 15),
        ({"mixing": "ratio", "main_task": "mrpc", "ratio": 0.5}, 4),
        ({"mixing": "annealed"}, 11),
        ({"train_size": "50%"}, 3 + 2 + 1),
        ({"steps": 2, "epochs": None}, 2),
    ],
)
def test_other_mixings_and_sizes(tmp_path, config, fields, steps):
    result = share(config.model_copy(update={"epochs": 1.0, "save_model": False} | fields), tmp_path / "run", QUIET)
    assert result["steps"] == steps
    assert not (tmp_path / "run" / "seed-0" / "model").exists()
    assert stored(tmp_path / "run" / "seed-0")["model_saved"] is False


def test_all_kinds_of_tasks_share_one_encoder(tmp_path, bert):
    config = ShareConfig(
        tasks=("squad", "mnli", "stsb", "cola"), model=bert, steps=4, mixing="round-robin", batch_size=2
    )
    result = share(config, tmp_path / "run", QUIET)
    assert list(result["tasks"]["squad"]["metrics"]) == ["f1", "exact_match"]
    assert result["tasks"]["mnli"]["primary_metric"] == "accuracy_matched"
    assert result["other_tasks"] == ["squad"]


def test_heads_are_drawn_from_the_seed_and_dropout_is_that_of_the_task(bert):
    config = ShareConfig(tasks=("cola", "mnli", "rte"), model=bert, profile="paper", dropout_p={"rte": 0.4})
    made = Sharing(prepare_sharing(config, QUIET), 3, QUIET)
    alone = Sharing(prepare_sharing(config.model_copy(update={"tasks": ("mnli",)}), QUIET), 3, QUIET)
    assert torch.equal(made.model.models["mnli"].classifier.weight, alone.model.models["mnli"].classifier.weight)
    assert {name: plm.model.dropout.p for name, plm in made.plms.items()} == {"cola": 0.05, "mnli": 0.3, "rte": 0.4}
    assert made.model.base_model.embeddings.dropout.p == 0.1
    tuned = Sharing(prepare_sharing(config.model_copy(update={"profile": "tuned", "dropout_p": None}), QUIET), 3, QUIET)
    assert {plm.model.dropout.p for plm in tuned.plms.values()} == {0.1}
    assert tuned.model.base_model.embeddings.dropout.p == 0.0
    assert prepare_sharing(config.model_copy(update={"profile": "code"}), QUIET).tasks["mnli"].task.head_dropout == 0.2


def first_loss(path):
    """The task of the first step, and its losses."""
    record = read_log(path / "seed-0")[0]
    return {key: value for key, value in record.items() if key not in ("step", "seconds", "learning_rate")}


def test_a_task_file_gives_weights_and_tickets(tmp_path, folders, bert):
    shutil.copytree(folders["rte"], tmp_path / "one")
    text = "rte: {train_file: rte.csv, validation_file: rte.csv, text_columns: [a, b]"
    (tmp_path / "tasks.yml").write_text(text + ", weight: 0.5, ticket: one}\n")
    (tmp_path / "plain.yml").write_text(text + "}\n")
    (tmp_path / "rte.csv").write_text("a,b,label\n" + "the cat sat,a dog ran,x\nrain fell,a dog ran,y\n" * 2)
    config = ShareConfig(tasks=("rte",), task_file=str(tmp_path / "tasks.yml"), steps=1, batch_size=4)
    found = share(config, tmp_path / "run", QUIET)  # the ticket says which model
    assert found["tickets"] == "given"
    assert found["tasks"]["rte"]["ticket_id"] == Ticket.from_pretrained(folders["rte"]).id
    plain = config.model_copy(update={"task_file": str(tmp_path / "plain.yml"), "tickets": {"rte": folders["rte"]}})
    assert share(plain, tmp_path / "plain", QUIET)["run_id"] != found["run_id"]
    # The loss of each part stands in the log as it is; its weight acts on the gradient.
    assert first_loss(tmp_path / "plain") == first_loss(tmp_path / "run")
    with pytest.raises(UsageError, match="No model was given"):
        check_sharing(ShareConfig(tasks=("rte",), task_file=config.task_file, tickets="none"))
    none = config.model_copy(update={"tickets": {}, "model": bert})
    assert share(none, tmp_path / "none", QUIET)["tickets"] == "none"


def test_the_weight_of_a_task_multiplies_its_gradient(tmp_path, bert):
    plain = prepare_sharing(ShareConfig(tasks=("rte",), model=bert, steps=1, batch_size=4), QUIET)
    gradients = []
    for place, weight in enumerate((1.0, 0.25)):
        task = plain.tasks["rte"]
        data = dataclasses.replace(task.data, task=dataclasses.replace(task.task, weight=weight))
        prepared = dataclasses.replace(plain, tasks={"rte": dataclasses.replace(task, data=data)})
        sharing = Sharing(prepared, 0, QUIET)
        bias = sharing.model.models["rte"].classifier.bias
        bias.register_post_accumulate_grad_hook(lambda one: gradients.append(one.grad.clone()))
        run = RunDirectory.claim(tmp_path / str(place), "share", "id", {})
        torch.manual_seed(0)  # the same dropout
        make_sharing_trainer(
            prepared, sharing, 0, run, runtime=QUIET, evaluations=Callback(), advance=lambda *_: None
        ).train()
    assert gradients[0].abs().max() > 0
    assert torch.equal(gradients[1], 0.25 * gradients[0])


def test_smart_regularises_every_task_in_every_stage(tmp_path, bert):
    config = ShareConfig(tasks=("rte", "stsb"), model=bert, steps=4, batch_size=4, fine_tune=True, single_epochs=1,
                         smart=Smart(alpha=0.5))  # fmt: skip
    found = share(config, tmp_path / "run", QUIET)
    assert found["smart"]["alpha"] == 0.5
    keys = {key for record in read_log(tmp_path / "run" / "seed-0") for key in record}
    assert {"rte", "rte.smart", "stsb", "stsb.smart"} <= keys
    alone = json.loads((tmp_path / "run" / "fine-tuned" / "seed-0" / "rte" / "result.json").read_text())
    assert alone["smart"]["alpha"] == 0.5
    without = share(
        config.model_copy(update={"smart": None, "fine_tune": False, "single_epochs": None}), tmp_path / "o", QUIET
    )
    assert without["smart"] is None
    assert "rte.smart" not in {key for record in read_log(tmp_path / "o" / "seed-0") for key in record}


def test_smart_is_refused_where_it_cannot_be(tmp_path, bert):
    config = ShareConfig(tasks=("rte",), model=bert, smart=Smart())
    with pytest.raises(UsageError, match="--smart and --bf16 contradict each other"):
        prepare_sharing(config, Runtime(quiet=True, bf16=True))
    with pytest.raises(UsageError, match="--smart needs one class or score per text; the task squad"):
        prepare_sharing(config.model_copy(update={"tasks": ("rte", "squad")}), QUIET)
    with pytest.raises(UsageError, match="--smart -1.0 is impossible"):
        Smart.of(alpha=-1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": ()}, "No task was given: use --tasks, such as rte,mrpc"),
        ({"tasks": ("rte", "mprc")}, "Unknown task 'mprc'. Did you mean 'mrpc'"),
        ({"model": None}, "No model was given: use --model, or --tickets with folders"),
        ({"level": {"rte": 30.0}}, "--level needs --tickets auto, which makes tickets"),
        ({"tickets": "auto", "level": {"rte": 30.0}}, "--level has no value for mrpc, stsb; give each task one, 0%"),
        ({"tickets": "auto", "level": {"rte": 130.0, "mrpc": 10.0, "stsb": 0.0}}, "--level 130% of rte is outside"),
        ({"mixing": "ratio"}, "--mixing ratio needs --ratio: batches of all other tasks per batch"),
        ({"mixing": "ratio", "ratio": 1.0, "main_task": "cola"}, "--main-task cola is none of the tasks rte, mrpc"),
        ({"ratio": 1.0}, "--main-task and --ratio need --mixing ratio"),
        ({"epochs": 1.0, "steps": 3}, "--epochs and --steps contradict each other"),
        ({"steps": 0}, "--steps 0 is impossible; it must be at least 1"),
        ({"seeds": (1, 1)}, "--seeds '1,1' must name one or more different seeds"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0 is impossible"),
        ({"warmup_ratio": 2.0}, "--warmup-ratio 2.0 is impossible; it must be at most 1"),
        ({"max_grad_norm": 0.0}, "--max-grad-norm 0.0 is impossible; it must be above 0"),
        ({"dropout_p": {"rte": 1.5}}, r"--dropout-p 1.5 of rte is outside \[0, 1\)"),
        ({"single_epochs": 1.0}, "--single-epochs needs --tickets auto or --fine-tune"),
        ({"fine_tune": True, "save_model": False}, "--fine-tune starts from the shared model"),
        ({"max_length": 999}, "--max-length 999 is impossible"),
        ({"train_size": "900"}, "--train-size 900 asks for more than the"),
    ],
)
def test_mistakes_are_refused_before_any_work(tmp_path, bert, fields, message):
    with pytest.raises(UsageError, match=message):
        share(ShareConfig.of(**{"tasks": NAMES, "model": bert} | fields), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


def test_one_problem_is_told_once_and_all_problems_together(bert):
    with pytest.raises(UsageError) as caught:
        check_sharing(ShareConfig(tasks=NAMES, model=bert, seeds=(1, 1), ratio=1.0))
    assert str(caught.value).splitlines() == [
        "--seeds '1,1' must name one or more different seeds.",
        "--main-task and --ratio need --mixing ratio.",
    ]


def test_tickets_of_another_encoder_and_missing_ones_are_named_by_their_task(tmp_path, bert, folders):
    other = str(make_model(tmp_path / "other", head="mlm+pooler", seed=7))
    config = ShareConfig(tasks=("rte", "mrpc"), model=other, tickets={"mrpc": folders["mrpc"]}, steps=1)
    with pytest.raises(ContentError, match="The ticket of mrpc: The ticket was made for the weights of .*Load that"):
        share(config, tmp_path / "run", QUIET)
    share(config.model_copy(update={"allow_other_weights": True}), tmp_path / "allowed", QUIET)
    for path, message in ((tmp_path / "nowhere", "There is no ticket .*nowhere"), (tmp_path, "is not a ticket")):
        missing = config.model_copy(update={"model": None, "tickets": {"rte": str(path)}})
        with pytest.raises(UsageError, match=f"The ticket of rte: .*{message}"):
            share(missing, tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


def test_a_task_without_training_examples_is_refused(tmp_path, bert, monkeypatch):
    loading = importlib.import_module("winning_tickets.training.task_data")
    full = task_data("rte", 8, 4)
    empty = TaskData.of(full.task, Split(([], []), []), full.validation, "files")
    monkeypatch.setattr(loading, "load_task", lambda name, data_dir: empty if name == "rte" else task_data(name, 8, 4))
    with pytest.raises(ContentError, match="The task rte has no training example; give it some, or leave it out"):
        share(ShareConfig(tasks=("mrpc", "rte"), model=bert), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_an_impossible_rate_of_single_tasks_is_refused(value):
    with pytest.raises(UsageError, match="--single-learning-rate .* is impossible"):
        ShareConfig.of(tasks=("rte",), model="m", tickets="auto", level={"rte": 50}, single_learning_rate=value)


@pytest.mark.parametrize("grouped", [True, False])
def test_single_task_trainings_order_their_batches_as_the_shared_one(grouped):
    config = ShareConfig.of(model="m", tasks=("rte", "mrpc"), group_by_length=grouped).resolved()
    assert config.alone("m", "rte", None).resolved().group_by_length is grouped


def test_the_dropout_of_a_shared_model_may_be_0():
    check_sharing(ShareConfig(tasks=("rte",), model="m", dropout_p={"rte": 0.0}))


def test_sharing_uses_the_runtime_it_is_given(monkeypatch, tmp_path):
    class Seen(Exception):  # noqa: N818 - no error
        pass

    def prepare(config, runtime):
        assert runtime is QUIET
        raise Seen

    monkeypatch.setattr(sharing_module, "prepare_sharing", prepare)
    with pytest.raises(Seen):
        share(ShareConfig(tasks=("rte",)), tmp_path / "out", QUIET)


def test_a_part_of_an_epoch_and_a_task_without_a_ticket_in_the_result(tmp_path, folders):
    two = ShareConfig(tasks=("rte", "mrpc"), tickets={"rte": folders["rte"]}, steps=2, batch_size=4, save_model=False)
    result = share(two, tmp_path / "run", QUIET)
    assert (result["steps_per_epoch"], result["steps"], result["epochs"]) == (8, 2, 0.25)
    assert result["learning_rate"] == 3e-4  # the rule's highest, for a model of this width
    with_ticket, without = result["tasks"]["rte"], result["tasks"]["mrpc"]
    assert (without["ticket_id"], without["sparsity"], without["weight_remaining"]) == (None, 0.0, 1.0)
    assert with_ticket["sparsity"] == Ticket.from_pretrained(folders["rte"]).sparsity > 0


@pytest.mark.parametrize("single_rate", [None, 2e-3])
def test_tickets_of_auto_come_from_the_first_seed_alone(tmp_path, bert, single_rate):
    config = ShareConfig(tasks=("rte",), model=bert, tickets="auto", level={"rte": 50.0}, single_epochs=1, seeds=(5, 3),
                         train_size="4", batch_size=4, steps=1, save_model=False, learning_rate=1e-3,
                         single_learning_rate=single_rate)  # fmt: skip
    result = share(config, tmp_path / "run", QUIET)
    assert result["seeds"] == [5, 3]
    stage = tmp_path / "run" / "stages" / "rte"
    assert [path.name for path in (stage / "fine-tuned").glob("seed-*")] == ["seed-5"]
    assert stored(stage / "fine-tuned")["learning_rate"] == (single_rate or 1e-3)
    ticket = Ticket.from_pretrained(stage / "ticket")
    assert (ticket.info.seed, ticket.id) == (5, result["tasks"]["rte"]["ticket_id"])


def test_a_sharing_takes_tickets_of_other_weights_where_they_are_allowed(tmp_path, folders):
    other = str(make_model(tmp_path / "other", head="mlm+pooler", seed=7))
    config = ShareConfig(tasks=("mrpc",), model=other, tickets={"mrpc": folders["mrpc"]}, allow_other_weights=True)
    assert Sharing(prepare_sharing(config, QUIET), 0, QUIET).tickets.selections["mrpc"]


@pytest.mark.parametrize(("fields", "epochs"), [({}, 3), ({"patience": 1}, 2), ({"early_stopping": True}, 3)])
def test_one_model_is_reported_at_one_step_and_may_stop_early(config, tmp_path, monkeypatch, fields, epochs):
    """Every epoch is worse than the one before; the profile `paper` trains all of them."""
    module, scores = importlib.import_module("winning_tickets.finetuning.sharing_trainer"), itertools.count()
    real = module.evaluate_dev_splits

    def falling(prepared, plm, **how):
        found, place = real(prepared, plm, **how), next(scores)
        return found | {"evaluation": dict.fromkeys(found["evaluation"], 0.9 - place / 100), "degenerate": False}

    monkeypatch.setattr(module, "evaluate_dev_splits", falling)
    paper = {"profile": "paper", "epochs": 3.0, "learning_rate": 1e-12, "seeds": (3,), "save_model": False}
    result = share(config.model_copy(update=paper | fields), tmp_path / "run", QUIET)
    assert result["best_by"] == "average"
    log = [record for record in read_log(tmp_path / "run" / "seed-3") if "evaluation" in record]
    assert [record["step"] // result["steps_per_epoch"] for record in log] == [*range(1, epochs + 1)]
    assert result["stopped_early"] == (epochs < 3)
    for record in log:
        primary = [record["evaluation"][task][result["tasks"][task]["primary_metric"]] for task in NAMES]
        assert record["average"] == pytest.approx(statistics.fmean(primary))
    seed = json.loads((tmp_path / "run" / "seed-3" / "result.json").read_text())
    assert len({task["best_step"] for task in seed["tasks"].values()}) == 1


def test_the_best_epoch_is_that_of_each_task_or_of_the_average(config, tmp_path):
    records = [
        {"step": 11, "evaluation": {"rte": {"accuracy": 0.9}, "mrpc": {"accuracy": 0.1, "f1": 0.1}}, "average": 0.5},
        {"step": 22, "evaluation": {"rte": {"accuracy": 0.6}, "mrpc": {"accuracy": 0.6, "f1": 0.6}}, "average": 0.6},
    ]
    for record in records:
        record["degenerate"] = {"rte": False, "mrpc": False}
    for best_by, steps in (("task", [11, 22]), ("average", [22, 22])):
        prepared = prepare_sharing(config.model_copy(update={"best_by": best_by}), QUIET)
        evaluations = SharedEvaluations(RunDirectory(tmp_path, "new", "id"), prepared, None, QUIET)
        evaluations.records = records
        best = [prepared.plan(task).best(evaluations.of(task))["step"] for task in ("rte", "mrpc")]
        assert best == steps
