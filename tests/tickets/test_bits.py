"""Fast passes say what the plain ones of PyTorch say, whatever the memory looks like."""

import torch

from winning_tickets.tickets.selection import count_true, keep_top


def test_counting_whatever_the_memory_looks_like():
    mask = (torch.arange(60) % 7 < 2).view(6, 10)
    for seen in (mask, mask.t(), mask[:, ::3], mask[:0]):
        assert count_true(seen) == int(seen.sum())


def test_scores_of_half_precision_and_in_any_order_of_memory_are_ranked_by_value():
    values = (torch.randn(40, 60, generator=torch.Generator().manual_seed(0)) * 4).round() / 4  # many ties
    for ranking in ("matrix", "row"):
        expected = keep_top({"a": values}, 0.4, ranking, weights={"a": values})["a"]
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            scores = {"a": values.to(dtype).t().contiguous().t()}
            assert torch.equal(keep_top(scores, 0.4, ranking, weights=scores)["a"], expected)


def test_masks_and_scores_do_not_share_memory():
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    for ranking in ("matrix", "global"):
        masks = keep_top(scores, 0.5, ranking)
        masks["a"].fill_(True)
        assert masks["b"].tolist() == ([False, True] if ranking == "matrix" else [True, True])
