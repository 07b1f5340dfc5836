"""Metrics of sets of classes against scikit-learn; never NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from winning_tickets.data.records import METRICS_OF, Task
from winning_tickets.models.heads import label_set_metrics

TASK = Task("local", ("text",), ("a", "b", "c"), METRICS_OF["multilabel"], kind="multilabel")
SETS = st.tuples(*[st.integers(0, 1)] * 3)


@given(st.lists(st.tuples(SETS, SETS), min_size=1, max_size=12))
def test_metrics(rows: Any) -> None:
    found, truth = (np.array([row[side] for row in rows]) for side in (0, 1))
    values, degenerate = label_set_metrics(TASK, found == 1, truth.astype(float))
    assert values == pytest.approx(
        {
            "micro_f1": f1_score(truth, found, average="micro", zero_division=0.0),
            "macro_f1": f1_score(truth, found, average="macro", zero_division=0.0),
            "exact_match": accuracy_score(truth, found),
        }
    )
    assert list(values) == ["micro_f1", "macro_f1", "exact_match"]
    assert degenerate == (len({row[0] for row in rows}) == 1)


def test_no_class_anywhere() -> None:
    assert label_set_metrics(TASK, np.zeros((2, 3)), np.array([[1, 0, 0], [0, 1, 1]])) == (
        {"micro_f1": 0.0, "macro_f1": 0.0, "exact_match": 0.0},
        True,
    )
    assert label_set_metrics(TASK, np.zeros((2, 3)), np.zeros((2, 3)))[0] == {
        "micro_f1": 0.0,
        "macro_f1": 0.0,
        "exact_match": 1.0,
    }
