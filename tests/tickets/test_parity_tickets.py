"""One-shot magnitude and random tickets against loops over single weights; laws of the algebra of tickets."""

import math
from fractions import Fraction
from functools import reduce

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from samples.tiny_models import make_model
from winning_tickets import Runtime, SearchConfig, Ticket
from winning_tickets.models.architectures import prunable_views
from winning_tickets.models.loading import load_plm, prunable_names
from winning_tickets.pruning.mask_optimizer import random_scores
from winning_tickets.pruning.search import search
from winning_tickets.runs.errors import ContentError
from winning_tickets.tickets.algebra import combine
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.overlap import jaccard
from winning_tickets.tickets.selection import keep_top

QUIET = Runtime(quiet=True)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Its weights are rounded, so that many have the same magnitude."""
    folder = make_model(tmp_path_factory.mktemp("models") / "bert")
    plm = load_plm(str(folder), head="mlm")
    with torch.no_grad():
        for parameter in plm.model.parameters():
            parameter.copy_((parameter * 64).round() / 64)
    plm.model.save_pretrained(folder)
    return str(folder)


def naive_groups(weights, ranking):
    """Places that compete with each other: (matrix, flat index), matrices in the order of the scope."""
    if ranking == "global":
        yield [(name, place) for name, weight in weights.items() for place in range(weight.numel())]
        return
    for name, weight in weights.items():
        places = [(name, place) for place in range(weight.numel())]
        size = weight.shape[-1] if ranking == "row" else len(places)
        yield from (places[start : start + size] for start in range(0, len(places), size))


def naive_pruned(weights, values, sparsity, ranking):
    """The smallest values of each group; of equal ones the smaller weight goes, then the later place."""
    gone = set()
    flat = {name: weight.abs().reshape(-1).tolist() for name, weight in weights.items()}
    for group in naive_groups(weights, ranking):
        order = sorted(
            range(len(group)),
            key=lambda i: (values[group[i][0]][group[i][1]], flat[group[i][0]][group[i][1]], -i),
        )
        gone.update(group[i] for i in order[: math.floor(Fraction(str(sparsity)) * len(group))])
    return gone


@pytest.mark.parametrize("sparsity", [0.29, 0.6])
@pytest.mark.parametrize("ranking", ["matrix", "row", "global"])
@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_one_shot_tickets_are_those_of_a_loop_over_weights(tmp_path, bert, method, ranking, sparsity):
    config = SearchConfig(model=bert, method=method, sparsity=sparsity, ranking=ranking, seed=3)
    ticket = search(config, tmp_path / "out", QUIET)
    plm = load_plm(bert)
    weights = {name: view.detach() for name, view in prunable_views(plm.encoder, prunable_names(plm)).items()}
    if method == "magnitude":
        values = {name: weight.abs().reshape(-1).tolist() for name, weight in weights.items()}
        assert len(set(values[next(iter(values))])) < 100  # of a thousand weights: ties are everywhere
    else:
        generator = torch.Generator().manual_seed(3)
        values = {
            name: torch.rand(weight.shape, generator=generator, dtype=torch.float64).reshape(-1).tolist()
            for name, weight in weights.items()
        }
    expected = naive_pruned(weights, values, sparsity, ranking)
    found = {(name, int(i)) for name, mask in ticket.masks.items() for i in (~mask).reshape(-1).nonzero()}
    assert found == expected
    assert ticket.pruned == len(expected)


def test_random_masks_prune_every_place_alike():
    """Over 40 seeds a place is pruned about 24 times; four standard deviations are 12."""
    weights = {"small": torch.zeros(3, 5), "large": torch.zeros(60, 50)}
    masks = [keep_top(random_scores(weights, seed), 0.6)["large"] for seed in range(40)]
    counts = torch.stack([~mask for mask in masks]).sum(0)
    assert {int((~mask).sum()) for mask in masks} == {1800}
    assert float(((counts - 24).abs() <= 12).float().mean()) > 0.999
    assert float(counts.float().var()) / (40 * 0.6 * 0.4) == pytest.approx(1, abs=0.1)


ROWS = st.integers(1, 2**31 - 1)
"""What two matrices of 3x5 and 2x8 weights keep, a bit a weight; never nothing."""


def ticket_of(bits):
    base = BaseModelInfo(name="x", model_type="bert", hash="0", tensors={})
    flat = torch.tensor([bits >> place & 1 for place in range(31)], dtype=torch.bool)
    masks = {"a": flat[:15].view(3, 5), "b": flat[15:].view(2, 8)}
    return Ticket(masks, TicketInfo(method="test", scope="encoder", config={}, applies_to=base))


def bits_of(ticket):
    flat = torch.cat([mask.reshape(-1) for mask in ticket.masks.values()]).tolist()
    return sum(1 << place for place, kept in enumerate(flat) if kept)


AS_BITS = {"union": int.__or__, "intersection": int.__and__, "difference": lambda a, b: a & ~b}


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(AS_BITS)), st.lists(ROWS, min_size=2, max_size=4))
def test_operations_are_those_of_integers(operation, rows):
    expected = reduce(AS_BITS[operation], rows)
    tickets = [ticket_of(row) for row in rows]
    if expected == 0:
        with pytest.raises(ContentError, match=f"The {operation} of these {len(rows)} tickets keeps no weight"):
            combine(operation, tickets)
        return
    found = combine(operation, tickets)
    assert bits_of(found) == expected
    assert found.info.parents == tuple(ticket.id for ticket in tickets)
    assert (found.total, found.pruned) == (31, 31 - expected.bit_count())
    assert found.sparsity == found.pruned / 31


@settings(max_examples=80, deadline=None)
@given(ROWS, ROWS, ROWS)
def test_laws_of_sets(first, second, third):
    a, b, c = map(ticket_of, (first, second, third))
    assert bits_of(combine("union", [a, a])) == bits_of(combine("intersection", [a, a])) == first
    assert bits_of(combine("union", [a, b])) == bits_of(combine("union", [b, a]))
    left = bits_of(combine("union", [combine("union", [a, b]), c]))
    assert left == bits_of(combine("union", [a, combine("union", [b, c])])) == bits_of(combine("union", [a, b, c]))
    assume(first & second and first & ~second and second & ~first and first & third)
    both, only_a = combine("intersection", [a, b]), combine("difference", [a, b])
    assert bits_of(combine("union", [both, only_a])) == first
    distributed = combine("union", [both, combine("intersection", [a, c])])
    assert bits_of(distributed) == bits_of(combine("intersection", [a, combine("union", [b, c])]))
    overlap = (first & second).bit_count() / (first | second).bit_count()
    assert jaccard(a, b) == pytest.approx(overlap)


@settings(max_examples=30, deadline=None)
@given(ROWS, ROWS, st.sampled_from(sorted(AS_BITS)))
def test_what_was_combined_survives_the_round_trip(tmp_path_factory, first, second, operation):
    expected = AS_BITS[operation](first, second)
    assume(expected)
    folder = tmp_path_factory.mktemp("combined")
    ticket = combine(operation, [ticket_of(first), ticket_of(second)])
    ticket.save_pretrained(folder)
    again = Ticket.from_pretrained(folder)
    assert bits_of(again) == expected
    assert again.id == ticket.id
    assert again.info.model_copy(update={"versions": {}}) == ticket.info
    assert {path.name for path in folder.iterdir()} == {"ticket.json", "ticket.safetensors", "README.md"}
