"""Fast passes say what the plain ones of PyTorch say, across chunks, for every type, NaN and infinity included."""

import math

import pytest
import torch

from winning_tickets.tickets import selection
from winning_tickets.tickets import selection as bits
from winning_tickets.tickets.selection import between, beyond, count_true, keep_top, kth_smallest, nonzero

SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 0.5]


def some_scores(dtype, size=1000):
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(size, generator=generator) * 4).round() / 4  # many ties
    values[: len(SPECIAL)] = torch.tensor(SPECIAL)
    return values.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("chunk", [7, 1 << 18])
def test_comparisons_are_those_of_pytorch(dtype, chunk, monkeypatch):
    monkeypatch.setattr(bits, "_CHUNK", chunk)
    values = some_scores(dtype)
    for low, high in ((0.5, 0.5), (-1.0, 0.25), (-math.inf, 0.0), (0.0, math.inf), (9.0, 9.5), (1.0, 0.0)):
        below, inside = between(values, low, high)
        assert below == int((values < low).sum())
        assert inside.tolist() == ((values >= low) & (values <= high)).nonzero().flatten().tolist()
        assert torch.equal(beyond(values, low), values > low)
        out = torch.ones(values.shape, dtype=torch.bool)
        assert beyond(values, low, out) is out
        assert torch.equal(out, values > low)


def test_counting_and_finding_whatever_the_memory_looks_like():
    mask = (torch.arange(60) % 7 < 2).view(6, 10)
    for seen in (mask, mask.t(), mask[:, ::3], mask[:0]):
        assert count_true(seen) == int(seen.sum())
        assert nonzero(seen).tolist() == seen.reshape(-1).nonzero().flatten().tolist()


@pytest.mark.parametrize("kind", ["random", "ties", "sorted", "periodic", "few high", "infinite"])
@pytest.mark.parametrize("size", [1024, 5000])
def test_the_kth_value_among_many_is_exact_whatever_their_order(kind, size, monkeypatch):
    """Also where a sample at regular places says something else than all of them."""
    monkeypatch.setattr(selection, "_MANY", 1000)
    monkeypatch.setattr(selection, "_SAMPLE", 64)
    generator = torch.Generator().manual_seed(size)
    values = {
        "random": torch.randn(size, generator=generator),
        "ties": torch.randint(0, 3, (size,), generator=generator).float(),
        "sorted": torch.arange(size, 0, -1).float(),
        "periodic": (torch.arange(size) % (size // 64)).float(),
        "few high": torch.where(torch.arange(size) % 997 == 5, 1.0, 0.0),
        "infinite": torch.where(torch.arange(size) % 3 == 0, math.inf, -math.inf),
    }[kind]
    ordered = values.sort().values
    for k in (1, 2, size // 100, size // 3, size // 2, int(0.9 * size), size - 1, size):
        assert kth_smallest(values, k) == float(ordered[k - 1]), k


def test_ties_among_many_are_those_of_the_definition(monkeypatch):
    monkeypatch.setattr(selection, "_MANY", 1000)
    monkeypatch.setattr(selection, "_SAMPLE", 64)
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(0, 4, (3000,), generator=generator).float()
    weights = torch.randint(-5, 6, (3000,), generator=generator).float()
    order = sorted(range(3000), key=lambda i: (float(scores[i]), abs(float(weights[i])), -i))
    for sparsity in (0.1, 0.29, 0.5, 0.9):
        kept = keep_top({"a": scores}, sparsity, weights={"a": weights})["a"]
        expected = torch.ones(3000, dtype=torch.bool)
        expected[order[: int(sparsity * 3000 + 1e-9)]] = False
        assert torch.equal(kept, expected)


def test_weights_that_are_no_numbers_still_leave_the_exact_count():
    weights = torch.tensor([math.nan, 1.0, math.inf, 2.0, math.nan, 0.0])
    kept = keep_top({"a": torch.ones(6)}, 0.5, weights={"a": weights})["a"]
    assert kept.tolist() == [True, False, True, False, True, False]


def test_masks_and_scores_do_not_share_memory():
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    for ranking in ("matrix", "global"):
        masks = keep_top(scores, 0.5, ranking)
        masks["a"].fill_(True)
        assert masks["b"].tolist() == ([False, True] if ranking == "matrix" else [True, True])
