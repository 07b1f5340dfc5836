"""Selection is exact to the weight, whatever the scores, the scope and the sparsity."""

import itertools
import math
from fractions import Fraction
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samples.naive_selection import naive_keep
from winning_tickets.config import check_sparsity
from winning_tickets.pruning.mask_optimizer import initial_scores, random_scores
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets import selection
from winning_tickets.tickets.selection import RANKINGS, Block, Selector, keep_top, pruned_count

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
        keep = partial(keep_top, sparsity=sparsity, ranking=ranking)
        scores = initial_scores({n: w.abs() for n, w in weights.items()}, method, keep, ranking, top=0.02, seed=0)
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


def sizes_and_counts(random):
    """Blocks of groups of several sizes, some of which keep nothing or everything."""
    for _ in range(random.randint(1, 3)):
        groups, size = random.randint(1, 4), random.choice([1, 5, 33, 40, 300])
        kept = tuple(random.randint(0, size) for _ in range(groups))
        yield Block(groups, size, random.choice([kept, kept[0]]))


@settings(max_examples=60, deadline=None)
@given(
    random=st.randoms(use_true_random=False),
    sample=st.sampled_from([64, 1 << 16]),
    by_sorting=st.booleans(),  # as on a GPU
    chunk=st.sampled_from([7, 100, 1 << 18]),
    rounding=st.sampled_from([None, 50, 3, 0]),
    scale=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_all_groups_at_once_are_those_of_the_definition_while_scores_move(
    random, sample, by_sorting, chunk, rounding, scale, dtype
):
    blocks = list(sizes_and_counts(random))
    generator = torch.Generator().manual_seed(random.randint(0, 1000))
    scores = torch.rand(sum(block.groups * block.size for block in blocks), generator=generator).to(dtype)
    if rounding is not None:  # many ties, or nothing else
        scores = (scores * rounding).round() / 50
    weights = (torch.randn(scores.shape, generator=generator) * 3).round()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_SAMPLE", sample)
        patch.setattr(selection, "_CHUNK", chunk)
        if by_sorting:
            patch.setattr(selection, "_survivors", selection._sort_out)
        selector = Selector(blocks)
        for _ in range(4):
            found = iter(selector.select(scores, weights).split([b.size for b in blocks for _ in range(b.groups)]))
            entries = iter(zip(scores.tolist(), weights.tolist(), strict=True))
            for block in blocks:
                counts = [block.kept] * block.groups if isinstance(block.kept, int) else block.kept
                for count in counts:
                    group = list(zip(*itertools.islice(entries, block.size), strict=True))
                    assert next(found).tolist() == naive_keep(*group, block.size - count)
            scores = scores + scale * torch.randn(scores.shape, generator=generator).to(dtype)


@pytest.mark.parametrize("kind", ["random", "ties", "sorted", "periodic", "few high", "two values"])
@pytest.mark.parametrize("size", [1024, 5000])
def test_a_sample_that_says_something_else_than_all_scores_changes_nothing(kind, size, monkeypatch):
    monkeypatch.setattr(selection, "_SAMPLE", 64)
    generator = torch.Generator().manual_seed(size)
    values = {
        "random": torch.randn(size, generator=generator),
        "ties": torch.randint(0, 3, (size,), generator=generator).float(),
        "sorted": torch.arange(size, 0, -1).float(),
        "periodic": (torch.arange(size) % (size // 64)).float(),
        "few high": torch.where(torch.arange(size) % 997 == 5, 1.0, 0.0),
        "two values": torch.where(torch.arange(size) % 3 == 0, 0.02, 0.0),
    }[kind]
    weights = torch.randint(-5, 6, (size,), generator=generator).float()
    for count in (0, 1, size // 100, size // 3, size // 2, int(0.9 * size), size - 1, size):
        mask = Selector([Block(1, size, (size - count,))]).select(values, weights)
        assert mask.tolist() == naive_keep(values.tolist(), weights.tolist(), count), count


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_has_no_rank_is_refused_with_its_name(bad, dtype):
    good = {"a": torch.ones(3, 4, dtype=dtype), "b": torch.full((2, 2), 3e38, dtype=dtype)}  # their sum overflows
    assert keep_top(good, 0.5)["b"].tolist() == [[True, True], [False, False]]
    broken = good | {"a": good["a"].clone()}
    broken["a"][1, 2] = bad
    with pytest.raises(ContentError, match="The scores of a contain NaN or infinity, which cannot be ranked; check"):
        keep_top(broken, 0.5)
    with pytest.raises(ContentError, match="The weights of a contain NaN or infinity"):
        keep_top(good, 0.5, weights=broken)


def test_a_score_that_became_nan_in_a_search_is_reported():
    selector = Selector([Block(1, 100, (40,))])
    with pytest.raises(ContentError, match="A score is NaN, which has no rank; lower the learning rate"):
        selector.select(torch.full((100,), math.nan))


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
