"""Masks on parameter data: exactly +0.0 whatever the optimiser did, and a teacher that is the same module."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

from samples.held_models import assert_exactly_zero, batch, classifier
from samples.tickets import CONFIG, QUERY, make_ticket
from winning_tickets import TicketCallback, hold
from winning_tickets.runs.errors import ContentError
from winning_tickets.tickets.masking import MaskedWeights, modes
from winning_tickets.tickets.selection import write_masked_


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 5000),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_write_masked_equals_where_and_gives_positive_zeros(size, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(size, generator=generator).to(dtype)
    dense[0] = float("nan")
    mask = torch.rand(size, generator=generator) > 0.5
    target = torch.full((size,), -1.0, dtype=dtype)
    write_masked_(target, dense, mask)
    expected = torch.where(mask, dense, torch.zeros((), dtype=dtype))
    assert torch.equal(target.nan_to_num(), expected.nan_to_num())
    assert not bool(torch.signbit(target[~mask]).any())


def test_write_masked_works_across_chunks_and_on_transposed_memory():
    dense, mask = torch.randn(700, 800), torch.rand(700, 800) > 0.3
    target = torch.empty_like(dense)
    write_masked_(target, dense, mask)
    assert torch.equal(target, torch.where(mask, dense, 0.0))
    transposed = torch.empty(800, 700).t()
    write_masked_(transposed, dense, mask)
    assert torch.equal(transposed, target)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
        lambda p: torch.optim.Adamax(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
    ],
    ids=["adamw", "sgd", "adamax", "rmsprop"],
)
def test_pruned_weights_stay_zero_under_any_optimiser(make):
    model = classifier()
    ticket = make_ticket(model)
    optimizer = make(model.parameters())
    model(**batch()).loss.backward()
    optimizer.step()  # moments of pruned weights exist before the ticket is held
    optimizer.zero_grad()
    held = hold(model, ticket, optimizer, allow_other_weights=True)
    before = model.classifier.weight.detach().clone()
    for step in range(3):
        model(**batch(step)).loss.backward()
        gradient = dict(model.base_model.named_parameters())[QUERY].grad
        assert bool((gradient[~ticket.masks[QUERY]] == 0).all())
        optimizer.step()
        assert_exactly_zero(model, ticket)
        optimizer.zero_grad()
    assert not torch.equal(before, model.classifier.weight)
    held.remove()
    model(**batch()).loss.backward()
    optimizer.step()
    query = dict(model.base_model.named_parameters())[QUERY]
    assert bool((query.detach()[~ticket.masks[QUERY]] != 0).any())


def test_holding_changes_no_names_and_no_classes():
    model = classifier()
    names, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    hold(model, make_ticket(model))
    assert list(model.state_dict()) == names
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_callback_holds_in_an_ordinary_trainer(tmp_path, accumulation):
    model = classifier()
    ticket = make_ticket(model)
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.05,
        weight_decay=0.1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    rows = [{key: value[i % 4] for key, value in batch(i).items()} for i in range(12)]
    Trainer(model=model, args=args, train_dataset=rows, callbacks=[TicketCallback(ticket)]).train()
    assert_exactly_zero(model, ticket)


def test_a_masked_model_is_the_model_with_zeroed_weights():
    torch.manual_seed(0)
    model = BertModel(BertConfig(**CONFIG)).eval()
    reference = BertModel(BertConfig(**CONFIG)).eval()
    reference.load_state_dict(model.state_dict())
    ticket = make_ticket(model)
    MaskedWeights(model, list(ticket.masks)).write(ticket.masks)
    ids = batch()["input_ids"]
    student = model(ids).last_hidden_state
    assert not torch.equal(student, reference(ids).last_hidden_state)
    ticket.apply_(reference)
    assert torch.equal(reference(ids).last_hidden_state, student)


def test_modes_restores_each_modules_own_flag():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()))
    model[1].eval()
    with modes(model, training=False):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False, False]


def test_a_ticket_goes_onto_other_weights_only_when_a_run_resumes():
    ticket = make_ticket(classifier(seed=0))
    other = classifier(seed=1)
    with pytest.raises(ContentError, match="weights"):
        TicketCallback(ticket).on_train_begin(None, SimpleNamespace(global_step=0), None, model=other)
    TicketCallback(ticket).on_train_begin(None, SimpleNamespace(global_step=1), None, model=other)
    TicketCallback(ticket, True).on_train_begin(None, SimpleNamespace(global_step=0), None, model=other)
