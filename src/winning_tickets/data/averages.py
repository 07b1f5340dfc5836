"""One score for several tasks: the two averages of the Super Tickets paper (Liang et al., ACL 2021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from winning_tickets.errors import ContentError, shown
from winning_tickets.stats import LARGEST

Metrics = Mapping[str, float]

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
    """An average, and of what.

    Attributes:
        value: over all tasks that were given.
        scores: what each task contributes, in the order of the paper; two numbers where a task is two columns.
        missing: tasks of the paper that were not given, so that `value` cannot be compared with its tables.
        beyond: tasks that were given and are not in the paper's tables; the same holds.
    """

    value: float
    scores: dict[str, tuple[float, ...]]
    missing: tuple[str, ...]
    beyond: tuple[str, ...]


def task_average(results: Mapping[str, Metrics]) -> Average:
    """The mean over tasks, each task counting once (Super Tickets, Tables 1 and 3).

    Two metrics of a task are averaged first: accuracy and F1, Pearson and Spearman, MNLI matched and mismatched. A task
    that is not in the paper counts with the mean of all its metrics.

    Args:
        results: metrics by name, for each task; all on one scale.

    Raises:
        ContentError: no task, or a task lacks a metric that the average needs.
    """
    return _average(results, PAPER_TASKS, lambda metrics: fmean(metrics.values()), merge=True)


def column_average(results: Mapping[str, Metrics]) -> Average:
    """The mean over columns, as the GLUE server forms them (Super Tickets, Table 2).

    MNLI is two columns, matched and mismatched. MRPC and QQP count with F1, STS-B with Spearman. A task that is not in
    the paper is one column: its F1 where it has one, else Spearman, else the mean of all its metrics.

    Args:
        results: metrics by name, for each task; all on one scale.

    Raises:
        ContentError: no task, or a task lacks a metric that the average needs.
    """

    def one(metrics: Metrics) -> float:
        return next((metrics[name] for name in ("f1", "spearman") if name in metrics), fmean(metrics.values()))

    return _average(results, COLUMNS, one, merge=False)


RULES: dict[str, Callable[[Mapping[str, Metrics]], Average]] = {
    "task_average": task_average,
    "column_average": column_average,
}


def averages(results: Mapping[str, Metrics]) -> dict[str, Average]:
    """The averages of all `RULES`."""
    return {name: rule(results) for name, rule in RULES.items()}


def _average(
    results: Mapping[str, Metrics],
    needed: Mapping[str, tuple[str, ...]],
    other: Callable[[Metrics], float],
    merge: bool,
) -> Average:
    if not results:
        raise ContentError("There is nothing to average: no task was given.")
    beyond = tuple(task for task in results if task not in needed)
    scores: dict[str, tuple[float, ...]] = {}
    for task in (*(task for task in needed if task in results), *beyond):
        metrics = results[task]
        lacking = [name for name in needed.get(task, ()) if name not in metrics]
        if lacking or not metrics:
            raise ContentError(
                f"The results of {task} lack {', '.join(lacking) or 'any metric'}; "
                f"found {', '.join(metrics) or 'nothing'}."
            )
        if max(map(abs, metrics.values())) > LARGEST:
            raise ContentError(
                f"The results of {task} hold {shown(dict(metrics))}, and no score is beyond {LARGEST:g}."
            )
        values = tuple(metrics[name] for name in needed[task]) if task in needed else (other(metrics),)
        scores[task] = (fmean(values),) if merge else values
    missing = tuple(task for task in needed if task not in results)
    return Average(fmean(value for values in scores.values() for value in values), scores, missing, beyond)
