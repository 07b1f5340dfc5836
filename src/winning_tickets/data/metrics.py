"""Metrics of fine-tuning, as fractions; a constant prediction scores 0.0 where a correlation is undefined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from winning_tickets.config.objective import TEXT_NAMES
from winning_tickets.data.records import Kind, Task
from winning_tickets.runs.errors import ContentError, TrainingError, shown
from winning_tickets.runs.statistics import LARGEST, TIE

Array = np.ndarray[Any, Any]


def compute_metrics(task: Task, predictions: Array, labels: Array) -> tuple[dict[str, float], bool]:
    """Compute all metrics of a task from class indices or scores and the true ones, both `(examples,)`, by name."""
    # Accuracy and F1 are in 0-1, correlations in -1 to 1. The second value says whether the predictions are constant.
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or predictions.ndim != 1 or not len(labels):
        raise ValueError(f"Predictions {predictions.shape} and labels {labels.shape} must be two equally long vectors.")
    if not np.isfinite(predictions).all():
        raise TrainingError("The model predicts values that are not finite; lower --learning-rate.")
    values = {name: _score(name, predictions, labels, len(task.labels)) for name in task.metrics}
    return values, bool(np.ptp(predictions) == 0)


def _score(name: str, predictions: Array, labels: Array, classes: int) -> float:
    if name == "accuracy":
        return float(np.mean(predictions == labels))
    if name in ("f1", "macro_f1", "micro_f1"):
        from sklearn.metrics import f1_score

        # F1 of class 1 for two classes (as GLUE has it), the mean over the classes for more.
        if name == "f1" and classes <= 2:
            return float(f1_score(labels, predictions, pos_label=1, zero_division=0.0))
        average = "micro" if name == "micro_f1" else "macro"
        return float(f1_score(labels, predictions, labels=range(classes), average=average, zero_division=0.0))
    # Correlations are undefined where one side is constant.
    if np.ptp(predictions) == 0 or np.ptp(labels) == 0:
        return 0.0
    if name == "matthews":
        from sklearn.metrics import matthews_corrcoef

        return float(matthews_corrcoef(labels, predictions))
    from scipy.stats import pearsonr, spearmanr

    if name == "spearman":
        return float(spearmanr(predictions, labels).statistic)
    # In float64: float32 predictions that hardly vary would look constant to the correlation.
    return float(pearsonr(predictions.astype(np.float64), labels).statistic)


MOST_CLASSES = 100
"""Largest number of classes for which a result has a confusion table."""


def confusion_table(predictions: Array, labels: Array, classes: int) -> list[list[int]]:
    """Count examples by their true class (row) and the predicted one (column), `(classes, classes)`."""
    counts = np.bincount(np.asarray(labels) * classes + np.asarray(predictions), minlength=classes**2)
    table: list[list[int]] = counts.reshape(classes, classes).tolist()
    return table


def class_scores(table: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Compute `precision`, `recall`, `f1` and the number of `examples` of each class from a confusion table."""
    # An undefined score (of a class that is never predicted, or has no example) counts as 0, as in the mean `macro_f1`.
    counts = np.asarray(table)
    right, predicted, true = counts.diagonal(), counts.sum(0), counts.sum(1)
    return {
        name: {
            "precision": float(right[index] / max(predicted[index], 1)),
            "recall": float(right[index] / max(true[index], 1)),
            "f1": float(2 * right[index] / max(predicted[index] + true[index], 1)),
            "examples": int(true[index]),
        }
        for index, name in enumerate(names)
    }


def majority(kind: Kind, labels: Sequence[Any]) -> float | None:
    """Return the accuracy of the most frequent class of examples, words or predicted tokens; None for other kinds."""
    if kind not in ("classification", "tokens", *TEXT_NAMES):
        return None
    classes = [label for row in labels for label in row] if kind == "tokens" else labels
    return max(Counter(classes).values()) / len(classes)


def beats_one_answer(task: Task, metrics: Mapping[str, float], labels: Sequence[Any]) -> bool:
    """Return whether the primary metric is above chance: above that of the best single answer for all examples."""
    metric = task.metrics[0]
    return metrics[metric] > best_constant(task, metric, labels) + TIE


def best_constant(task: Task, metric: str, labels: Sequence[Any]) -> float:
    """Return the score of the best classifier that gives all examples one answer; 0 for correlations."""
    if metric == "accuracy" or (metric == "micro_f1" and task.kind == "classification"):
        return majority(task.kind, labels) or 0.0
    if metric in ("f1", "macro_f1") and task.kind == "classification":
        of_all = len(task.labels) > 2 or metric == "macro_f1"
        shares = [count / len(labels) for label, count in Counter(labels).items() if of_all or label == 1]
        classes = len(task.labels) if of_all else 1
        return max((2 * share / (1 + share) / classes for share in shares), default=0.0)
    return 0.0  # correlations, and kinds of tasks in which an empty answer scores 0


def _suffixes(task: Task) -> dict[str, str]:
    """Return the suffix of metric names for each split; empty where there is one split."""
    if len(task.validation_splits) == 1:
        return {task.validation_splits[0]: ""}
    return {split: "_" + split.removeprefix("validation_") for split in task.validation_splits}


def metric_names(task: Task) -> tuple[str, ...]:
    """Return the names of all metrics of a task over all its validation splits, the primary one first."""
    return tuple(f"{metric}{suffix}" for suffix in _suffixes(task).values() for metric in task.metrics)


def primary_metric(task: Task) -> str:
    """Return the metric that decides on the best evaluation (TAMT Table 1; matched accuracy for MNLI)."""
    return metric_names(task)[0]


def combine_splits(task: Task, by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """Merge the metrics of all splits: `accuracy_matched`, `accuracy_mismatched` for MNLI, plain names elsewhere."""
    # The metrics of a split that the data lack are None.
    absent: Mapping[str, float | None] = dict.fromkeys(task.metrics)
    return {
        f"{name}{suffix}": value
        for split, suffix in _suffixes(task).items()
        for name, value in by_split.get(split, absent).items()
    }


Metrics = Mapping[str, float | None]

PAPER_TASKS: dict[str, tuple[str, ...]] = {
    "rte": ("accuracy",),
    "mrpc": ("accuracy", "f1"),
    "cola": ("matthews",),
    "sst2": ("accuracy",),
    "stsb": ("pearson", "spearman"),
    "qnli": ("accuracy",),
    "qqp": ("accuracy", "f1"),
    "mnli": ("accuracy_matched", "accuracy_mismatched"),
}
"""The tasks of the paper's tables, in their order, with the metrics of Tables 1 and 3. WNLI is not among them."""

COLUMNS: dict[str, tuple[str, ...]] = PAPER_TASKS | {"mrpc": ("f1",), "stsb": ("spearman",), "qqp": ("f1",)}
"""The nine columns that Table 2 averages."""


@dataclass(frozen=True)
class Average:
    """An average over tasks; one with `missing` or `beyond` cannot be compared with the tables of the paper."""

    value: float  # over all given tasks
    scores: dict[str, tuple[float, ...]]  # contribution of each task, in the paper's order; two where it is two columns
    missing: tuple[str, ...]  # tasks of the paper that were not given, or metrics of a task that were not measured
    beyond: tuple[str, ...]  # given tasks that are not in the paper's tables


def task_average(results: Mapping[str, Metrics]) -> Average:
    """Average over tasks, each task counting once (Super Tickets, Tables 1 and 3)."""
    # Two metrics of a task are averaged first: accuracy and F1, Pearson and Spearman, MNLI matched and mismatched. A
    # task that is not in the paper counts with the mean of all its metrics.
    return _average(results, PAPER_TASKS, lambda measured: fmean(measured.values()), merge=True)


def column_average(results: Mapping[str, Metrics]) -> Average:
    """Average over columns, as the GLUE server forms them (Super Tickets, Table 2)."""
    # MNLI is two columns, matched and mismatched. MRPC and QQP count with F1, STS-B with Spearman. A task that is not
    # in the paper is one column: its F1 where it has one, else Spearman, else the mean of all its metrics.

    def one(measured: Mapping[str, float]) -> float:
        return next((measured[name] for name in ("f1", "spearman") if name in measured), fmean(measured.values()))

    return _average(results, COLUMNS, one, merge=False)


def averages(results: Mapping[str, Metrics]) -> dict[str, Average]:
    """Compute both averages from metrics by name for each task, all on one scale."""
    return {"task_average": task_average(results), "column_average": column_average(results)}


def _average(
    results: Mapping[str, Metrics],
    needed: Mapping[str, tuple[str, ...]],
    other: Callable[[Mapping[str, float]], float],
    *,
    merge: bool,
) -> Average:
    if not results:
        raise ContentError("There is nothing to average: no task was given.")
    beyond = tuple(task for task in results if task not in needed)
    scores: dict[str, tuple[float, ...]] = {}
    for task in (*(task for task in needed if task in results), *beyond):
        metrics = results[task]
        lacking = [name for name in needed.get(task, ()) if name not in metrics]
        measured = {name: value for name, value in metrics.items() if value is not None}
        if lacking or not measured:
            raise ContentError(
                f"The results of {task} lack {', '.join(lacking) or 'any metric'}; "
                f"found {', '.join(measured) or 'nothing'}."
            )
        if max(map(abs, measured.values())) > LARGEST:
            raise ContentError(f"The results of {task} hold {shown(dict(metrics))}; no score is beyond {LARGEST:g}.")
        values = tuple(measured[name] for name in needed.get(task, ()) if name in measured) or (other(measured),)
        scores[task] = (fmean(values),) if merge else values
    missing = tuple(task for task in needed if task not in results)
    missing += tuple(
        f"{task} {name}" for task in needed if task in results for name in needed[task] if results[task][name] is None
    )
    return Average(fmean(value for values in scores.values() for value in values), scores, missing, beyond)
