"""Overlap of tickets: exact counts on small masks, the chance level, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samples.tiny_models import make_model
from winning_tickets import Runtime, SearchConfig, Ticket, compare, search
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.overlap import jaccard, overlap_by_matrix, pool

QUIET = Runtime(quiet=True)


def ticket(masks, weights="w"):
    base = BaseModelInfo(name="m", model_type="bert", hash=weights, tensors={})
    info = TicketInfo(method="random", scope="encoder", config={}, applies_to=base)
    return Ticket({name: torch.as_tensor(mask, dtype=torch.bool) for name, mask in masks.items()}, info)


def save(path, masks, weights="w"):
    ticket(masks, weights).save_pretrained(path)
    return str(path)


def test_every_number_by_hand(tmp_path):
    a = save(tmp_path / "a", {"x": [[1, 1, 0, 0]], "y": [[1, 0], [0, 0]]})
    b = save(tmp_path / "b", {"x": [[1, 0, 1, 0]], "y": [[1, 1], [1, 1]]})
    result = compare([a, b])
    assert result["names"] == [a, b]
    # x: one kept by both, three by either; y: one by both, four by either; pruned 1 of 3 and 0 of 3.
    assert result["kept_jaccard"] == [[1.0, 2 / 7], [2 / 7, 1.0]]
    assert result["pruned_jaccard"] == [[1.0, 1 / 6], [1 / 6, 1.0]]
    # Expected intersections of independent masks: 2 * 2 / 4 in x, 1 * 4 / 4 in y.
    assert result["chance_kept"][0][1] == 2 / (3 + 6 - 2)
    assert result["chance_pruned"][0][1] == (8 - 7) / (8 - 2)
    assert result["chance_kept"][0][0] == pytest.approx((1 + 0.25) / (6 - 1.25))
    assert result["distance_to_first"] == [0.0, 1 - 2 / 7]
    assert result["by_matrix"] == {"x": [[1.0, 1 / 3], [1 / 3, 1.0]], "y": [[1.0, 0.25], [0.25, 1.0]]}
    assert result["sparsity"] == [5 / 8, 2 / 8]
    assert result["same_base"] is True


def test_the_mean_over_matrices_counts_a_small_one_as_much_as_a_large_one(tmp_path):
    a = save(tmp_path / "a", {"x": [[1, 1, 0, 0]], "y": [[1, 0], [0, 0]], "z": [[1]]})
    b = save(tmp_path / "b", {"x": [[1, 0, 1, 0]], "y": [[1, 1], [1, 1]], "z": [[1]]})
    result = compare([a, b], average="matrix")
    assert result["average"] == "matrix"
    assert result["kept_jaccard"][0][1] == pytest.approx((1 / 3 + 1 / 4 + 1) / 3)
    assert result["pruned_jaccard"][1][0] == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert result["chance_kept"][0][1] == pytest.approx((1 / 3 + 1 / 4 + 1) / 3)
    assert result["distance_to_first"] == pytest.approx([0.0, 1 - (1 / 3 + 1 / 4 + 1) / 3])
    assert compare([a, b])["average"] == "pooled"
    with pytest.raises(UsageError, match="Unknown average 'matrx'. Did you mean 'matrix'"):
        compare([a, b], average="matrx")


def test_random_tickets_overlap_as_chance_says(tmp_path):
    model = str(make_model(tmp_path / "m"))
    for seed, sparsity in ((0, 0.5), (1, 0.7)):
        search(SearchConfig(model=model, method="random", sparsity=sparsity, seed=seed), tmp_path / str(seed), QUIET)
    result = compare([tmp_path / "0", tmp_path / "1"])
    assert result["kept_jaccard"][0][1] == pytest.approx(result["chance_kept"][0][1], abs=0.02)
    assert result["chance_kept"][0][1] == pytest.approx(0.15 / (0.5 + 0.3 - 0.15), abs=1e-3)
    assert result["pruned_jaccard"][0][1] == pytest.approx(0.35 / (0.5 + 0.7 - 0.35), abs=0.02)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_jaccard_agrees_with_sets(pairs):
    a, b = ticket({"x": [p[0] for p in pairs]}), ticket({"x": [p[1] for p in pairs]})
    kept_a, kept_b = ({i for i, p in enumerate(pairs) if p[side]} for side in (0, 1))
    everything = set(range(len(pairs)))
    overlap = pool(overlap_by_matrix(a, b))
    union = kept_a | kept_b
    assert overlap.kept == (len(kept_a & kept_b) / len(union) if union else 1.0)
    pruned = (everything - kept_a) | (everything - kept_b)
    assert overlap.pruned == (len(everything - union) / len(pruned) if pruned else 1.0)
    assert jaccard(a, b) == jaccard(b, a)
    assert jaccard(a, a) == 1.0


def test_other_weights_are_flagged(tmp_path):
    a, b = save(tmp_path / "a", {"x": [1, 0]}), save(tmp_path / "b", {"x": [1, 0]}, weights="others")
    result = compare([a, b])
    assert result["same_base"] is False
    assert result["kept_jaccard"][0][1] == 1.0


def test_refusals_name_the_difference(tmp_path):
    a = save(tmp_path / "a", {"x": [1, 0], "y": [1, 0]})
    b = save(tmp_path / "b", {"x": [1, 0]})
    c = save(tmp_path / "c", {"x": [1, 0, 0]})
    with pytest.raises(UsageError, match="1 ticket was given, expected two or more"):
        compare([a])
    with pytest.raises(ContentError, match=r"have different scopes: .*a masks y, .*b does not\. Compare tickets"):
        compare([a, b])
    with pytest.raises(ContentError, match=r"x has shape \(2,\) in the first and \(3,\) in the second"):
        compare([b, c])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is not a ticket: it has no ticket.json"):
        compare([a, tmp_path / "empty"])
