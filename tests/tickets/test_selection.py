"""Selection is exact to the weight, whatever the scores, the scope and the sparsity."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samples.naive_selection import naive_keep
from winning_tickets.config import check_sparsity
from winning_tickets.pruning.mask_optimizer import initial_scores, random_scores
from winning_tickets.runs.errors import UsageError
from winning_tickets.tickets.selection import RANKINGS, BandSelector, keep_top, pruned_count

SPARSITIES = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.29, 0.57, 0.58]
SHAPES = {"a": (7, 13), "b": (10, 10), "c": (1, 3), "d": (100,)}


def exact_count(entries, sparsity):
    return math.floor(Fraction(str(float(sparsity))) * entries)


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("method", ["magnitude", "random", "rank", "plateau"])
def test_pruned_count_is_exact_for_every_method_and_scope(method, ranking, sparsity):
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    if method == "magnitude":
        masks = keep_top({n: w.abs() for n, w in weights.items()}, sparsity, ranking)
    elif method == "random":
        masks = keep_top(random_scores(weights, 3), sparsity, ranking)
    else:
        scores = initial_scores(
            {n: w.abs() for n, w in weights.items()}, method, sparsity, ranking, "floor", 2.0, 0.01, 0
        )
        masks = keep_top(scores, sparsity, ranking, weights=weights)
        magnitude = keep_top({n: w.abs() for n, w in weights.items()}, sparsity, ranking)
        assert all(torch.equal(masks[n], magnitude[n]) for n in masks)
    pruned = {name: mask.numel() - int(mask.sum()) for name, mask in masks.items()}
    if ranking == "matrix":
        assert pruned == {name: exact_count(weights[name].numel(), sparsity) for name in weights}
    elif ranking == "row":
        for mask in masks.values():
            rows = mask.view(-1, mask.shape[-1])
            assert (~rows).sum(1).tolist() == [exact_count(rows.shape[1], sparsity)] * rows.shape[0]
    else:
        assert sum(pruned.values()) == exact_count(sum(w.numel() for w in weights.values()), sparsity)


@settings(max_examples=150, deadline=None)
@given(
    scores=st.lists(st.integers(-3, 3), min_size=1, max_size=60),
    seed=st.integers(0, 1000),
    sparsity=st.sampled_from(SPARSITIES),
)
def test_keep_top_equals_the_definition_with_many_ties(scores, seed, sparsity):
    values = torch.tensor(scores, dtype=torch.float32)
    weights = torch.randint(-2, 3, (len(scores),), generator=torch.Generator().manual_seed(seed)).float()
    expected = naive_keep(scores, weights.tolist(), exact_count(len(scores), sparsity))
    assert keep_top({"m": values}, sparsity, weights={"m": weights})["m"].tolist() == expected


@settings(max_examples=100, deadline=None)
@given(
    rows=st.integers(1, 4),
    size=st.integers(1, 40),
    values=st.sampled_from([0, 3, 1000]),
    seed=st.integers(0, 1000),
    sparsity=st.sampled_from(SPARSITIES),
)
def test_each_row_is_that_of_the_definition(rows, size, values, seed, sparsity):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-values, values + 1, (rows, size), generator=generator).float()
    weights = torch.randint(-2, 3, (rows, size), generator=generator).float()
    count = exact_count(size, sparsity)
    expected = [naive_keep(*row, count) for row in zip(scores.tolist(), weights.tolist(), strict=True)]
    assert keep_top({"m": scores}, sparsity, "row", weights={"m": weights})["m"].tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 400),
    seed=st.integers(0, 1000),
    count_share=st.floats(0, 0.999),
    scale=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
)
def test_band_selector_follows_moving_scores_exactly(size, seed, count_share, scale):
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.rand(size, generator=generator) * 50).round() / 50  # rounded, so that ties are common
    weights = torch.randn(size, generator=generator)
    count = int(size * count_share)
    selector = BandSelector(count)
    for _ in range(5):
        mask = torch.empty(size, dtype=torch.bool)
        selector.select(scores, weights, mask)
        assert mask.tolist() == naive_keep(scores.tolist(), weights.tolist(), count)
        scores = scores + scale * torch.randn(size, generator=generator)


def test_global_ranking_ignores_matrix_borders():
    masks = keep_top({"small": torch.tensor([1.0, 2.0]), "large": torch.tensor([10.0, 20.0])}, 0.5, "global")
    assert masks["small"].tolist() == [False, False]
    assert masks["large"].tolist() == [True, True]


def test_the_decimal_that_was_written_is_what_counts():
    assert pruned_count(100, 0.29) == 29  # 0.29 * 100 is 28.999999999999996 in floats
    assert pruned_count(10, 0.25) == 2
    assert pruned_count(30, 0.25, "nearest") == 8
    assert pruned_count(10, 0.25, "nearest") == 2  # ties to even, as the released one-shot code rounds


@pytest.mark.parametrize("bad", [-0.1, 1, 1.5, math.nan, math.inf])
def test_sparsity_outside_the_range_is_refused(bad):
    with pytest.raises(UsageError, match=r"outside \[0, 1\); it is the fraction removed, for example 0.6"):
        check_sparsity(bad)


def test_random_masks_depend_on_the_seed_alone():
    weights = {"m": torch.zeros(50, 40)}
    first, again, other = (keep_top(random_scores(weights, seed), 0.6)["m"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
