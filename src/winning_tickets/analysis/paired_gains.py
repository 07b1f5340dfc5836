"""The gain of some tickets over others in transfer: runs of two groups, paired by task and seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from winning_tickets.analysis.report.result import resulting
from winning_tickets.analysis.results import (
    Runs,
    RunScore,
    Score,
    check_comparable,
    find_differences,
    index_once,
    read_runs,
)
from winning_tickets.analysis.statistics import Array, describe_bootstrap, interval
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.statistics import TIE, deviation

Key = tuple[str, int]


@resulting()
def gain(
    runs: Runs,
    baseline: Runs,
    dense: Runs = (),
    *,
    score: Score = "final",
    allow_missing: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two groups of transfers over the same tasks and seeds; a cell is one task with one seed.

    A transfer is given as its folder or as the result that `transfer` returned.
    """
    given = {"target": runs, "baseline": baseline} | ({"dense": dense} if dense else {})
    groups = {
        name: index_once(read_runs(paths, score, kind=name), lambda cell: cell.key, f"The {name} runs")
        for name, paths in given.items()
    }
    # Cells that only the dense model has are not needed.
    wanted = dict.fromkeys([*groups["target"], *groups["baseline"]])
    missing = [
        {"group": name, "task": key[0], "seed": key[1]}
        for key in wanted
        for name, group in groups.items()
        if key not in group
    ]
    if missing and not allow_missing:
        named = ", ".join(f"{entry['task']} seed {entry['seed']} (not in {entry['group']})" for entry in missing)
        raise ContentError(
            f"Runs are paired by task and seed; {len(missing)} are missing: {named}. Run them, or give --allow-missing."
        )
    keys = [key for key in groups["target"] if key in groups["baseline"]]
    if not keys:
        raise UsageError("The two groups share no task and seed, so there is nothing to compare.")
    check_comparable([cell for group in groups.values() for cell in group.values()])
    cells = [_cell(key, groups) for key in keys]
    # A fair comparison has no setting that differs between the groups of a cell.
    different = [
        {"task": key[0], "seed": key[1], "setting": setting, "values": {name: own[0] for name, own in values.items()}}
        for key in keys
        for setting, values in find_differences({name: [group[key]] for name, group in groups.items() if key in group})
    ]
    return {
        "kind": "gain",
        "score": score,
        "groups": {name: _describe(group) for name, group in groups.items()},
        "cells": cells,
        "tasks": [_task(task, cells) for task in dict.fromkeys(task for task, _ in keys)],
        "mean": _mean(cells, seed),
        "dense_share": _dense_share(cells, seed) if dense else None,
        "missing": missing,
        "different_settings": different,
        "bootstrap": describe_bootstrap(seed, "cells (task and seed), each task with equal weight"),
    }


def _cell(key: Key, groups: Mapping[str, dict[Key, RunScore]]) -> dict[str, Any]:
    target, baseline, dense = groups["target"][key], groups["baseline"][key], groups.get("dense", {}).get(key)
    return {
        "task": target.task,
        "seed": target.seed,
        "metric": target.metric,
        "target": target.value,
        "baseline": baseline.value,
        "dense": None if dense is None else dense.value,
        "gain": target.value - baseline.value,
    }


def _counts(cells: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    gains = [cell["gain"] for cell in cells]
    return {
        "n": len(gains),
        "wins": sum(value > TIE for value in gains),
        "ties": sum(abs(value) <= TIE for value in gains),
        "losses": sum(value < -TIE for value in gains),
    }


def _task(task: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [cell for cell in cells if cell["task"] == task]
    gains = [cell["gain"] for cell in own]
    dense = [cell["dense"] for cell in own if cell["dense"] is not None]
    return {
        "task": task,
        "metric": own[0]["metric"],
        "target": statistics.fmean(cell["target"] for cell in own),
        "baseline": statistics.fmean(cell["baseline"] for cell in own),
        "dense": statistics.fmean(dense) if dense else None,
        "gain": statistics.fmean(gains),
        "gain_std": deviation(gains),
        "seeds": [cell["seed"] for cell in own],
        **_counts(own),
    }


def _weights(cells: Sequence[Mapping[str, Any]]) -> Array:
    """Return weights `(cells,)`, 1 / (tasks * seeds of the task): the weighted sum of cells is the mean over tasks."""
    names = [cell["task"] for cell in cells]
    return np.array([1 / (len(set(names)) * names.count(name)) for name in names])


def _column(cells: Sequence[Mapping[str, Any]], key: str) -> Array:
    return np.array([cell[key] for cell in cells], dtype=float)


def _mean(cells: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    weights, gains = _weights(cells), _column(cells, "gain")

    def drawn_mean(drawn: Array) -> Array:
        return np.asarray((weights * gains)[drawn].sum(1) / weights[drawn].sum(1))

    tasks = [_task(task, cells)["gain"] for task in dict.fromkeys(cell["task"] for cell in cells)]
    return {
        "target": float(weights @ _column(cells, "target")),
        "baseline": float(weights @ _column(cells, "baseline")),
        "gain": float(weights @ gains),
        # Cells are drawn from all tasks together, then within each task; the second interval is about these tasks only.
        "interval": interval(drawn_mean, len(cells), seed),
        "interval_within_tasks": interval(drawn_mean, len(cells), seed, strata=[cell["task"] for cell in cells]),
        "tasks": len(tasks),
        "tasks_won": sum(value > TIE for value in tasks),
        **_counts(cells),
    }


def _dense_share(cells: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any] | None:
    """Return the averages of target and baseline as shares of the dense model's, over cells that it has, too."""
    cells = [cell for cell in cells if cell["dense"] is not None]
    if not cells:
        return None
    weights = _weights(cells)
    dense = weights * _column(cells, "dense")
    result: dict[str, Any] = {"dense": float(dense.sum()), "n": len(cells)}
    for name in ("target", "baseline"):
        own = weights * _column(cells, name)
        result[name] = float(own.sum() / dense.sum()) if dense.sum() > 0 else None

        def drawn_share(drawn: Array, own: Array = own) -> Array:
            below = dense[drawn].sum(1)
            return np.asarray(np.divide(own[drawn].sum(1), below, out=np.full(below.shape, np.nan), where=below > 0))

        result[f"{name}_interval"] = interval(drawn_share, len(cells), seed) if dense.sum() > 0 else None
    return result


def _describe(group: Mapping[Key, RunScore]) -> dict[str, Any]:
    """Return tickets and files of a group; the id None is the dense model."""
    found = {cell.ticket_id: cell for cell in group.values()}
    return {
        "tickets": [{"ticket_id": one, "sparsity": cell.sparsity, "model": cell.model} for one, cell in found.items()],
        "runs": sorted({cell.path for cell in group.values()}),
    }
