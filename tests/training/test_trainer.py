"""The training loop: the numbers of the Hugging Face Trainer, one read-back a step, batches prepared ahead."""

import logging
import threading
import time
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForSequenceClassification, MPNetConfig, MPNetModel, Trainer, TrainingArguments

from samples.tickets import CONFIG
from winning_tickets.config import Runtime
from winning_tickets.data.encode import EncodedSplit
from winning_tickets.data.mixing import TaskBatches, grouped_order, trainer_order
from winning_tickets.runs.directory import RunDirectory, read_log
from winning_tickets.runs.errors import TrainingError
from winning_tickets.training import execution
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.optimizers import adamw
from winning_tickets.training.parallel import prepared_ahead
from winning_tickets.training.trainer import Callback, StepLog, TicketTrainer, checkpoints, trainer_arguments

CPU = torch.device("cpu")
SETTINGS = {"max_steps": 7, "learning_rate": 5e-3, "warmup_steps": 2, "weight_decay": 0.1, "max_grad_norm": 0.5}
EXAMPLES, BATCH_SIZE, SEED = 10, 4, 3  # three batches an epoch, the last one smaller


def classifier():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**(CONFIG | {"hidden_dropout_prob": 0.2})))


def examples():
    ids = torch.randint(1, 50, (EXAMPLES, 7), generator=torch.Generator().manual_seed(1)).tolist()
    return EncodedSplit({"input_ids": ids}, [index % 2 for index in range(EXAMPLES)])


def collate(items):
    return {name: torch.tensor([item[name] for item in items]) for name in ("input_ids", "labels")}


class Norms(Callback):
    """Notes the losses and rates of all steps."""

    def __init__(self):
        self.found = []

    def on_step_end(self, trainer):
        self.found.append((trainer.parts["loss"], trainer.learning_rate))


def ours(folder, batches=None, callbacks=(), runtime=None, build_optimizer=None, **settings):
    model = classifier()
    batches = batches or TaskBatches(examples(), collate, BATCH_SIZE, SEED, order=trainer_order)
    args = trainer_arguments(folder, runtime or Runtime(device="cpu"), seed=SEED, **(SETTINGS | settings))
    return TicketTrainer(
        model=model,
        objective=TaskObjective("classification"),
        batches=batches,
        steps_per_epoch=3,
        args=args,
        callbacks=callbacks,
        build_optimizer=build_optimizer,
    )


def test_it_computes_what_the_trainer_of_transformers_computes_to_the_bit(tmp_path):
    """Data order, dropout, AdamW and what it decays, warm-up and decay of the rate, clipping: over three epochs."""
    losses = []

    class Plain(Trainer):
        def compute_loss(self, model, inputs, *rest, **options):
            labels = inputs.pop("labels")
            sums = torch.nn.functional.cross_entropy(model(**inputs).logits, labels, reduction="sum")
            losses.append(float(sums.detach()) / len(labels))
            return sums / len(labels)

    model = classifier()
    args = TrainingArguments(
        output_dir=str(tmp_path / "theirs"),
        per_device_train_batch_size=BATCH_SIZE,
        seed=SEED,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **SETTINGS,
    )
    Plain(model=model, args=args, train_dataset=examples(), data_collator=collate).train()
    noted = Norms()
    trainer = ours(tmp_path / "ours", callbacks=[noted])
    trainer.train()
    assert [loss for loss, _ in noted.found] == losses
    expected = dict(model.named_parameters())
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    start = dict(classifier().named_parameters())
    assert not torch.equal(start["classifier.weight"], expected["classifier.weight"])


def test_a_table_of_relative_positions_does_not_decay_like_any_bias():
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = MPNetModel(MPNetConfig(vocab_size=20, **tiny))
    theirs = set(Trainer.get_decay_parameter_names(None, model))
    decays, rest = adamw(model, 1e-3, 0.1).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)] for parameter in decays["params"]} == theirs
    assert "encoder.relative_attention_bias.weight" in {names[id(parameter)] for parameter in rest["params"]}
    assert (decays["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(tmp_path, stop):
    class Stop(Callback):
        def on_step_end(self, trainer):
            trainer.should_save = trainer.should_stop = trainer.step == stop

    whole, first = ours(tmp_path / "whole"), ours(tmp_path / "parts", callbacks=[Stop()])
    whole.train()
    first.train()
    (kept,) = checkpoints(tmp_path / "parts")
    assert kept.name == f"checkpoint-{stop}"
    noted = Norms()
    second = ours(tmp_path / "parts", callbacks=[noted])
    torch.rand(5)  # whatever was drawn before
    second.train(resume_from_checkpoint=kept)
    assert len(noted.found) == 7 - stop
    expected = dict(whole.model.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in second.model.named_parameters())


def test_micro_batches_of_different_sizes_average_like_one_batch(tmp_path):
    items = [examples()[index] for index in range(EXAMPLES)]
    whole = [collate(items)] * 7
    parts = [collate(items[:7]), collate(items[7:])] * 7
    losses = {}
    for name, batches, count in (("whole", whole, 1), ("parts", parts, 2)):
        noted = Norms()
        trainer = ours(tmp_path / name, batches, [noted], gradient_accumulation_steps=count)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.train()
        losses[name] = [loss for loss, _ in noted.found]
    assert losses["parts"] == pytest.approx(losses["whole"], rel=1e-4)


class ReadBacks(TorchDispatchMode):
    """Counts the single numbers that are read from tensors."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("max_grad_norm", [0.5, 0.0])
def test_a_step_reads_back_once(tmp_path, monkeypatch, max_grad_norm):
    """All numbers of a step come in one copy; a single number that is read on a GPU waits for it each time."""
    read, original = [], TicketTrainer._read
    monkeypatch.setattr(TicketTrainer, "_read", lambda self, values: read.append(1) or original(self, values))
    trainer = ours(tmp_path, max_grad_norm=max_grad_norm)
    with ReadBacks() as seen:
        trainer.train()
    assert len(read) == 7
    assert seen.count == 0


def test_batches_come_in_order_and_are_prepared_before_they_are_needed():
    made = []

    def prepare(step):
        made.append((step, threading.current_thread() is threading.main_thread()))
        return step

    with prepared_ahead(prepare, range(3, 9), CPU) as batches:
        assert next(batches) == 3
        for _ in range(100):
            if len(made) == 3:
                break
            time.sleep(0.01)
        assert made == [(3, False), (4, False), (5, False)]
        assert list(batches) == [4, 5, 6, 7, 8]
    with prepared_ahead(prepare, range(1000), CPU) as batches:
        assert next(batches) == 0
    assert made[-1][0] < 4  # nothing is prepared for a training that has ended


def test_an_error_in_a_batch_is_that_of_the_training(tmp_path):
    class Broken(list):
        def __getitem__(self, index):
            raise TrainingError("The file was cut off.")

    before = threading.active_count()
    with pytest.raises(TrainingError, match="cut off"):
        ours(tmp_path, Broken([1])).train()
    assert threading.active_count() == before


def test_a_checkpoint_of_another_form_is_none(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    assert checkpoints(tmp_path) == []


def test_a_gpu_multiplies_with_tf32_unless_it_has_bfloat16():
    gpu, before = torch.device("cuda", 0), torch.get_float32_matmul_precision()
    assert [
        execution.precision_of(device, bf16=bf16)
        for device, bf16 in ((CPU, False), (gpu, False), (gpu, True), (CPU, True))
    ] == [
        "float32",
        "tf32",
        "bf16",
        "bf16",
    ]
    for device, bf16, expected in ((CPU, False, before), (gpu, False, "high"), (gpu, True, before)):
        with execution.matrix_precision(device, bf16=bf16):
            assert torch.get_float32_matmul_precision() == expected
        assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("runtime", "bfloat16", "warned"),
    [
        ({"bf16": True}, 1.5, True),
        ({"bf16": True}, 0.5, False),
        ({}, 1.5, False),
    ],
)
def test_slow_bfloat16_comes_with_one_warning(tmp_path, monkeypatch, recwarn, runtime, bfloat16, warned):
    times = {torch.bfloat16: bfloat16, torch.float32: 1.0}
    monkeypatch.setattr(execution, "_time_of_a_product", times.get)
    for cached in (execution._ratio_of_products, execution._warn_of_slow_bf16):
        cached.cache_clear()
    for name in ("first", "second"):
        trainer_arguments(tmp_path / name, Runtime(device="cpu", **runtime), max_steps=1)
    said = (
        "on this processor a matrix product takes 1.5 times as long in bfloat16 as in float32, so steps can be slower"
    )
    assert [str(one.message).startswith(said) for one in recwarn] == [True] * warned


@pytest.mark.parametrize(
    ("bfloat16", "given", "said"),
    [
        (0.4, {}, ["With --bf16 this training would take about 0.6 of its time on this processor."]),
        (0.95, {}, []),
        (0.4, {"bf16": True}, []),
        (0.4, {"seconds": 60.0}, []),
        (0.4, {"device": torch.device("meta")}, []),
    ],
)
def test_a_long_training_is_told_once_what_bfloat16_would_save(monkeypatch, caplog, bfloat16, given, said):
    caplog.set_level(logging.INFO, "winning_tickets")
    times = {torch.bfloat16: bfloat16, torch.float32: 1.0}
    monkeypatch.setattr(execution, "_time_of_a_product", times.get)
    for cached in (execution._ratio_of_products, execution._advise_bf16):
        cached.cache_clear()
    for _ in range(2):
        execution.advise_bf16(**{"device": torch.device("cpu"), "bf16": False, "seconds": 61.0} | given)
    assert caplog.messages == said


def test_the_trainer_estimates_what_is_left_from_its_second_step(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(execution, "advise_bf16", lambda device, **given: asked.append(given))
    ours(tmp_path, max_steps=5).train()
    (given,) = asked
    assert given["bf16"] is False
    assert given["seconds"] > 0


def test_a_product_in_either_precision_takes_time():
    assert execution._time_of_a_product(torch.bfloat16) > 0
    assert execution._time_of_a_product(torch.float32) > 0


def test_a_compiled_training_says_so_and_loses_the_same(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "winning_tickets")
    monkeypatch.setattr(execution, "BACKEND", "eager")  # the graphs are traced, and run as they are
    losses = {}
    for compiled in (False, True):
        noted = Norms()
        runtime = Runtime(device="cpu", torch_compile=compiled)
        trainer = ours(tmp_path / str(compiled), callbacks=[noted], runtime=runtime, max_steps=2)
        trainer.train()
        losses[compiled] = [loss for loss, _ in noted.found]
        assert trainer.args.execution == ({"compiled": True} if compiled else {})
        assert ("Compiled; the first step took" in caplog.text) == compiled
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


def test_gradient_checkpointing_computes_the_same_and_keeps_less(tmp_path):
    """Losses, also with dropout, are equal to the bit; fewer tensors are kept for the backward pass."""
    found = {}
    for checkpointing in (False, True):
        noted, kept = Norms(), []
        runtime = Runtime(device="cpu", gradient_checkpointing=checkpointing)
        trainer = ours(tmp_path / str(checkpointing), callbacks=[noted], runtime=runtime, max_steps=3)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor, kept=kept: kept.append(0) or tensor, lambda t: t):
            trainer.train()
        found[checkpointing] = noted.found, len(kept), trainer.model.state_dict()
    (losses, count, weights), (same_losses, fewer, same_weights) = found[False], found[True]
    assert same_losses == losses
    assert fewer < count
    assert all(torch.equal(same_weights[name], weight) for name, weight in weights.items())


def test_what_cannot_be_compiled_is_said_in_words(tmp_path, monkeypatch):
    def broken(graph, inputs):
        raise ValueError("there is no such instruction")

    monkeypatch.setattr(execution, "BACKEND", broken)
    with pytest.raises(TrainingError, match=r"could not be compiled: .* Leave --compile out\."):
        ours(tmp_path, runtime=Runtime(device="cpu", torch_compile=True)).train()


def test_the_order_of_similar_lengths_has_every_example_once_and_less_padding():
    lengths = [int(length) for length in torch.randint(3, 60, (203,), generator=torch.Generator().manual_seed(0))]
    orders = [partial(grouped_order(lengths, 4), seed)(epoch, 203).tolist() for seed, epoch in ((0, 0), (0, 0), (0, 1))]
    assert orders[0] == orders[1] != orders[2]
    assert all(sorted(order) == list(range(203)) for order in orders)

    def padded(order):
        batches = [order[start : start + 4] for start in range(0, 203, 4)]
        return sum(len(batch) * max(lengths[place] for place in batch) for batch in batches)

    assert padded(orders[0]) < 0.8 * padded(trainer_order(0, 0, 203).tolist())
    first = [sorted(order[:4]) for order in (grouped_order(lengths, 4)(seed, 0, 203).tolist() for seed in range(20))]
    means = [sum(lengths[place] for place in batch) / 4 for batch in first]
    assert min(means) < 20 < 40 < max(means)  # the first batch is neither the shortest nor the longest


def test_the_norm_that_an_optimizer_clips_by_is_read_with_the_losses_and_logged(tmp_path):
    class Own(torch.optim.SGD):
        norm = None

        def gradient_norm(self):
            self.norm = torch.nn.utils.get_total_norm([p.grad for g in self.param_groups for p in g["params"]])
            return self.norm

    made, found = [], []

    class Noted(Callback):
        def on_step_end(self, trainer):
            found.append(trainer.norm[1])

    def build(model):
        made.append(Own([parameter for parameter in model.parameters() if parameter.dim() == 2], lr=0.1))
        return made[0]

    run = RunDirectory.claim(tmp_path / "run", "verb", "id-1", {})
    log = StepLog(run, lambda step, text: None, lambda: {"grad_norm": made[0].norm})
    trainer = ours(run.scratch, callbacks=[log, Noted()], max_grad_norm=0.0, build_optimizer=build)
    with ReadBacks() as seen:
        trainer.train()
    assert seen.count == 0
    assert [record["grad_norm"] for record in read_log(run.path)] == found
    assert min(found) > 0


def test_a_skipped_step_has_no_norm_that_is_not_finite(tmp_path):
    run = RunDirectory.claim(tmp_path / "run", "verb", "id-1", {})
    log = StepLog(run, lambda step, text: None, lambda: {"grad_norm": float("nan"), "changed": 3})
    trainer = ours(run.scratch, callbacks=[log])
    trainer.finite.skipped = True
    log.on_step_end(trainer)
    assert [record.get("changed") for record in read_log(run.path)] == [3]
    assert read_log(run.path)[0]["grad_norm"] is None
