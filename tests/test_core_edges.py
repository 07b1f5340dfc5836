"""Details of the core that a changed comparison, operator or constant alters and no other test notices."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from test_compact import tiny
from test_masking import classifier
from test_task_tickets import TASKS, shared, structured, unstructured
from test_ticket import make_ticket
from winning_tickets import TicketCallback
from winning_tickets.compact import compact_
from winning_tickets.errors import ContentError
from winning_tickets.mask_optimizer import BertAdam
from winning_tickets.sharing_results import weight_remaining
from winning_tickets.task_tickets import TaskTickets


def test_one_head_is_removed_from_a_model_that_is_whole_otherwise():
    model = tiny("bert")
    compact = compact_(model, {"layers.1.heads": torch.tensor([True, True, False, True])})
    assert [layer["heads"] for layer in compact["layers"]] == [[0, 1, 2, 3], [0, 1, 3], [0, 1, 2, 3]]


def test_one_neuron_is_removed_from_a_model_that_is_whole_otherwise():
    model = tiny("bert")
    width = model.config.intermediate_size
    compact = compact_(model, {"layers.2.neurons": torch.arange(width) > 0})
    assert [layer["neurons"] for layer in compact["layers"]] == [width, width, width - 1]


def test_a_ticket_goes_onto_other_weights_only_when_a_run_resumes():
    ticket = make_ticket(classifier(seed=0))
    other = classifier(seed=1)
    with pytest.raises(ContentError, match="weights"):
        TicketCallback(ticket).on_train_begin(None, SimpleNamespace(global_step=0), None, model=other)
    TicketCallback(ticket).on_train_begin(None, SimpleNamespace(global_step=1), None, model=other)
    TicketCallback(ticket, True).on_train_begin(None, SimpleNamespace(global_step=0), None, model=other)


@pytest.mark.parametrize("corrected", [True, False])
def test_decay_makes_weights_smaller(corrected):
    weight = nn.Parameter(torch.full((3,), 2.0))
    optimizer = BertAdam([{"params": [weight], "lr": 0.5}], 1e-8, 0.1, corrected)
    weight.grad = torch.zeros(3)
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((3,), 2.0 * (1 - 0.5 * 0.1)))


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
