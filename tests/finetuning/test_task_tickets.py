"""Several tickets on one encoder: what computes on a batch of a task, and what a step on it leaves alone."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification

from samples.held_models import classifier
from samples.memberships import KINDS, by_entry
from samples.structures import IDS, PADDED, SEPARATE
from samples.tickets import make_ticket
from samples.tiny_models import CONFIGS
from winning_tickets import hold
from winning_tickets.config import Runtime
from winning_tickets.data.encode import EncodedSplit
from winning_tickets.data.mixing import MixedBatches, TaskBatches
from winning_tickets.finetuning.sharing import weight_remaining
from winning_tickets.finetuning.sharing_optimizer import SharedUpdate
from winning_tickets.finetuning.sharing_trainer import TaskTickets, sharing_optimizer
from winning_tickets.models.architectures import ARCHITECTURES
from winning_tickets.models.loading import PLM
from winning_tickets.models.structure import structure_of
from winning_tickets.runs.errors import ContentError
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.multitask import JointObjective, SharedEncoder
from winning_tickets.training.objectives.task import TaskObjective
from winning_tickets.training.trainer import Callback, TicketTrainer, trainer_arguments

TASKS = {"rte": 2, "cola": 2, "stsb": 1}
INFO = TicketInfo(
    method="test",
    scope="encoder",
    config={},
    applies_to=BaseModelInfo(name="x", model_type="bert", hash="0", tensors={}),
)
_MADE = {}


def shared(kind="bert"):
    """One encoder under three heads, in double precision and without dropout, and its structure."""
    if kind not in _MADE:
        models = {}
        for task, labels in TASKS.items():
            config = CONFIGS[kind](60)
            config.num_attention_heads, config.num_labels, config.initializer_range = 4, labels, 0.3
            torch.manual_seed(0)
            models[task] = AutoModelForSequenceClassification.from_config(config).double().eval()
        structure = structure_of(PLM(models["rte"], None, ARCHITECTURES[kind], kind, None, None, False))
        _MADE[kind] = SharedEncoder(models).eval(), structure
    model, structure = _MADE[kind]
    return copy.deepcopy(model), structure


def structured(structure, seed, keep=0.6):
    generator = torch.Generator().manual_seed(seed)
    gates = {
        f"layers.{layer}.{gate}": torch.rand(length, generator=generator) < keep
        for layer in range(len(structure.layers))
        for gate, length in (("heads", 4), ("ffn", 1), ("neurons", 64))
    }
    gates["layers.1.layer"] = torch.tensor([seed % 4 > 0])
    return Ticket({}, INFO, gates=gates, structure=structure)


def unstructured(model, structure, seed, keep=0.6):
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.base_model.named_parameters())
    names = [name for layer in range(2) for role in ("Q", "FO") for name in structure.names(layer, role)]
    shapes = {name: parameters[name].shape for name in names if name in parameters}
    return Ticket({name: torch.rand(s, generator=generator) < keep for name, s in shapes.items()}, INFO)


def loss_of(model, task):
    return model.models[task](input_ids=IDS, attention_mask=PADDED).logits.square().sum()


def train(model, tickets, optimizer, tasks):
    for task in tasks:
        model.zero_grad()
        with tickets.acting(task):
            loss_of(model, task).backward()
        optimizer.select(task)
        optimizer.step()


def outside(model, ticket, task):
    """By the model's own names: what a step for a task must leave alone."""
    masks = ticket.masks_on(model.base_model) if ticket else {}
    found = {
        name: ~masks[name] if name in masks else torch.zeros(p.shape, dtype=torch.bool)
        for name, p in model.base_model.named_parameters()
    }
    for name, parameter in model.heads.items():
        found[name] = torch.full(parameter.shape, not name.startswith(f"models.{task}."))
    return found


def snapshot(model, optimizer):
    parameters = dict(model.base_model.named_parameters()) | model.heads
    fields = {"adamw": ("exp_avg", "exp_avg_sq", "step"), "adamax": ("exp_avg", "exp_inf", "step")}
    kinds = fields.get(optimizer.update.kind, ("exp_avg", "exp_inf"))
    return {
        (name, field): p.detach().clone() if field == "" else by_entry(optimizer, name, p, field)
        for name, p in parameters.items()
        for field in ("", *kinds)
    }


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=8)
@given(
    seeds=st.lists(st.integers(0, 999), min_size=3, max_size=3),
    order=st.lists(st.sampled_from(list(TASKS)), min_size=2, max_size=5),
    forms=st.lists(st.sampled_from(["structured", "unstructured", "none"]), min_size=3, max_size=3),
    family=st.sampled_from(["bert", "modernbert", "distilbert"]),
)
def test_a_step_leaves_everything_outside_the_ticket_alone_to_the_bit(kind, seeds, order, forms, family):
    model, structure = shared(family)
    made = {
        task: structured(structure, seed) if form == "structured" else unstructured(model, structure, seed)
        for task, seed, form in zip(TASKS, seeds, forms, strict=True)
        if form != "none"
    }
    tickets = TaskTickets(model.base_model, made, allow_other_weights=True)
    optimizer = sharing_optimizer(model, list(TASKS), tickets, SharedUpdate(kind, 0.01, 0.1))
    parameters = dict(model.base_model.named_parameters()) | model.heads
    for task in order:
        before = snapshot(model, optimizer)
        train(model, tickets, optimizer, [task])
        after = snapshot(model, optimizer)
        free = outside(model, made.get(task), task)
        for (name, field), value in after.items():
            same = value.view(torch.int64) == before[name, field].view(torch.int64)
            assert same[free[name]].all(), (name, field)
            if field == "step" and parameters[name].grad is not None:
                assert ((value - before[name, field])[~free[name]] == 1).all(), name
        moved = {name for (name, field), value in after.items() if field == "" and not value.equal(before[name, field])}
        assert moved - set(model.heads)
        assert {name.split(".")[1] for name in moved & set(model.heads)} == {task}


@pytest.mark.parametrize("kind", SEPARATE)
def test_a_structured_ticket_acts_without_touching_a_weight(kind):
    model, structure = shared(kind)
    made = {"rte": structured(structure, 1), "cola": structured(structure, 2)}
    tickets = TaskTickets(model.base_model, made)
    dense = {task: loss_of(model, task).item() for task in TASKS}
    versions = {name: (p.data_ptr(), p._version) for name, p in model.named_parameters()}
    for task in ("rte", "cola"):
        with tickets.acting(task):
            found = loss_of(model, task)
            found.backward()
        masked = copy.deepcopy(model)
        made[task].apply_(masked, allow_other_weights=True)
        torch.testing.assert_close(found, loss_of(masked, task), atol=1e-10, rtol=1e-10)
        assert abs(found.item() - dense[task]) > 1e-6
        for name, mask in made[task].masks_on(model.base_model).items():
            gradient = dict(model.base_model.named_parameters())[name].grad
            assert not gradient[~mask].any()
        model.zero_grad()
    assert {name: (p.data_ptr(), p._version) for name, p in model.named_parameters()} == versions
    with tickets.acting("stsb"):  # has no ticket
        assert loss_of(model, "stsb").item() == dense["stsb"]


def test_single_weights_are_masked_for_the_time_of_a_batch():
    model, structure = shared()
    ticket = unstructured(model, structure, 3)
    tickets = TaskTickets(model.base_model, {"rte": ticket})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    masked = copy.deepcopy(model)
    ticket.apply_(masked, allow_other_weights=True)
    loss_of(masked, "rte").backward()
    name, mask = next(iter(ticket.masks.items()))
    parameter = dict(model.base_model.named_parameters())[name]
    with tickets.acting("rte"):
        found = loss_of(model, "rte")
        found.backward()
        assert not parameter[~mask].any()
    assert torch.equal(found, loss_of(masked, "rte"))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    expected = dict(masked.base_model.named_parameters())
    for key, value in model.base_model.named_parameters():
        if key in ticket.masks:
            assert torch.equal(value.grad, expected[key].grad * ticket.masks[key])
            assert expected[key].grad[~ticket.masks[key]].any()
        elif value.grad is not None:
            assert torch.equal(value.grad, expected[key].grad)
    with pytest.raises(ZeroDivisionError), tickets.acting("rte"):
        _ = 1 / 0
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    model.zero_grad()
    loss_of(model, "rte").backward()  # no hook is left
    assert parameter.grad[~mask].any()


def test_gates_with_masks_of_single_weights_act_both():
    model, structure = shared()
    gates, masks = structured(structure, 1), unstructured(model, structure, 3)
    both = Ticket(masks.masks, INFO, gates=gates.gates, structure=structure)
    tickets = TaskTickets(model.base_model, {"rte": both})
    masked = copy.deepcopy(model)
    both.apply_(masked, allow_other_weights=True)
    with tickets.acting("rte"):
        assert torch.equal(loss_of(model, "rte"), loss_of(masked, "rte"))


def test_what_no_task_selected_is_gone_and_what_all_selected_is_moved_by_all():
    model, structure = shared()
    gates = {"layers.0.heads": torch.tensor([True, True, False, False])}
    more = {"layers.0.heads": torch.tensor([True, False, False, True])}
    made = {t: Ticket({}, INFO, gates=g, structure=structure) for t, g in zip(TASKS, (gates, more, more), strict=True)}
    tickets = TaskTickets(model.base_model, made)
    optimizer = sharing_optimizer(model, list(TASKS), tickets, SharedUpdate("adamw", 0.01, 0.1))
    train(model, tickets, optimizer, ["rte", "cola", "stsb", "rte"])
    parameters = dict(model.base_model.named_parameters())
    name = structure.names(0, "V")[0]
    weight, steps = parameters[name].detach(), by_entry(optimizer, name, parameters[name], "step")
    assert [int(steps[8 * head, 0]) for head in range(4)] == [4, 2, 0, 2]
    removed = weight[16:24]
    assert torch.equal(removed.view(torch.int64), torch.zeros_like(removed, dtype=torch.int64))
    assert weight[:16].all()
    assert weight[24:].all()
    shared_name = structure.names(1, "V")[0]
    assert (by_entry(optimizer, shared_name, parameters[shared_name], "step") == 4).all()
    output = structure.bias_names(0, "AO")[0]
    assert (by_entry(optimizer, output, parameters[output], "step") == 4).all()  # the projection's bias is shared


def test_tickets_sharing_learns_what_each_ticket_alone_can():
    """The shared model of one task alone is the model that holds its ticket."""
    model, structure = shared()
    ticket = structured(structure, 5)
    alone = copy.deepcopy(model)
    ticket.apply_(alone, allow_other_weights=True)
    parameters = [p for n, p in alone.named_parameters() if "cola" not in n and "stsb" not in n]
    plain = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)
    masks = ticket.masks_on(alone.base_model)
    tickets = TaskTickets(model.base_model, {"rte": ticket})
    optimizer = sharing_optimizer(model, ["rte"], tickets, SharedUpdate("adamw", 0.01, 0.0))
    for _ in range(3):
        train(model, tickets, optimizer, ["rte"])
        alone.zero_grad()
        loss_of(alone, "rte").backward()
        for name, parameter in alone.base_model.named_parameters():
            if name in masks:
                parameter.grad.mul_(masks[name])
        plain.step()
    expected = dict(alone.base_model.named_parameters())
    for name, parameter in model.base_model.named_parameters():
        torch.testing.assert_close(parameter, expected[name], atol=1e-7, rtol=1e-6)


def test_a_ticket_of_another_encoder_is_refused():
    model, structure = shared()
    ticket = Ticket({"encoder.layer.9.output.dense.weight": torch.ones(2, 2, dtype=torch.bool)}, INFO)
    with pytest.raises(ContentError, match="which this model does not have"):
        TaskTickets(model.base_model, {"rte": ticket})
    other = structure.model_copy(update={"num_heads": 2, "head_size": 16})
    with pytest.raises(ContentError, match="was made for 2 heads per layer, and this model has 4"):
        TaskTickets(
            model.base_model,
            {"rte": Ticket({}, INFO, gates={"layers.0.heads": torch.tensor([True, False])}, structure=other)},
        )


def training(scratch, steps, **more):
    """Two tasks of numbered examples, with dropout, warm-up and linear decay."""
    model, structure = shared()
    model = model.float()
    tickets = TaskTickets(model.base_model, {task: structured(structure, seed) for seed, task in enumerate(TASKS)})
    optimizer = sharing_optimizer(model, list(TASKS), tickets, SharedUpdate("adamax-mtdnn", 0.01, 0.01))
    batches = {
        task: TaskBatches(
            EncodedSplit({"input_ids": [[i + 5, i + 6] for i in range(count)]}, [float(i % 2) for i in range(count)]),
            lambda items, kind=(torch.float if task == "stsb" else torch.long): {
                "input_ids": torch.tensor([item["input_ids"] for item in items]),
                "labels": torch.tensor([item["labels"] for item in items], dtype=kind),
            },
            2,
            0,
        )
        for task, count in zip(TASKS, (9, 5, 3), strict=True)
    }
    kinds = {"rte": "classification", "cola": "classification", "stsb": "regression"}

    def acting(batch):
        (task,) = batch
        optimizer.select(task)
        return tickets.acting(task)

    trainer = TicketTrainer(
        model=model,
        acting=acting,
        objective=JointObjective(
            {task: TaskObjective(kind) for task, kind in kinds.items()}, dict.fromkeys(TASKS, 1.0)
        ),
        build_optimizer=lambda trained: optimizer,
        args=trainer_arguments(
            scratch,
            Runtime(device="cpu", quiet=True),
            max_steps=12,
            warmup_steps=2,
            learning_rate=0.01,
            max_grad_norm=1.0,
            seed=0,
        ),
        batches=MixedBatches(batches, {n: b.per_epoch for n, b in batches.items()}, "annealed", 12, seed=0),
        callbacks=[StopAt(steps)],
    )
    trainer.train(**more)
    return model, optimizer


class StopAt(Callback):
    def __init__(self, step):
        self._step = step

    def on_step_end(self, trainer):
        if trainer.step == self._step:
            trainer.should_save = trainer.should_stop = True


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    whole, first = training(tmp_path / "whole", 12)
    training(tmp_path / "parts", 5)
    resumed, second = training(tmp_path / "parts", 12, resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-5"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    expected, found = snapshot(whole, first), snapshot(resumed, second)
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    start, _ = shared()
    assert not torch.equal(
        start.heads["models.stsb.classifier.weight"].float(), whole.heads["models.stsb.classifier.weight"]
    )


def test_the_weight_that_remains_is_counted_of_each_task_and_of_all():
    model, structure = shared()
    encoder = model.base_model
    made = {"rte": unstructured(model, structure, 0), "cola": structured(structure, 1)}
    tickets = TaskTickets(encoder, made, allow_other_weights=True)
    remaining, of_each = weight_remaining(encoder, tickets, list(TASKS))
    total = sum(parameter.numel() for parameter in encoder.parameters())
    for task in TASKS:
        closed = sum(int((~mask).sum()) for mask in tickets.selections.get(task, {}).values())
        assert of_each[task] == pytest.approx((total - closed) / total)
    assert of_each["stsb"] == remaining == 1
    assert 0 < of_each["cola"] < 1


def test_tickets_of_other_weights_are_refused_unless_allowed():
    encoder, ticket = classifier(seed=0).base_model, make_ticket(classifier(seed=1))
    with pytest.raises(ContentError, match="weights"):
        TaskTickets(encoder, {"rte": ticket})
    TaskTickets(encoder, {"rte": ticket}, allow_other_weights=True)
    with pytest.raises(ContentError, match="weights"):
        hold(classifier(seed=0), ticket)
    hold(classifier(seed=0), ticket, allow_other_weights=True)
