"""Choices of lengths that a head reads."""

from __future__ import annotations

import pytest

from winning_tickets.data.tasks import get_task
from winning_tickets.models.heads import choose_doc_stride
from winning_tickets.runs.errors import UsageError


def test_windows_of_a_short_model_adjoin_unless_a_stride_with_gaps_is_asked_for() -> None:
    squad = get_task("squad")
    chosen = choose_doc_stride(None, squad, 64)
    assert chosen == squad.doc_stride
    assert choose_doc_stride(chosen, squad, 64) == chosen  # as a later run reads it from the record of the model
    with pytest.raises(UsageError, match="--doc-stride 65 is impossible: 64 tokens would leave gaps"):
        choose_doc_stride(65, squad, 64)
