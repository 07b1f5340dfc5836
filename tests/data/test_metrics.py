"""Metrics: known values, degenerate predictions, MNLI's two names."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winning_tickets.data.metrics import (
    beats_one_answer,
    class_scores,
    combine_splits,
    compute_metrics,
    confusion_table,
    metric_names,
    primary_metric,
)
from winning_tickets.data.records import METRICS, Task
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs.errors import TrainingError

BINARY = Task("local", ("text",), ("no", "yes"), ("accuracy", "f1", "matthews"))
SCORES = Task("local", ("text",), (), ("pearson", "spearman"))


def test_f1_is_macro_for_more_classes() -> None:
    task = dataclasses.replace(BINARY, labels=("a", "b", "c"), metrics=("f1",))
    values, _ = compute_metrics(task, np.array([0, 0, 1]), np.array([0, 1, 1]))
    assert values["f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_constant_labels_give_no_nan() -> None:
    values, degenerate = compute_metrics(SCORES, np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert values == {"pearson": 0.0, "spearman": 0.0}
    assert not degenerate


def test_bad_input() -> None:
    with pytest.raises(TrainingError, match="not finite; lower --learning-rate"):
        compute_metrics(SCORES, np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"Predictions \(2,\) and labels \(3,\) must be two equally long vectors"):
        compute_metrics(SCORES, np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="equally long vectors"):
        compute_metrics(SCORES, np.zeros(0), np.zeros(0))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=20))
def test_always_finite_and_in_range(pairs: list[tuple[int, int]]) -> None:
    predictions, labels = np.array(pairs).T
    values, degenerate = compute_metrics(dataclasses.replace(BINARY, metrics=METRICS), predictions, labels)
    assert set(values) == set(METRICS)
    assert all(-1 - 1e-9 <= value <= 1 + 1e-9 for value in values.values())
    assert degenerate == (len(set(predictions.tolist())) == 1)


def test_names() -> None:
    assert metric_names(TASKS["mnli"]) == ("accuracy_matched", "accuracy_mismatched")
    assert primary_metric(TASKS["mnli"]) == "accuracy_matched"
    assert metric_names(TASKS["mrpc"]) == ("accuracy", "f1")
    assert primary_metric(TASKS["cola"]) == "matthews"


def test_combine() -> None:
    mnli = {"validation_mismatched": {"accuracy": 0.4}, "validation_matched": {"accuracy": 0.5}}
    assert combine_splits(TASKS["mnli"], mnli) == {"accuracy_matched": 0.5, "accuracy_mismatched": 0.4}
    assert combine_splits(TASKS["mrpc"], {"validation": {"accuracy": 0.7, "f1": 0.8}}) == {"accuracy": 0.7, "f1": 0.8}


@pytest.mark.parametrize(
    ("metric", "value", "beats"),
    [
        ("accuracy", 0.75, False),  # three of four examples are of class 1
        ("accuracy", 0.76, True),
        ("f1", 6 / 7, False),  # of always class 1
        ("f1", 0.87, True),
        ("macro_f1", 3 / 7, False),
        ("macro_f1", 0.43, True),
        ("micro_f1", 0.75, False),
        ("micro_f1", 0.76, True),
        ("matthews", 0.0, False),
        ("matthews", 0.01, True),
    ],
)
def test_one_answer_for_all_examples_is_beaten_or_not(metric, value, beats) -> None:
    task = dataclasses.replace(BINARY, metrics=(metric,))
    assert beats_one_answer(task, {metric: value}, [1, 1, 1, 0]) is beats


def test_correlations_and_macro_f1_beat_one_answer_above_those_of_constants() -> None:
    assert not beats_one_answer(SCORES, {"pearson": -0.1, "spearman": 0.5}, [1.0, 2.0])
    assert beats_one_answer(SCORES, {"pearson": 0.1, "spearman": 0.0}, [1.0, 2.0])
    three = dataclasses.replace(BINARY, labels=("a", "b", "c"), metrics=("f1",))
    constant, _ = compute_metrics(three, np.array([0, 0, 0, 0]), np.array([0, 0, 1, 2]))
    assert not beats_one_answer(three, constant, [0, 0, 1, 2])
    assert beats_one_answer(three, {"f1": constant["f1"] + 0.01}, [0, 0, 1, 2])


def test_a_confusion_table_and_the_scores_of_each_class():
    table = confusion_table(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 2]), 3)
    assert table == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    scores = class_scores(table, ("a", "b", "c"))
    assert scores["a"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "examples": 2}
    assert scores["b"]["precision"] == pytest.approx(1 / 3)
    assert scores["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "examples": 1}
    task = Task("t", ("text",), ("a", "b", "c"), ("macro_f1", "micro_f1"))
    metrics, _ = compute_metrics(task, np.array([0, 1, 1, 1]), np.array([0, 0, 1, 2]))
    assert metrics["macro_f1"] == pytest.approx(sum(one["f1"] for one in scores.values()) / 3)
    assert metrics["micro_f1"] == 0.5
