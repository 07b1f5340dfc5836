"""Any number of classes for a text: what is predicted, and how good it is."""

from __future__ import annotations

import numpy as np

from winning_tickets.data.encode import Array
from winning_tickets.data.tasks import Task


def label_set_metrics(task: Task, predictions: Array, labels: Array) -> tuple[dict[str, float], bool]:
    """Metrics over all pairs of a text and a class.

    Args:
        task: which metrics.
        predictions: `(examples, classes)`, 1 where a text is said to be of a class.
        labels: the truth, likewise.

    Returns:
        The metrics by name, and whether all texts got the same classes.
    """
    common = np.sum((predictions == 1) & (labels == 1), axis=0)
    total = np.sum(predictions == 1, axis=0) + np.sum(labels == 1, axis=0)
    known = {
        "micro_f1": 2 * common.sum() / max(total.sum(), 1),
        "macro_f1": np.mean(2 * common / np.maximum(total, 1)),
        "exact_match": np.mean(np.all(predictions == labels, axis=1)),
    }
    return {name: float(known[name]) for name in task.metrics}, len(np.unique(predictions, axis=0)) <= 1
