"""Steps for one task at a time: against entries that each keep a state of their own, and to the bit where nothing may
move."""

import copy
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from samples.memberships import KINDS, by_entry
from winning_tickets.finetuning.sharing_optimizer import SharedUpdate, SharingOptimizer, partition, union_of
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.training.optimizers import MTDNNAdamax

TASKS = ("rte", "cola", "mrpc")
SHAPES = {"rows": (6, 4), "columns": (4, 6), "entries": (5, 3), "bias": (6,), "shared": (3, 2), "scale": ()}


def draw_masks(generator):
    """Selections of rows, columns and single entries, with entries that nobody selected."""
    masks = {task: {} for task in TASKS}
    for task in TASKS:
        kept = torch.rand(6, generator=generator) < 0.6
        masks[task]["rows"] = kept[:, None].expand(6, 4)
        masks[task]["bias"] = kept
        masks[task]["columns"] = kept[None].expand(4, 6)
        masks[task]["entries"] = torch.rand(5, 3, generator=generator) < 0.5
    del masks["mrpc"]["columns"]  # shared with whoever selected something of it
    return masks


def draw_model(generator, heads=True):
    names = {**SHAPES, **({f"head.{task}": (2, 3) for task in TASKS} if heads else {})}
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in names.items()
    }


def make(parameters, masks, kind="adamw", strict=True, decay=0.1, rate=0.05):
    owners = {name: name.split(".")[1] for name in parameters if name.startswith("head.")}
    return SharingOptimizer(parameters, TASKS, masks, owners, update=SharedUpdate(kind, rate, decay), strict=strict)


def give_gradients(parameters, task, generator, masks=None):
    """As a backward pass leaves them: nothing for the heads of other tasks, zero where the ticket closes."""
    for name, parameter in parameters.items():
        gradient = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if masks and name in masks.get(task, {}):
            gradient *= masks[task][name]
        parameter.grad = None if name.startswith("head.") and name != f"head.{task}" else gradient


class OwnState:
    """The oracle: every entry has its own moments and counts its own steps, those of tasks that selected it."""

    def __init__(self, parameters, masks, kind, decay, rate):
        self.kind, self.rate = kind, rate
        self.values = {name: value.detach().numpy().copy() for name, value in parameters.items()}
        self.decay = {name: decay if value.ndim > 1 else 0.0 for name, value in self.values.items()}
        self.selected = {
            task: {
                name: masks[task][name].numpy().copy() if name in masks[task] else np.ones(value.shape, bool)
                for name, value in self.values.items()
            }
            for task in TASKS
        }
        self.mean = {name: np.zeros(value.shape) for name, value in self.values.items()}
        self.second = {name: np.zeros(value.shape) for name, value in self.values.items()}
        self.steps = {name: np.zeros(value.shape, int) for name, value in self.values.items()}
        for name, value in self.values.items():
            if not name.startswith("head."):
                value[~np.any([self.selected[task][name] for task in TASKS], axis=0)] = 0

    def step(self, task, gradients):
        for name, gradient in gradients.items():
            on = self.selected[task][name]
            w, m, u, t = (table[name] for table in (self.values, self.mean, self.second, self.steps))
            t[on] += 1
            decay = self.decay[name]
            if self.kind == "adamax":
                gradient = gradient + decay * w
            m[on] = (0.9 * m + 0.1 * gradient)[on]
            corrected = m / (1 - 0.9 ** np.maximum(t, 1))
            if self.kind == "adamw":
                u[on] = (0.999 * u + 0.001 * gradient**2)[on]
                root = np.sqrt(u / (1 - 0.999 ** np.maximum(t, 1))) + 1e-8
                new = w * (1 - self.rate * decay) - self.rate * corrected / root
            elif self.kind == "adamax":
                u[on] = np.maximum(0.999 * u, np.abs(gradient) + 1e-8)[on]
                new = w - self.rate * corrected / np.where(u == 0, 1, u)
            else:
                u[on] = np.maximum(0.999 * u, np.abs(gradient) + 1e-6)[on]
                new = w - self.rate * (m / (u + 1e-6) + decay * w)
            w[on] = new[on]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6), order=st.lists(st.sampled_from(TASKS), min_size=1, max_size=9))
def test_every_entry_moves_as_if_it_saw_only_the_steps_of_tasks_that_selected_it(kind, seed, order):
    generator = torch.Generator().manual_seed(seed)
    masks, parameters = draw_masks(generator), draw_model(generator)
    oracle = OwnState(parameters, masks, kind, 0.1, 0.05)
    optimizer = make(parameters, masks, kind)
    for task in order:
        give_gradients(parameters, task, generator)
        oracle.step(task, {name: p.grad.numpy() for name, p in parameters.items() if p.grad is not None})
        optimizer.select(task)
        optimizer.step()
        for name, parameter in parameters.items():
            np.testing.assert_allclose(parameter.detach().numpy(), oracle.values[name], rtol=1e-11, atol=1e-13)
            for field, expected in (("step", oracle.steps), ("exp_avg", oracle.mean)):
                if field != "step" or kind != "adamax-mtdnn":  # MT-DNN's counts no steps
                    found = by_entry(optimizer, name, parameter, field)
                    np.testing.assert_allclose(found.numpy(), expected[name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_without_tickets_it_is_the_plain_optimizer_to_the_bit(kind):
    generator = torch.Generator().manual_seed(0)
    parameters = {name: nn.Parameter(value.detach().float()) for name, value in draw_model(generator, False).items()}
    plain = copy.deepcopy(parameters)
    groups = [
        {"params": [p for p in plain.values() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in plain.values() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    expected = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.05, fused=True),
        "adamax": lambda: torch.optim.Adamax(groups, lr=0.05),
        "adamax-mtdnn": lambda: MTDNNAdamax(groups, lr=0.05),
    }[kind]()
    optimizer = make(parameters, {}, kind)
    for step in range(5):
        give_gradients(parameters, "rte", generator)
        for name, parameter in plain.items():
            parameter.grad = parameters[name].grad.clone()
        optimizer.select(TASKS[step % 3])
        optimizer.step()
        expected.step()
    assert all(torch.equal(parameters[name], plain[name]) for name in plain)


def test_the_adamax_of_mt_dnn_by_hand():
    parameter = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = MTDNNAdamax([parameter], lr=0.5)
    parameter.grad = torch.tensor([4.0], dtype=torch.float64)
    optimizer.step()
    # m = 0.4, u = 4 + 1e-6; no bias correction: a tenth of the step that torch's takes
    # CPUs with fused multiply-add differ from others in the last bits.
    assert parameter.item() == pytest.approx(2 - 0.5 * (0.4 / (4 + 2e-6) + 0.01 * 2), abs=1e-14)
    before = parameter.item()
    parameter.grad = torch.tensor([-1.0], dtype=torch.float64)
    optimizer.step()
    # m = 0.36 - 0.1, u = 0.999 * (4 + 1e-6)
    assert parameter.item() == pytest.approx(
        before - 0.5 * (0.26 / (0.999 * (4 + 1e-6) + 1e-6) + 0.01 * before), abs=1e-14
    )
    with pytest.raises(ValueError, match="does not support closures"):
        optimizer.step(lambda: 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_removed_entries_stay_positive_zero(kind):
    for strict in (True, False):
        generator = torch.Generator().manual_seed(1)
        masks, parameters = draw_masks(generator), draw_model(generator)
        masks["mrpc"]["columns"] = masks["cola"]["columns"]
        unions = {name: union_of(TASKS, {t: masks[t][name] for t in TASKS}) for name in masks["rte"]}
        assert all(not union.all() for union in unions.values())
        optimizer = make(parameters, masks, kind, strict)
        for step in range(4):
            task = TASKS[step % 3]
            give_gradients(parameters, task, generator, masks)
            optimizer.select(task)
            optimizer.step()
        for name, union in unions.items():
            removed = parameters[name].detach()[~union]
            assert torch.equal(removed.view(torch.int64), torch.zeros_like(removed, dtype=torch.int64))
            assert parameters[name].detach()[union].all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_strictness_momentum_and_decay_leak_as_in_the_released_program(kind):
    """Its optimiser steps whatever has a gradient buffer, and `zero_grad` leaves zeros in it."""
    generator = torch.Generator().manual_seed(2)
    masks, parameters = draw_masks(generator), draw_model(generator)
    del masks["mrpc"]  # nothing is removed
    plain = copy.deepcopy(parameters)
    groups = [
        {"params": [p for p in plain.values() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in plain.values() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    expected = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.05, fused=True),
        "adamax": lambda: torch.optim.Adamax(groups, lr=0.05),
        "adamax-mtdnn": lambda: MTDNNAdamax(groups, lr=0.05),
    }[kind]()
    leaky = make(parameters, masks, kind, strict=False)
    for task in ("rte", "cola", "rte", "cola"):
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        give_gradients(parameters, task, generator, masks)
        for name, parameter in plain.items():
            gradient = parameters[name].grad
            if gradient is not None:
                parameter.grad = gradient.clone()
            elif parameter.grad is not None:
                parameter.grad.zero_()
        leaky.select(task)
        leaky.step()
        expected.step()
        assert all(torch.equal(parameters[name], plain[name]) for name in plain)
    other = ~masks["cola"]["rows"]
    assert not torch.equal(parameters["rows"][other], before["rows"][other])  # though cola did not select them
    assert not torch.equal(parameters["head.rte"], before["head.rte"])
    assert torch.equal(parameters["head.mrpc"], before["head.mrpc"])  # has never had a gradient


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_goes_on_to_the_same_bits(kind, strict):
    masks = draw_masks(torch.Generator().manual_seed(3))

    def run(parameters, optimizer, schedule, steps):
        for step in steps:
            give_gradients(parameters, TASKS[step % 3], torch.Generator().manual_seed(step), masks)
            optimizer.select(TASKS[step % 3])
            optimizer.step()
            schedule.step()

    def start(values=None):
        parameters = draw_model(torch.Generator().manual_seed(4))
        for name, value in (values or {}).items():
            parameters[name].data.copy_(value)
        optimizer = make(parameters, masks, kind, strict)
        return parameters, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 10)

    through = start()
    run(*through, range(9))
    stopped = start()
    run(*stopped, range(4))
    file = io.BytesIO()
    torch.save({"o": stopped[1].state_dict(), "s": stopped[2].state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = start(stopped[0])
    resumed[1].load_state_dict(resumed[1].state_dict())  # as Accelerate does first
    resumed[1].load_state_dict(saved["o"])
    resumed[2].load_state_dict(saved["s"])
    run(*resumed, range(4, 9))
    assert all(torch.equal(through[0][name], resumed[0][name]) for name in through[0])
    assert not torch.equal(through[0]["rows"], stopped[0]["rows"])
    for name, parameter in through[0].items():
        for field in ("exp_avg", *(["step"] if kind != "adamax-mtdnn" else [])):
            expected = by_entry(through[1], name, parameter, field)
            assert torch.equal(expected, by_entry(resumed[1], name, parameter, field))


def test_a_state_of_other_tickets_is_refused():
    generator = torch.Generator().manual_seed(4)
    masks, parameters = draw_masks(generator), draw_model(generator)
    state = make(parameters, masks).state_dict()
    with pytest.raises(ContentError, match="was saved for other parameters, tasks or tickets than these"):
        make(parameters, {}).load_state_dict(state)


def test_the_rate_follows_the_steps_of_all_tasks_together():
    parameters = {"w": nn.Parameter(torch.zeros(4))}
    masks = {task: {"w": torch.arange(4) == place} for place, task in enumerate(TASKS)}
    optimizer = SharingOptimizer(parameters, TASKS, masks, {}, update=SharedUpdate("adamw", 1.0, 0.0))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 4)
    for task in TASKS:
        parameters["w"].grad = torch.ones(4)
        optimizer.select(task)
        optimizer.step()
        schedule.step()
    # The first step of Adam is as long as the rate: a task that comes late does not begin its own warm-up.
    torch.testing.assert_close(parameters["w"].detach(), torch.tensor([-0.25, -0.5, -0.75, 0.0]))


def test_heads_of_other_tasks_stay_also_where_zero_grad_leaves_buffers():
    generator = torch.Generator().manual_seed(5)
    parameters = draw_model(generator)
    optimizer = make(parameters, {})
    for task in ("rte", "cola"):
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            own = not name.startswith("head.") or name == f"head.{task}"
            parameter.grad = torch.full_like(parameter, float(own))
        optimizer.select(task)
        optimizer.step()
        for name, parameter in parameters.items():
            stays = name.startswith("head.") and name != f"head.{task}"
            assert torch.equal(parameter, before[name]) == stays, name


def test_frozen_parameters_and_those_without_a_gradient_stay():
    parameters = {"w": nn.Parameter(torch.ones(2, 2)), "frozen": nn.Parameter(torch.ones(2), requires_grad=False)}
    optimizer = SharingOptimizer(parameters, TASKS, {}, {}, update=SharedUpdate("adamw", 0.1, 0.1))
    optimizer.select("rte")
    optimizer.step()
    assert all(torch.equal(parameter, torch.ones_like(parameter)) for parameter in parameters.values())
    assert "frozen" not in optimizer.slices


def test_a_step_needs_to_know_whose_batch_it_is():
    parameters = {"w": nn.Parameter(torch.ones(2))}
    optimizer = SharingOptimizer(parameters, TASKS, {}, {}, update=SharedUpdate("adamw", 0.1, 0.1))
    with pytest.raises(ValueError, match="No task was selected"):
        optimizer.step()
    optimizer.select("rte")
    optimizer.step()
    with pytest.raises(ValueError, match="No task was selected"):  # the next batch may be another task's
        optimizer.step()
    with pytest.raises(ValueError, match="There is no task 'sst2' here; the tasks are rte, cola, mrpc"):
        optimizer.select("sst2")
    with pytest.raises(ValueError, match="does not support closures"):
        optimizer.step(lambda: 0.0)
    parameters["w"].data = torch.ones(2)
    optimizer.select("rte")
    with pytest.raises(ValueError, match="w was moved after the optimizer was made"):
        optimizer.step()


def test_rows_of_a_large_matrix_are_updated_where_they_are_and_columns_are_gathered():
    heads = {"rte": torch.tensor([1, 1, 0, 1]), "cola": torch.tensor([1, 1, 1, 1]), "mrpc": torch.tensor([1, 0, 0, 1])}
    kept = {task: mask.bool().repeat_interleave(64) for task, mask in heads.items()}
    rows = partition((256, 256), TASKS, {task: mask[:, None].expand(256, 256) for task, mask in kept.items()})
    assert [(sorted(p.tasks), p.dim, p.start, p.length) for p in rows] == [
        (["cola"], 0, 128, 64),
        (["cola", "rte"], 0, 64, 64),
        (["cola", "mrpc", "rte"], 0, 0, 64),
        (["cola", "mrpc", "rte"], 0, 192, 64),
    ]
    matrix = torch.arange(256.0 * 256).view(256, 256)
    for piece in rows:
        view = piece.of(matrix)
        assert view.is_contiguous()
        assert view.data_ptr() == matrix[piece.start].data_ptr()
    columns = partition((256, 256), TASKS, {task: mask[None].expand(256, 256) for task, mask in kept.items()})
    assert [(sorted(p.tasks), p.dim, p.length) for p in columns] == [
        (["cola"], 1, 64),
        (["cola", "rte"], 1, 64),
        (["cola", "mrpc", "rte"], 1, 128),
    ]
    assert torch.equal(columns[2].of(matrix), torch.cat([matrix[:, :64], matrix[:, 192:]], 1))


@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.3, 1.0]), shape=st.sampled_from([(4, 3), (7,)]))
def test_pieces_cover_what_somebody_selected_once_and_know_who(seed, share, shape):
    generator = torch.Generator().manual_seed(seed)
    selected = {task: torch.rand(shape, generator=generator) < share for task in TASKS[:2]}
    if seed % 2:
        selected["mrpc"] = torch.rand(shape, generator=generator) < share
    seen = torch.zeros(shape)
    for piece in partition(shape, TASKS, selected):
        piece_of_all = torch.zeros(shape)
        if piece.index is None:
            piece.of(piece_of_all).fill_(1)
        else:
            piece.put_(piece_of_all, torch.ones_like(piece.of(piece_of_all)))
        for task in TASKS:
            inside = selected.get(task, torch.ones(shape, dtype=torch.bool))[piece_of_all.bool()]
            assert inside.all() if task in piece.tasks else not inside.any()
        seen += piece_of_all
    union = union_of(TASKS, selected)
    assert torch.equal(seen, torch.ones(shape) if union is None else union.float())


def test_too_many_tasks_to_tell_apart():
    tasks = [f"task{i}" for i in range(64)]
    with pytest.raises(UsageError, match="64 tasks share one model; tickets of at most 63 can be told apart"):
        partition((2,), tasks, {"task0": torch.tensor([True, False])})
    assert len(partition((2,), tasks[:63], {"task62": torch.tensor([True, False])})) == 2


def test_a_parameter_of_one_row_is_cut_by_columns():
    masks = {"a": torch.tensor([[True, False, True]]), "b": torch.tensor([[True, True, False]])}
    pieces = partition((1, 3), ("a", "b"), masks)
    assert {tuple(sorted(piece.tasks)): piece.length for piece in pieces} == {("a", "b"): 1, ("a",): 1, ("b",): 1}
