"""The gain of some tickets over others in transfer: runs of two groups, paired by task and seed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from winning_tickets.report.effects import Estimate, Place, mean_effect
from winning_tickets.report.result import resulting
from winning_tickets.runs.errors import ContentError, UsageError
from winning_tickets.runs.statistics import TIE, deviation
from winning_tickets.studies.analysis.report.views import REPORTS
from winning_tickets.studies.analysis.results import (
    Runs,
    RunScore,
    Score,
    check_comparable,
    find_differences,
    index_once,
    read_runs,
)

Key = tuple[str, int]


@resulting(views=REPORTS)
def gain(
    runs: Runs,
    baseline: Runs,
    dense: Runs = (),
    *,
    score: Score = "final",
    allow_missing: bool = False,
) -> dict[str, Any]:
    """Compare two groups of transfers over the same tasks and seeds; a cell is one task with one seed.

    A transfer is given as its folder or as the result that `transfer` returned. Tasks and seeds are samples: the
    interval is that of the claims of studies (docs/explanation/claims.md).
    """
    given = {"target": runs, "baseline": baseline} | ({"dense": dense} if dense else {})
    groups = {
        name: index_once(read_runs(paths, score, kind=name), lambda cell: cell.key, f"The {name} runs")
        for name, paths in given.items()
    }
    missing = _missing(groups)
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
    # A task on which neither group is above chance says nothing about the gain.
    tasks = list(dict.fromkeys(task for task, _ in keys))
    silent = [
        task for task in tasks if all(groups[name][key].at_chance for key in keys if key[0] == task for name in _PAIR)
    ]
    counted = [key for key in keys if key[0] not in silent] or keys
    nothing = len(silent) == len(tasks)
    # A fair comparison has no setting that differs between the groups of a cell.
    different = [
        {"task": key[0], "seed": key[1], "setting": setting, "values": values}
        for key in keys
        for setting, values in find_differences({name: [group[key]] for name, group in groups.items() if key in group})
    ]
    return {
        "kind": "gain",
        "score": score,
        "groups": {name: _describe(group) for name, group in groups.items()},
        "cells": cells,
        "tasks": [
            _task(task, cells, [key for key in keys if key[0] == task], groups, silent=task in silent) for task in tasks
        ],
        "mean": _mean(cells, counted, groups, nothing=nothing),
        "dense_share": _dense_share(counted, groups, nothing=nothing) if dense else None,
        "missing": missing,
        "degenerate": [
            {"group": name, "task": key[0], "seed": key[1]}
            for name, group in groups.items()
            for key in keys
            if key in group and _learned_nothing(group[key])
        ],
        "not_counted": silent,
        "different_settings": different,
    }


_PAIR = ("target", "baseline")
Groups = Mapping[str, Mapping[Key, RunScore]]


def _missing(groups: Groups) -> list[dict[str, Any]]:
    """Return the cells that a group lacks; those that only the dense model has are not needed."""
    wanted = dict.fromkeys([*groups["target"], *groups["baseline"]])
    return [
        {"group": name, "task": key[0], "seed": key[1]}
        for key in wanted
        for name, group in groups.items()
        if key not in group
    ]


def _learned_nothing(cell: RunScore) -> bool:
    return cell.degenerate or cell.at_chance


def _cell(key: Key, groups: Groups) -> dict[str, Any]:
    target, baseline, dense = groups["target"][key], groups["baseline"][key], groups.get("dense", {}).get(key)
    return {
        "task": target.task,
        "seed": target.seed,
        "metric": target.metric,
        "target": target.value,
        "baseline": baseline.value,
        "dense": None if dense is None else dense.value,
        "gain": target.value - baseline.value,
        "degenerate": [name for name, group in groups.items() if key in group and _learned_nothing(group[key])],
    }


def _difference(keys: Sequence[Key], first: Mapping[Key, RunScore], second: Mapping[Key, RunScore]) -> Estimate:
    """Estimate the mean difference of two groups; tickets of several searches share their search seed, too."""

    def place(key: Key) -> Place:
        of_searches = {"search_seed": first[key].search_seed, "other_search_seed": second[key].search_seed}
        return {"task": key[0], "seed": key[1], **{axis: one for axis, one in of_searches.items() if axis in varied}}

    searches = {"search_seed": first, "other_search_seed": second}
    varied = [axis for axis, group in searches.items() if len({group[key].search_seed for key in keys}) > 1]
    return mean_effect([first[key].value - second[key].value for key in keys], list(map(place, keys)))


def _counts(gains: Sequence[float]) -> dict[str, int]:
    return {
        "n": len(gains),
        "wins": sum(value > TIE for value in gains),
        "ties": sum(abs(value) <= TIE for value in gains),
        "losses": sum(value < -TIE for value in gains),
    }


def _task(
    task: str, cells: Sequence[Mapping[str, Any]], keys: Sequence[Key], groups: Groups, *, silent: bool
) -> dict[str, Any]:
    own = [cell for cell in cells if cell["task"] == task]
    gains = [cell["gain"] for cell in own]
    dense = [cell["dense"] for cell in own if cell["dense"] is not None]
    found = _difference(keys, groups["target"], groups["baseline"])
    return {
        "task": task,
        "metric": own[0]["metric"],
        "target": statistics.fmean(cell["target"] for cell in own),
        "baseline": statistics.fmean(cell["baseline"] for cell in own),
        "dense": statistics.fmean(dense) if dense else None,
        "constant": _constant_of(task, keys, groups),
        "gain": found.mean,
        "gain_std": deviation(gains),
        **(_nothing() if silent else found.facts()),
        "seeds": [cell["seed"] for cell in own],
        "degenerate": list(dict.fromkeys(name for cell in own for name in cell["degenerate"])),
        **_counts(gains),
    }


def _nothing() -> dict[str, Any]:
    reason = "no run of either group is above chance, so there is nothing to compare"
    return {"interval": None, "p": None, "levels": None, "no_interval": reason}


def _constant_of(task: str, keys: Sequence[Key], groups: Groups) -> float | None:
    """Return the score of the best constant answer on a task, if any file of a group says it."""
    known = (group[key].constant_score for group in groups.values() for key in keys if key[0] == task and key in group)
    return next((score for score in known if score is not None), None)


def _mean_constant(keys: Sequence[Key], groups: Groups) -> float | None:
    """Return the mean score of the best constant answers over tasks, if it is known of all of them."""
    scores = [_constant_of(task, keys, groups) for task in dict.fromkeys(task for task, _ in keys)]
    known = [score for score in scores if score is not None]
    return statistics.fmean(known) if len(known) == len(scores) else None


def _mean_over_tasks(keys: Sequence[Key], group: Mapping[Key, RunScore]) -> float:
    tasks = dict.fromkeys(task for task, _ in keys)
    return statistics.fmean(statistics.fmean(group[key].value for key in keys if key[0] == task) for task in tasks)


def _mean(cells: Sequence[Mapping[str, Any]], keys: Sequence[Key], groups: Groups, *, nothing: bool) -> dict[str, Any]:
    found = _difference(keys, groups["target"], groups["baseline"])
    gains = {(cell["task"], cell["seed"]): cell["gain"] for cell in cells if (cell["task"], cell["seed"]) in keys}
    tasks = dict.fromkeys(task for task, _ in keys)
    means = [statistics.fmean(gain for key, gain in gains.items() if key[0] == task) for task in tasks]
    return {
        **{name: _mean_over_tasks(keys, groups[name]) for name in _PAIR},
        "constant": _mean_constant(keys, groups),
        "gain": found.mean,
        **(_nothing() if nothing else found.facts()),
        "tasks": len(means),
        "tasks_won": sum(value > TIE for value in means),
        **_counts(list(gains.values())),
    }


def _dense_share(keys: Sequence[Key], groups: Groups, *, nothing: bool) -> dict[str, Any] | None:
    """Return the means of target and baseline as shares of the dense mean, over cells that the dense model has, too.

    A share is 1 plus the mean difference from the dense model divided by its mean, and so is its interval.
    """
    dense = groups["dense"]
    keys = [key for key in keys if key in dense]
    if not keys:
        return None
    mean = _mean_over_tasks(keys, dense)
    constant = _mean_constant(keys, groups)
    result: dict[str, Any] = {"dense": mean, "n": len(keys), "no_interval": None}
    result["constant"] = None if constant is None or mean <= 0 else constant / mean
    for name in _PAIR:
        found = _difference(keys, groups[name], dense)
        result[name] = 1 + found.mean / mean if mean > 0 else None
        ends = found.interval if mean > 0 and not nothing else None
        result[f"{name}_interval"] = None if ends is None else (1 + ends[0] / mean, 1 + ends[1] / mean)
        result["no_interval"] = (_nothing()["no_interval"] if nothing else found.reason) or None
    return result


def _describe(group: Mapping[Key, RunScore]) -> dict[str, Any]:
    """Return tickets and files of a group; the id None is the dense model."""
    found = {cell.ticket_id: cell for cell in group.values()}
    return {
        "tickets": [{"ticket_id": one, "sparsity": cell.sparsity, "model": cell.model} for one, cell in found.items()],
        "runs": sorted({cell.path for cell in group.values()}),
    }
