"""Golden numbers of the papers and their programs: sizes of scopes, the series of sparsities, chance levels."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from winning_tickets.config import SearchConfig
from winning_tickets.models.architectures import ARCHITECTURES
from winning_tickets.models.loading import PLM, prunable_names
from winning_tickets.tickets.files import BaseModelInfo, TicketInfo
from winning_tickets.tickets.overlap import Overlap, overlap_by_matrix, pool
from winning_tickets.tickets.selection import keep_top, pruned_count
from winning_tickets.tickets.ticket import Ticket

ENCODER_AND_POOLER = 85_524_480
WITH_EMBEDDINGS = 108_965_376
SERIES = [10, 20, 30, 40, 50, 60, 70, 80, 90]


@pytest.fixture(scope="module")
def bert_base():
    """BERT-base without weights."""
    with torch.device("meta"):
        model = BertModel(BertConfig())
    return PLM(model, None, ARCHITECTURES["bert"], "bert-base-uncased", None, None, has_mlm_head=False)


@pytest.mark.parametrize(
    ("scope", "matrices", "weights"),
    [
        ("encoder+pooler", 73, ENCODER_AND_POOLER),
        ("encoder+embeddings+pooler", 74, WITH_EMBEDDINGS),
        ("encoder", 72, ENCODER_AND_POOLER - 768 * 768),
        ("encoder+embeddings", 73, WITH_EMBEDDINGS - 768 * 768),
    ],
)
def test_prunable_weights_of_bert_base(bert_base, scope, matrices, weights):
    names = prunable_names(bert_base, scope)
    assert len(names) == matrices
    assert sum(bert_base.encoder.get_parameter(name).numel() for name in names) == weights


def test_iterative_pruning_goes_in_tenths_of_the_original_count():
    """Both programs prune 1/(10-k) of what is left after k rounds, which is a tenth of the whole each time.

    They round that share; ours counts from the whole, so no rounding adds up.
    """
    series = SearchConfig(model="m", method="imp", corpus="c").sparsities
    assert [round(100 * sparsity) for sparsity in series] == SERIES
    for entries in (ENCODER_AND_POOLER, WITH_EMBEDDINGS):
        left, released = entries, []
        for k in range(9):
            left -= round(Fraction(left, 10 - k))
            released.append(entries - left)
        ours = [pruned_count(entries, sparsity) for sparsity in series]
        assert ours == [entries * tenth // 10 for tenth in range(1, 10)]
        most = 0 if entries == ENCODER_AND_POOLER else 3  # a tenth of the first is a whole number
        assert max(abs(a - b) for a, b in zip(ours, released, strict=True)) <= most
    assert [pruned_count(ENCODER_AND_POOLER, s) for s in (0.1, 0.9)] == [8_552_448, 76_972_032]


@pytest.mark.parametrize("percent", [0, *SERIES, 99])
def test_chance_levels_of_jaccard(percent):
    """Of two independent masks of sparsity s: (1-s)/(1+s) of the kept, s/(2-s) of the pruned weights."""
    s, total = percent / 100, 10_000
    kept = total * (100 - percent) // 100
    one = Overlap(both=0, first=kept, second=kept, total=total, chance_both=kept * kept / total)
    assert one.chance_kept == pytest.approx((1 - s) / (1 + s))
    assert one.chance_pruned == pytest.approx(s / (2 - s) if s else 1.0)  # nothing pruned twice is the same


@pytest.mark.parametrize("sparsity", [0.5, 0.6, 0.7])
def test_random_tickets_overlap_as_chance_says(sparsity):
    base = BaseModelInfo(name="m", model_type="bert", hash="h", tensors={})
    info = TicketInfo(method="random", scope="encoder", config={}, applies_to=base)
    generator = np.random.default_rng(0)
    a, b = (Ticket(keep_top({"w": torch.from_numpy(generator.random((400, 500)))}, sparsity), info) for _ in range(2))
    found = pool(overlap_by_matrix(a, b))
    assert found.kept == pytest.approx((1 - sparsity) / (1 + sparsity), abs=0.005)
    assert found.pruned == pytest.approx(sparsity / (2 - sparsity), abs=0.005)
