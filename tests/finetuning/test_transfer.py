"""Fine-tuning from the outside: numbers, resuming, failed seeds, refusals."""

import importlib
import json
import os
import shutil
import signal
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from samples.tiny_models import CONFIGS, TEXT, make_model
from samples.tiny_tasks import task_data, tasks_fixture
from winning_tickets import Runtime, SearchConfig, Ticket, TransferConfig, search, transfer
from winning_tickets.data.metrics import metric_names
from winning_tickets.data.tasks import TASKS
from winning_tickets.finetuning.evaluation import evaluate_dev_splits
from winning_tickets.finetuning.seeds import claim_seed, run_facts, run_seeds
from winning_tickets.finetuning.setup import load_base, prepare_transfer
from winning_tickets.models.architectures import ARCHITECTURES, present_in, prunable_views, split_name
from winning_tickets.models.loading import load_plm
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory, read_log
from winning_tickets.runs.errors import ContentError, Interrupted, TrainingError, UsageError
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.predict import encode_split, predict_split

transfer_module = importlib.import_module("winning_tickets.finetuning.transfer")
train_module = importlib.import_module("winning_tickets.training.trainer")
QUIET = Runtime(quiet=True)


_tiny_tasks = tasks_fixture()


@pytest.fixture
def ticket(ticket_path):
    return Ticket.from_pretrained(ticket_path)


@pytest.fixture(scope="module")
def config(ticket_path):
    """Two epochs of five steps, an evaluation every second step, weight decay to pull on pruned weights."""
    return TransferConfig(
        target=str(ticket_path),
        task="sst2",
        epochs=2,
        batch_size=8,
        learning_rate=1e-3,
        eval_steps=2,
        weight_decay=0.1,
        warmup_ratio=0.2,
        save_model=True,
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of an uninterrupted transfer with seeds 0 and 1, which others are compared with."""
    path = tmp_path_factory.mktemp("whole") / "run"
    transfer(config.model_copy(update={"seeds": (0, 1)}), path, QUIET)
    return path


def summary_of(run):
    return json.loads((run / "result.json").read_text())


def evaluations(folder):
    return [(record["step"], record["evaluation"]) for record in read_log(folder) if "evaluation" in record]


def test_the_summary(tmp_path, config, ticket, bert):
    result = transfer(config.model_copy(update={"seeds": (3, 1)}), tmp_path / "run", QUIET)
    assert result == summary_of(tmp_path / "run")
    assert (result["task"], result["seeds"], result["failed_seeds"]) == ("sst2", [3, 1], [])
    stored = [json.loads((tmp_path / "run" / f"seed-{seed}" / "result.json").read_text()) for seed in (3, 1)]
    for kind in ("final", "best"):
        values = [seed[kind]["accuracy"] for seed in stored]
        found = result["metrics"]["accuracy"][kind]
        assert found["values"] == values
        assert found["mean"] == pytest.approx(statistics.fmean(values))
        assert found["std"] == pytest.approx(statistics.stdev(values))
    assert (result["primary_metric"], result["majority"]) == ("accuracy", 0.5)
    assert (result["sparsity"], result["ticket_id"], result["model"]) == (ticket.sparsity, ticket.id, bert)
    assert (result["train_examples"], result["validation_examples"]) == (36, {"validation": 18})
    assert (result["epochs"], result["steps"], result["batch_size"], result["learning_rate"]) == (2.0, 10, 8, 1e-3)
    assert result["max_length"] == 128
    assert result["data_hash"] == task_data("sst2").fingerprint
    assert stored[0]["versions"]["torch"]
    assert stored[0]["machine"]["cores"] >= 1
    assert stored[0]["train_seconds"] > 0


def test_it_evaluates_every_so_many_steps_each_epoch_and_at_the_end_never_twice(tmp_path, config):
    result = transfer(config, tmp_path / "run", QUIET)
    found = evaluations(tmp_path / "run" / "seed-0")
    assert [step for step, _ in found] == [2, 4, 5, 6, 8, 10]
    seed = json.loads((tmp_path / "run" / "seed-0" / "result.json").read_text())
    best = max(values["accuracy"] for _, values in found)
    assert seed["final"] == found[-1][1]
    assert seed["best"]["accuracy"] == best
    assert (seed["best_step"], seed["best"]) == next(pair for pair in found if pair[1]["accuracy"] == best)
    assert result["metrics"]["accuracy"]["final"] == {
        "mean": seed["final"]["accuracy"],
        "std": None,
        "values": [seed["final"]["accuracy"]],
    }
    assert not (tmp_path / "run" / "seed-0" / ".scratch").exists()


def test_it_learns_and_all_metrics_of_best_are_of_one_evaluation(tmp_path, config):
    longer = {"task": "mrpc", "epochs": 24, "eval_steps": 7, "learning_rate": 3e-3}
    result = transfer(config.model_copy(update=longer), tmp_path / "run", QUIET)
    assert result["metrics"]["accuracy"]["best"]["mean"] > 0.8 > result["majority"]
    seed = json.loads((tmp_path / "run" / "seed-0" / "result.json").read_text())
    assert seed["best"] in [values for _, values in evaluations(tmp_path / "run" / "seed-0")]
    assert set(seed["best"]) == {"accuracy", "f1"}


@pytest.mark.parametrize("task", TASKS)
def test_every_task(tmp_path, bert, task):
    result = transfer(TransferConfig(target=bert, task=task, steps=2), tmp_path / "run", QUIET)
    assert tuple(result["metrics"]) == metric_names(TASKS[task])
    assert result["primary_metric"] == next(iter(result["metrics"]))
    assert (result["majority"] is None) == (TASKS[task].kind != "classification")
    assert set(result["validation_examples"]) == set(TASKS[task].validation_splits)
    for kinds in result["metrics"].values():
        assert -1 <= kinds["final"]["mean"] <= 1


POOLERS = {"bert": "mlm+pooler", "roberta": "none", "mpnet": "none", "albert": "mlm+pooler"}
"""Families with a pooler, and the kind of checkpoint that has it."""


@pytest.mark.parametrize(
    ("kind", "scope"),
    [(kind, "encoder+embeddings") for kind in CONFIGS] + [(kind, "encoder+embeddings+pooler") for kind in POOLERS],
)
def test_pruned_weights_are_positive_zero_after_training(tmp_path, config, kind, scope):
    model = str(make_model(tmp_path / "model", kind, POOLERS.get(kind, "mlm")))
    found = search(SearchConfig(model=model, method="magnitude", sparsity=0.7, scope=scope), tmp_path / "t", QUIET)
    transfer(config.model_copy(update={"target": str(tmp_path / "t")}), tmp_path / "run", QUIET)
    weights = load_file(tmp_path / "run" / "seed-0" / "model" / "model.safetensors")
    before = load_base(prepare_transfer(config.model_copy(update={"target": model}), QUIET).target, TASKS["sst2"])
    prefix = before.model.base_model_prefix
    used = present_in(before.encoder, found.masks)
    pooler = ARCHITECTURES[kind].pooler
    assert set(found.masks) - set(used) <= {pooler}  # the classifiers of RoBERTa and MPNet do without
    assert (pooler in used) == ("pooler" in scope and kind in ("bert", "albert"))
    for name, dense in prunable_views(before.encoder, used).items():
        mask, part = found.masks[name], split_name(name)
        value = part.of(weights[f"{prefix}.{part.parameter}"])
        assert value.view(torch.int32)[~mask].count_nonzero() == 0, name
        assert not torch.equal(value[mask], dense[mask]), name


@pytest.mark.parametrize("kind", ["adamw", "adamax", "adamax-mtdnn"])
def test_masked_gradients_alone_hold_a_ticket_in_every_optimizer(tmp_path, config, monkeypatch, kind):
    zeroed, original = [], transfer_module.Held.zero_
    monkeypatch.setattr(transfer_module.Held, "zero_", lambda held: zeroed.append(original(held)))
    settings = {"optimizer": kind, "weight_decay": 0.1, "learning_rate": 1e-2}
    transfer(config.model_copy(update=settings), tmp_path / "run", QUIET)
    weights = load_file(tmp_path / "run" / "seed-0" / "model" / "model.safetensors")
    ticket = Ticket.from_pretrained(config.target)
    for name, mask in ticket.masks.items():
        value = weights.get(f"bert.{name}", weights.get(name))
        assert value.view(torch.int32)[~mask].count_nonzero() == 0, name
    assert zeroed == []


def test_weights_that_moved_fail_the_seed(tmp_path, config, monkeypatch):
    monkeypatch.setattr(transfer_module.Held, "zero_", lambda held: None)
    monkeypatch.setattr("winning_tickets.tickets.holding.mask_gradient", lambda mask: lambda parameter: None)
    with pytest.raises(
        TrainingError, match="pruned weights of .* are not zero after training, so the mask did not hold"
    ):
        transfer(config, tmp_path / "run", QUIET)


def same_runs(a, b):
    weights = [load_file(run / "seed-0" / "model" / "model.safetensors") for run in (a, b)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    logs = [[{**r, "seconds": None} for r in read_log(run / "seed-0")] for run in (a, b)]
    assert logs[0] == logs[1]
    results = [json.loads((run / "seed-0" / "result.json").read_text()) for run in (a, b)]
    ignored = {"train_seconds": None}
    assert results[0] | ignored == results[1] | ignored


class Killed(BaseException):
    """A power cut: nothing after it runs."""


@pytest.mark.parametrize(("every", "at"), [(2, 7), (5, 6), (5, 5), (3, 10), (4, 2)])
def test_a_killed_transfer_resumes_to_the_same_bits(tmp_path, config, whole, monkeypatch, every, at):
    runtime = Runtime(quiet=True, checkpoint_steps=every)
    original = transfer_module.Evaluations.on_step_end

    def kill(self, trainer):
        original(self, trainer)
        if trainer.step == at:
            raise Killed

    monkeypatch.setattr(transfer_module.Evaluations, "on_step_end", kill)
    with pytest.raises(Killed):
        transfer(config, tmp_path / "killed", runtime)
    assert not (tmp_path / "killed" / "seed-0" / "result.json").exists()
    monkeypatch.setattr(transfer_module.Evaluations, "on_step_end", original)
    transfer(config, tmp_path / "killed", runtime)
    same_runs(whole, tmp_path / "killed")


def test_a_checkpoint_is_on_the_disk_before_the_one_before_it_goes(tmp_path, config, monkeypatch):
    seen, remove = [], Path.unlink

    def unlink(path, *rest, **options):
        if path.name.startswith("checkpoint-"):
            seen.append(f"gone {path.name}")
        remove(path, *rest, **options)

    monkeypatch.setattr(train_module, "to_disk", lambda path: seen.append(path.name))
    monkeypatch.setattr(Path, "unlink", unlink)
    transfer(config, tmp_path / "run", Runtime(quiet=True, checkpoint_steps=4))
    once = ["incomplete", "metrics.jsonl", ".scratch"]
    assert seen == [*once, *once, "gone checkpoint-4"]


def test_seeds_of_two_precisions_make_a_summary_of_both():
    def told(*seeds):
        results = [{"seed": number} | facts for number, facts in enumerate(seeds)]
        facts = run_facts(results, [], SimpleNamespace(model="m"), "hash")
        return facts.get("precision"), facts.get("compiled")

    bf16, both = {"precision": "bf16"}, {"precision": "bf16 and float32", "compiled": True}
    assert told({}, {}) == told() == (None, None)
    assert told(bf16, bf16) == ("bf16", None)
    assert told({}, bf16) == ("bf16 and float32", None)
    assert told(bf16, both) == ("bf16 and float32", True)


def signal_at(monkeypatch, number, step):
    original = transfer_module.Evaluations.on_step_end

    def send(self, trainer):
        if trainer.step == step:
            os.kill(os.getpid(), number)
        original(self, trainer)

    monkeypatch.setattr(transfer_module.Evaluations, "on_step_end", send)
    return lambda: monkeypatch.setattr(transfer_module.Evaluations, "on_step_end", original)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_a_checkpoint(tmp_path, config, whole, monkeypatch, number, code):
    undo = signal_at(monkeypatch, number, 3)
    with pytest.raises(Interrupted, match="after step 3 of 10; a checkpoint is in .*seed-0. Run the same") as caught:
        transfer(config, tmp_path / "stopped", QUIET)
    assert caught.value.exit_code == code
    undo()
    transfer(config, tmp_path / "stopped", QUIET)
    same_runs(whole, tmp_path / "stopped")


AT_THE_END = "Stopped by NAME before the next training began. Run the same command again to resume."


def test_a_signal_in_the_last_step_of_a_stage_keeps_the_next_from_starting(tmp_path, config, monkeypatch):
    """As of `super` and `share`, which fine-tune again and again."""
    undo = signal_at(monkeypatch, signal.SIGTERM, 10)
    with distributed.together():
        assert transfer(config, tmp_path / "first", QUIET)["seeds"] == [0]
        undo()
        with pytest.raises(Interrupted, match=AT_THE_END.replace("NAME", "SIGTERM")) as caught:
            transfer(config, tmp_path / "second", QUIET)
    assert caught.value.exit_code == 143
    assert not (tmp_path / "second" / "seed-0" / "metrics.jsonl").exists()
    assert transfer(config, tmp_path / "second", QUIET)["seeds"] == [0]  # another command


def test_a_signal_in_the_last_step_of_a_seed_keeps_the_next_from_starting(tmp_path, config, monkeypatch):
    config = config.model_copy(update={"seeds": (0, 1)})
    undo = signal_at(monkeypatch, signal.SIGINT, 10)
    with pytest.raises(Interrupted, match=AT_THE_END.replace("NAME", "SIGINT")):
        transfer(config, tmp_path / "run", QUIET)
    assert (tmp_path / "run" / "seed-0" / "result.json").exists()
    assert not (tmp_path / "run" / "seed-1" / "metrics.jsonl").exists()
    undo()
    assert transfer(config, tmp_path / "run", QUIET)["seeds"] == [0, 1]


def test_a_signal_during_an_evaluation_that_fails_keeps_the_next_seed_from_starting(tmp_path, config, monkeypatch):
    def fail(self, trainer):
        os.kill(os.getpid(), signal.SIGINT)
        raise TrainingError("The model's outputs are not finite.")

    monkeypatch.setattr(transfer_module.Evaluations, "on_step_end", fail)
    with pytest.raises(Interrupted, match=AT_THE_END.replace("NAME", "SIGINT")):
        transfer(config.model_copy(update={"seeds": (0, 1)}), tmp_path / "run", QUIET)
    assert "outputs are not finite" in (tmp_path / "run" / "seed-0" / "error.json").read_text()
    assert not (tmp_path / "run" / "seed-1" / "metrics.jsonl").exists()
    assert not distributed.kept()  # the signal is not raised twice


def test_a_finished_transfer_and_finished_seeds_are_not_done_again(tmp_path, config, whole, monkeypatch):
    config = config.model_copy(update={"seeds": (0, 1)})
    shutil.copytree(whole, tmp_path / "run")
    trained = []
    original = transfer_module.run_training

    def train(trainer, run):
        trained.append(run.path.name)
        return original(trainer, run)

    monkeypatch.setattr(transfer_module, "run_training", train)
    assert transfer(config, tmp_path / "run", QUIET) == summary_of(whole)
    assert trained == []
    (tmp_path / "run" / "result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "seed-1")
    assert transfer(config, tmp_path / "run", QUIET) == summary_of(whole)
    assert trained == ["seed-1"]


def test_a_failed_seed_keeps_its_error_and_gives_no_number(tmp_path, config, whole, monkeypatch):
    config = config.model_copy(update={"seeds": (0, 1)})
    original = transfer_module._trainer

    class Broken(TaskObjective):
        def __call__(self, model, batch):
            return {"loss": super().__call__(model, batch)["loss"] * float("nan")}

    def trainer(prepared, plm, seed, *rest, **how):
        made = original(prepared, plm, seed, *rest, **how)
        if seed == 0:
            made.objective = Broken("classification")
        return made

    monkeypatch.setattr(transfer_module, "_trainer", trainer)
    message = r"1 of 2 seeds failed \(0\)\. Seed 0: The loss is not finite at step 1 .*error.json; the same command"
    with pytest.raises(TrainingError, match=message):
        transfer(config, tmp_path / "run", QUIET)
    error = json.loads((tmp_path / "run" / "seed-0" / "error.json").read_text())
    assert error["seed"] == 0
    assert "The loss is not finite at step 1" in error["error"]
    summary = summary_of(tmp_path / "run")
    assert (summary["seeds"], summary["failed_seeds"]) == ([1], [0])
    values = summary_of(whole)["metrics"]["accuracy"]["final"]["values"]
    assert summary["metrics"]["accuracy"]["final"] == {"mean": values[1], "std": None, "values": [values[1]]}
    with pytest.raises(TrainingError, match="1 of 2 seeds failed"):
        transfer(config, tmp_path / "run", QUIET)
    monkeypatch.setattr(transfer_module, "_trainer", original)
    assert transfer(config, tmp_path / "run", QUIET)["metrics"] == summary_of(whole)["metrics"]
    assert not (tmp_path / "run" / "seed-0" / "error.json").exists()


@pytest.mark.parametrize("step", [1, 4, 6])
def test_after_a_passing_nan_the_same_command_gives_the_same_bits(tmp_path, config, whole, monkeypatch, step):
    original = TaskObjective.__call__
    calls = []

    def spoil(self, model, batch):
        calls.append(1)
        return {"loss": original(self, model, batch)["loss"] * (float("nan") if len(calls) == step else 1.0)}

    monkeypatch.setattr(TaskObjective, "__call__", spoil)
    with pytest.raises(TrainingError, match=f"The loss is not finite at step {step} .*after step {step - 1}, is kept"):
        transfer(config, tmp_path / "run", QUIET)
    transfer(config, tmp_path / "run", QUIET)
    assert len(calls) == 11
    same_runs(whole, tmp_path / "run")


def test_when_all_seeds_fail_there_is_no_number(tmp_path, config, monkeypatch):
    monkeypatch.setattr(transfer_module, "run_training", lambda *_: (_ for _ in ()).throw(TrainingError("No.")))
    with pytest.raises(TrainingError, match="1 of 1 seeds failed"):
        transfer(config, tmp_path / "run", QUIET)
    summary = summary_of(tmp_path / "run")
    assert summary["metrics"] == {
        "accuracy": {kind: {"mean": None, "std": None, "values": []} for kind in ("final", "best")}
    }


def test_a_ticket_of_single_weights_takes_a_higher_rate_than_its_model(tmp_path, ticket_path, ticket, bert):
    heads = SearchConfig(model=bert, method="importance", selection="random", prune_heads=(2,))
    search(heads, tmp_path / "heads", QUIET)
    targets = (bert, str(ticket_path), str(tmp_path / "heads"))
    settings = [TransferConfig(target=one, task="sst2", steps=100_000) for one in targets]  # far from the highest rate
    dense, sparse, structured = (prepare_transfer(one, QUIET).learning_rate for one in settings)
    assert sparse == pytest.approx(dense * (1 + min(1.0, ticket.sparsity / 0.6)))
    assert structured == dense


def test_constant_predictions_are_degenerate(tmp_path, bert):
    config = TransferConfig(target=bert, task="cola", steps=1, learning_rate=1e-12)
    prepared = prepare_transfer(config, QUIET)
    plm = load_base(prepared.target, prepared.task)
    with torch.no_grad():
        plm.model.classifier.weight.zero_()
        plm.model.classifier.bias.copy_(torch.tensor([0.0, 1.0]))
    assert evaluate_dev_splits(prepared, plm) == {
        "evaluation": {"matthews": 0.0},
        "degenerate": True,
        "confusion": {"validation": [[0, 9], [0, 9]]},
    }


def test_outputs_in_batches_are_those_of_single_examples(bert, monkeypatch):
    plm = load_base(prepare_transfer(TransferConfig(target=bert, task="mnli"), QUIET).target, TASKS["mnli"])
    plm.model.train()
    split = task_data("mnli").train
    encoded = encode_split(plm, split, 128)
    monkeypatch.setattr(importlib.import_module("winning_tickets.training.predict"), "BATCH_TOKENS", 70)
    found = [torch.from_numpy(logits) for logits in predict_split(plm, encoded)]
    assert plm.model.training
    plm.model.eval()
    with torch.no_grad():
        for index, pair in enumerate(zip(*split.texts, strict=True)):
            single = plm.model(**plm.tokenizer(*pair, return_tensors="pt")).logits[0]
            torch.testing.assert_close(found[index], single, atol=1e-5, rtol=1e-4)


def test_batches_without_gradients_are_small_on_a_cpu(bert, monkeypatch):
    plm = load_base(prepare_transfer(TransferConfig(target=bert, task="mnli"), QUIET).target, TASKS["mnli"])
    encoded = encode_split(plm, task_data("mnli").train, 128)
    monkeypatch.setattr(importlib.import_module("winning_tickets.training.predict"), "BATCH_TOKENS_ON_CPU", 70)
    shapes = []
    plm.model.register_forward_pre_hook(lambda _, __, given: shapes.append(given["input_ids"].shape), with_kwargs=True)
    predict_split(plm, encoded)
    assert sum(rows for rows, _ in shapes) == len(encoded)
    assert max(rows for rows, _ in shapes) > 1
    assert all(rows * width <= 70 or rows == 1 for rows, width in shapes)


def test_segment_numbers_go_only_to_models_that_have_segments(tmp_path):
    segments = {"bert": True, "roberta": True, "distilbert": False, "albert": True, "modernbert": False, "mpnet": False}
    for kind, has_segments in (segments | {"deberta-v2": False}).items():
        model = str(make_model(tmp_path / kind, kind))
        plm = load_base(prepare_transfer(TransferConfig(target=model, task="mrpc"), QUIET).target, TASKS["mrpc"])
        assert ("token_type_ids" in encode_split(plm, task_data("mrpc").train, 64).columns) == has_segments


def test_files_of_ones_own(tmp_path, bert):
    lines = [f"{text}\t{('bad', 'good', 'neutral')[i % 3]}" for i, text in enumerate(TEXT)]
    (tmp_path / "train.tsv").write_text("review\tmood\n" + "\n".join(lines) + "\n")
    (tmp_path / "dev.tsv").write_text("review\tmood\n" + "\n".join(lines[:8]) + "\n")
    config = TransferConfig(
        target=bert,
        train_file=str(tmp_path / "train.tsv"),
        validation_file=str(tmp_path / "dev.tsv"),
        text_columns=("review",),
        label_column="mood",
        metric="f1",
        train_size="50%",
        steps=3,
    )
    result = transfer(config, tmp_path / "run", QUIET)
    assert (result["task"], result["train_examples"], result["validation_examples"]) == ("local", 18, {"validation": 8})
    assert next(iter(result["metrics"])) == result["primary_metric"] == "f1"
    assert result["majority"] == 3 / 8
    seed = json.loads((tmp_path / "run" / "seed-0" / "result.json").read_text())
    assert (seed["labels"], seed["text_columns"]) == (["bad", "good", "neutral"], ["review"])


def test_the_subset_follows_its_seed(tmp_path, bert, monkeypatch):
    seen = {}

    def encode(plm, split, *rest, **more):
        seen.setdefault(len(split), []).append(tuple(split.texts[0]))
        return encode_split(plm, split, *rest, **more)

    monkeypatch.setattr("winning_tickets.finetuning.prepared_task.encode_split", encode)
    config = TransferConfig(target=bert, task="sst2", steps=1, seeds=(0, 1), train_size="10")
    transfer(config, tmp_path / "own", QUIET)
    assert seen[10][0] != seen[10][1]
    transfer(config.model_copy(update={"train_size_seed": 1}), tmp_path / "shared", QUIET)
    assert seen[10][2] == seen[10][3] == seen[10][1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"task": None},
            r"No task was given: use --task \(cola, .*pydocs, mlm, clm\), or --train-file and --validation-file",
        ),
        ({"train_file": "a.csv"}, "--task sst2 and files of your own contradict each other; give one of them"),
        ({"task": None, "train_file": "a.csv"}, "--train-file and --validation-file go together; one is missing"),
        ({"task": "sst"}, "Unknown task 'sst'. Did you mean 'sst2'"),
        ({"metric": "f1"}, "--metric needs --train-file; --task sst2 has its own"),
        ({"label_column": "y"}, "--label-column needs --train-file"),
        ({"seeds": ()}, "--seeds '' must name one or more different seeds"),
        ({"seeds": (1, 1)}, "--seeds '1,1' must name one or more different seeds"),
        ({"seeds": (-1,)}, "--seeds '-1' must be between 0 and"),
        ({"epochs": 0.0}, "--epochs 0.0 is impossible; it must be above 0"),
        ({"epochs": 1, "steps": 1}, "--epochs and --steps contradict each other"),
        ({"steps": 0}, "--steps 0 is impossible; it must be at least 1"),
        ({"batch_size": -1}, "--batch-size -1 is impossible"),
        ({"eval_steps": 0}, "--eval-steps 0 is impossible"),
        ({"learning_rate": -1e-3}, "--learning-rate -0.001 is impossible"),
        ({"max_length": 2}, "--max-length 2 is impossible; .* reads 3 to 512"),
        ({"max_length": 513}, "--max-length 513 is impossible; .* reads 3 to 512"),
        ({"warmup_ratio": 1.5}, "--warmup-ratio 1.5 is impossible; it must be at most 1"),
        ({"weight_decay": -1}, "--weight-decay -1 is impossible; it must be at least 0"),
        ({"train_size": "37"}, "--train-size 37 asks for more than the 36 training examples"),
        ({"target": "./nowhere"}, "There is no model folder ./nowhere"),
        ({"base": "x"}, "--base needs a ticket"),
    ],
)
def test_refused_before_any_work(tmp_path, bert, fields, message):
    with pytest.raises(UsageError, match=message):
        transfer(TransferConfig.of(**{"target": bert, "task": "sst2"} | fields), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()


def test_all_problems_are_told_at_once(bert):
    with pytest.raises(UsageError) as caught:
        prepare_transfer(TransferConfig(target=bert, task="nope", seeds=(), steps=1, epochs=1), QUIET)
    assert [line.split()[0] for line in str(caught.value).split("\n")] == ["Unknown", "--seeds", "--epochs"]


def test_roberta_reads_less_than_its_position_table(tmp_path):
    model = make_model(tmp_path / "m", "roberta")
    config = json.loads((model / "config.json").read_text())
    assert config["max_position_embeddings"] == 514
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 10**9}))
    with pytest.raises(UsageError, match="--max-length 514 is impossible; .* reads 3 to 513"):
        prepare_transfer(TransferConfig(target=str(model), task="sst2", max_length=514), QUIET)
    assert load_plm(str(model)).tokenizer.model_max_length == 513
    del settings["model_max_length"]  # many tokenizers state no maximum
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_plm(str(model)).tokenizer.model_max_length == 513


def test_other_weights_and_foreign_directories(tmp_path, config):
    other = str(make_model(tmp_path / "other", head="mlm+pooler", seed=5))
    moved = config.model_copy(update={"base": other, "steps": 1, "epochs": None})
    with pytest.raises(ContentError, match="The ticket was made for the weights of"):
        transfer(moved, tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()
    result = transfer(moved.model_copy(update={"allow_other_weights": True}), tmp_path / "run", QUIET)
    assert result["model"] == other
    with pytest.raises(UsageError, match="holds another run .* it was left untouched"):
        transfer(config, tmp_path / "run", QUIET)
    assert summary_of(tmp_path / "run") == result
    with pytest.raises(UsageError, match="holds files that are not a run of this tool"):
        transfer(config, tmp_path / "other", QUIET, force=True)
    assert transfer(config, tmp_path / "run", QUIET, force=True)["steps"] == 10


def test_a_full_disk_while_saving_the_model_fails_the_seed(tmp_path, config, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importlib.import_module("winning_tickets.training.saved_model"), "save_folder", full)
    with pytest.raises(TrainingError, match="No space left on device. Nothing was left half-written"):
        transfer(config, tmp_path / "run", QUIET)
    assert sorted(p.name for p in (tmp_path / "run" / "seed-0").iterdir() if not p.name.startswith(".")) == [
        "config.json",
        "error.json",
        "metrics.jsonl",
    ]
    monkeypatch.undo()


def test_a_rank_without_memory_stops_the_run_of_several_ranks(tmp_path, monkeypatch):
    config = TransferConfig(target="m", task="rte")
    run = RunDirectory.claim(tmp_path / "run", "transfer", "id", {})

    def without_memory(seed):
        claim_seed(run.path, "transfer-seed", seed, "id", config=config)
        raise torch.OutOfMemoryError("no memory on this rank")

    with pytest.raises(TrainingError, match=r"1 of 1 seeds failed \(0\). Seed 0: no memory on this rank"):
        run_seeds(run, (0,), without_memory, lambda *_: {})
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(torch.OutOfMemoryError):
        run_seeds(run, (1,), without_memory, lambda *_: {})


@pytest.mark.parametrize("given", [None, 1e-3])
def test_a_default_rate_that_the_dense_model_would_not_have_is_said(ticket_path, tmp_path, monkeypatch, caplog, given):
    monkeypatch.setattr(transfer_module.seeds, "run_seeds", lambda *_: {})
    config = TransferConfig(target=str(ticket_path), task="sst2", steps=10**6, learning_rate=given)
    prepared = prepare_transfer(config, QUIET)
    sparse, dense = prepared.learning_rate, prepared.dense_rate
    transfer(config, tmp_path / "run")
    said = (
        f"The default learning rate is {sparse:g} for this ticket and {dense:g} for the dense model. To compare them "
        "at one rate, give --learning-rate to both."
    )
    assert caplog.messages == ([] if given else [said])
    assert (sparse > dense) == (given is None)
