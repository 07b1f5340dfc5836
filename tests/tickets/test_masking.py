"""Masks on parameter data: exactly +0.0."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from samples.held_models import batch
from samples.tickets import CONFIG, make_ticket
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
