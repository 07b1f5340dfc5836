"""All numbers of a study in long form: one line a number, for anybody's own analysis."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from winning_tickets.report.study.runs import Run

_FIXED = ("run", "stage", "verb", "status")


def long_form(runs: Sequence[Run]) -> str:
    """CSV with the run, its axes, and each number of its result by path; a run without result has one line.

    Args:
        runs: all planned runs of a study.
    """
    axes = list(dict.fromkeys(axis for run in runs for axis in run.axes))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*_FIXED, *axes, "value", "number"])
    for run in runs:
        start = [run.id, run.stage, run.verb, run.status, *(run.axes.get(axis, "") for axis in axes)]
        found: list[tuple[str, Any]] = list(numbers(run.result or {}))
        writer.writerows([*start, path, number] for path, number in found or [("", "")])
    return buffer.getvalue()


_LEFT_OUT = ("versions", "machine", "config")


def numbers(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a result with its path; lists of texts, versions and the machine are passed over."""
    if isinstance(node, bool):
        return
    if isinstance(node, int | float):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            if path or key not in _LEFT_OUT:
                yield from numbers(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from numbers(value, f"{path}.{index}")
