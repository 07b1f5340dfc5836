"""Metrics of fine-tuning, as fractions; a constant prediction scores 0.0 where a correlation is undefined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from winning_tickets.data.tasks import Task
from winning_tickets.errors import TrainingError

Array = np.ndarray[Any, Any]


def compute(task: Task, predictions: Array, labels: Array) -> tuple[dict[str, float], bool]:
    """All metrics of a task on one split.

    Args:
        task: which metrics, and how many classes.
        predictions: class indices, or scores of a regression, `(examples,)`.
        labels: the truth, `(examples,)`.

    Returns:
        The metrics by name, accuracy and F1 in 0-1, correlations in -1 to 1; and whether the predictions are constant.

    Raises:
        ValueError: the arrays differ in shape or are empty.
        TrainingError: a prediction is NaN or infinite.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or predictions.ndim != 1 or not len(labels):
        raise ValueError(f"Predictions {predictions.shape} and labels {labels.shape} must be two equally long vectors.")
    if not np.isfinite(predictions).all():
        raise TrainingError("The model predicts values that are not finite; lower --learning-rate.")
    values = {name: _METRICS[name](predictions, labels, len(task.labels)) for name in task.metrics}
    return values, bool(np.ptp(predictions) == 0)


def _accuracy(predictions: Array, labels: Array, classes: int) -> float:
    return float(np.mean(predictions == labels))


def _f1(predictions: Array, labels: Array, classes: int) -> float:
    """F1 of class 1 for two classes (as GLUE has it), the mean over the classes for more."""
    from sklearn.metrics import f1_score

    if classes <= 2:
        return float(f1_score(labels, predictions, pos_label=1, zero_division=0.0))
    return float(f1_score(labels, predictions, labels=range(classes), average="macro", zero_division=0.0))


def _matthews(predictions: Array, labels: Array, classes: int) -> float:
    from sklearn.metrics import matthews_corrcoef

    return 0.0 if _undefined(predictions, labels) else float(matthews_corrcoef(labels, predictions))


def _pearson(predictions: Array, labels: Array, classes: int) -> float:
    from scipy.stats import pearsonr

    # In float64: float32 predictions that hardly vary would look constant to the correlation.
    return 0.0 if _undefined(predictions, labels) else float(pearsonr(predictions.astype(np.float64), labels).statistic)


def _spearman(predictions: Array, labels: Array, classes: int) -> float:
    from scipy.stats import spearmanr

    return 0.0 if _undefined(predictions, labels) else float(spearmanr(predictions, labels).statistic)


def _undefined(predictions: Array, labels: Array) -> bool:
    return bool(np.ptp(predictions) == 0 or np.ptp(labels) == 0)


_METRICS: dict[str, Callable[[Array, Array, int], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}


def _suffixes(task: Task) -> dict[str, str]:
    """What is appended to a metric's name for each split; nothing where there is one split."""
    if len(task.validation_splits) == 1:
        return {task.validation_splits[0]: ""}
    return {split: "_" + split.removeprefix("validation_") for split in task.validation_splits}


def metric_names(task: Task) -> tuple[str, ...]:
    """Names of all metrics of a task over all its validation splits, the primary one first."""
    return tuple(f"{metric}{suffix}" for suffix in _suffixes(task).values() for metric in task.metrics)


def primary_metric(task: Task) -> str:
    """The metric that `best` is chosen by (TAMT Table 1; matched accuracy for MNLI)."""
    return metric_names(task)[0]


def combine(task: Task, by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Metrics of all splits in one dict: `accuracy_matched`, `accuracy_mismatched` for MNLI, plain names elsewhere.

    Args:
        task: its splits give the names.
        by_split: what `compute` returned for each validation split.
    """
    suffixes = _suffixes(task)
    return {f"{name}{suffixes[split]}": value for split in suffixes for name, value in by_split[split].items()}
