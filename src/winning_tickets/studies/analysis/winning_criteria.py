"""Tickets that match the full model, and their highest sparsity (BERT tickets, Tables 4 to 6 and Figure 11)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from winning_tickets.report.effects import Estimate, paired_effect
from winning_tickets.report.result import resulting
from winning_tickets.runs.errors import ContentError, UsageError, unknown
from winning_tickets.runs.statistics import deviation
from winning_tickets.studies.analysis import results
from winning_tickets.studies.analysis import statistics as criteria
from winning_tickets.studies.analysis.report.views import REPORTS
from winning_tickets.studies.analysis.results import Runs, RunScore, Score, group_key, index_once
from winning_tickets.studies.analysis.statistics import Criterion, CriterionOutcome, Statistic, StdOf

Seeds = Sequence[int] | None


@dataclass(frozen=True)
class Rule:
    """A criterion of winning and its settings."""

    criterion: Criterion
    std_of: StdOf  # setting of `within-std`
    margin: float  # setting of `non-inferior`
    statistic: Statistic  # statistic of the scores of several seeds

    def check(self) -> None:
        """Refuse unknown names, and a statistic that the paired test does not have."""
        for kind, value, known in (
            ("criterion", self.criterion, criteria.CRITERIA),
            ("standard deviation", self.std_of, criteria.STD_OF),
            ("statistic", self.statistic, criteria.STATISTICS),
        ):
            if value not in known:
                raise unknown(kind, value, known)
        if self.criterion == "non-inferior" and self.statistic != "mean":
            raise UsageError(
                f"--statistic {self.statistic} cannot be used with --criterion non-inferior, which is a test of means."
            )

    def judge(self, subnetwork: Sequence[RunScore], full: Sequence[RunScore]) -> CriterionOutcome:
        """Apply the criterion to the runs of tickets of one kind and the runs of the full model."""
        own, other = [cell.value for cell in subnetwork], [cell.value for cell in full]
        if self.criterion == "exceeds":
            return criteria.exceeds(own, other, self.statistic)
        if self.criterion == "within-std":
            return criteria.within_std(own, other, self.std_of, self.statistic)
        first, second = _pairs(subnetwork, full)
        return criteria.non_inferior(first, second, self.margin, axes=_AXES)


_AXES = ("search_seed", "seed")
_Scores = dict[tuple[int | None, int], float]


def _pairs(subnetwork: Sequence[RunScore], full: Sequence[RunScore]) -> tuple[_Scores, _Scores]:
    """Return both groups' scores by search seed and seed; a ticket is paired with the dense run of its seed."""
    dense = {cell.seed: cell.value for cell in full}
    first = {(cell.search_seed, cell.seed): cell.value for cell in subnetwork}
    return first, {key: dense[key[1]] for key in first if key[1] in dense}


def _difference(subnetwork: Sequence[RunScore], full: Sequence[RunScore]) -> Estimate | None:
    """Estimate the mean difference from the full model; None if they have no seed in common."""
    first, second = _pairs(subnetwork, full)
    return paired_effect(first, second, _AXES) if second else None


@dataclass
class LevelPoint:
    """The runs of one group on one task at one sparsity."""

    task: str
    group: str
    sparsity: float
    cells: list[RunScore] = field(default_factory=list)


@resulting(views=REPORTS)
def winning(
    runs: Runs,
    dense: Runs,
    *,
    criterion: Criterion = "exceeds",
    std_of: StdOf = "full",
    margin: float = 0.01,
    statistic: Statistic = "mean",
    score: Score = "final",
    metric: str | None = None,
    select_seeds: Seeds = None,
    report_seeds: Seeds = None,
) -> dict[str, Any]:
    """Judge tickets by the full model's scores; find the highest winning sparsity of each task and kind of ticket.

    A transfer is given as its folder or as the result that `transfer` returned.
    """
    rule = Rule(criterion, std_of, margin, statistic)
    rule.check()
    _check_seeds(select_seeds, report_seeds)
    # Group the runs into points: a task, a kind of ticket (one search with any seeds) and a sparsity.
    tickets, full = _read("ticket", runs, score, metric), _read("dense", dense, score, metric)
    results.check_comparable([*tickets, *full])
    tasks = {task: _dense_of(task, full) for task in dict.fromkeys(cell.task for cell in tickets)}
    labels, first = results.group_labels(tickets), {group_key(cell): cell for cell in reversed(tickets)}
    points = _points(tickets, labels)
    # Judge each point by the full model's runs of its task.
    judged = [(point, rule.judge(*_chosen(point, tasks[point.task], select_seeds))) for point in points]
    pairs = dict.fromkeys((point.task, point.group) for point in points)
    return {
        "kind": "winning",
        **asdict(rule),
        "confidence": 0.95 if criterion == "non-inferior" else None,
        "score": score,
        "metric": metric,
        "select_seeds": None if select_seeds is None else list(select_seeds),
        "report_seeds": None if report_seeds is None else list(report_seeds),
        "tasks": [_task(task, cells, rule) for task, cells in tasks.items()],
        "groups": [
            {
                "group": label,
                "method": first[key].method,
                "objective": results.objective_of(first[key]),
                "search": first[key].search,
                "start_from": first[key].start_from,
            }
            for key, label in labels.items()
        ],
        "cells": [_record(point, outcome, tasks[point.task]) for point, outcome in judged],
        "highest": [_highest(pair, judged, tasks[pair[0]], rule, report=report_seeds) for pair in pairs],
        "different_settings": [
            {"task": task, "setting": setting, "values": values}
            for task, cells in tasks.items()
            for setting, values in results.find_differences(
                _fine_tuned_on(task, cells, points), (*results.SETTINGS, "base_hash")
            )
        ],
    }


def _check_seeds(select: Seeds, report: Seeds) -> None:
    if (select is None) != (report is None):
        raise UsageError("--select-seeds and --report-seeds go together; give both or none.")
    common = sorted(set(select or ()) & set(report or ()))
    if common:
        seeds = ", ".join(map(str, common))
        raise UsageError(f"Seeds {seeds} are among both --select-seeds and --report-seeds; give each seed to one.")


def _read(kind: str, runs: Runs, score: Score, metric: str | None) -> list[RunScore]:
    cells = results.read_runs(runs, score, metric, kind)
    for cell in cells:
        if (cell.ticket_id is None) != (kind == "dense"):
            found = "a ticket; take it out of" if kind == "dense" else "the dense model; give it after"
            raise ContentError(f"{cell.path} is a run of {found} --dense.")
    return cells


def _dense_of(task: str, full: Sequence[RunScore]) -> list[RunScore]:
    """Return the full model's runs of a task, each seed once."""
    found = index_once((cell for cell in full if cell.task == task), lambda cell: cell.seed, "The dense runs")
    if not found:
        raise UsageError(f"There is no dense run of {task}; fine-tune the base model on it and add it to --dense.")
    return list(found.values())


def _points(tickets: Sequence[RunScore], labels: Mapping[str, str]) -> list[LevelPoint]:
    """Return the runs by task, group and increasing sparsity."""
    found: dict[tuple[str, str, float], LevelPoint] = {}
    for cell, sparsity in zip(tickets, results.grid_sparsities(tickets), strict=True):
        place = (cell.task, labels[group_key(cell)], sparsity)
        found.setdefault(place, LevelPoint(*place)).cells.append(cell)
    for point in found.values():
        owner = f"The runs of {point.group} at {100 * point.sparsity:g} %"
        index_once(point.cells, lambda cell: (cell.search_seed, cell.seed), owner)
    rows = list(dict.fromkeys((point.task, point.group) for point in found.values()))
    return sorted(found.values(), key=lambda point: (rows.index((point.task, point.group)), point.sparsity))


def _chosen(point: LevelPoint, full: Sequence[RunScore], seeds: Seeds) -> tuple[list[RunScore], list[RunScore]]:
    """Return the runs of the ticket and of the full model with the given seeds, or all runs if `seeds` is None."""
    own = point.cells
    if seeds is None:
        return own, list(full)
    name = f"{point.group} at {100 * point.sparsity:g} %"
    for who, cells in ((name, own), ("the dense model", full)):
        lacking = [seed for seed in seeds if all(cell.seed != seed for cell in cells)]
        if lacking:
            raise ContentError(
                f"{who} lacks seed {', '.join(map(str, lacking))} on {point.task}; run it, or choose other seeds for "
                "--select-seeds and --report-seeds."
            )
    return [cell for cell in own if cell.seed in seeds], [cell for cell in full if cell.seed in seeds]


def _summary(cells: Sequence[RunScore]) -> dict[str, Any]:
    values = [cell.value for cell in cells]
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "std": deviation(values),
        "median": statistics.median(values),
        "best": max(values),
        "values": values,
        "seeds": [cell.seed for cell in cells],
    }


def _task(task: str, full: Sequence[RunScore], rule: Rule) -> dict[str, Any]:
    majority = next((cell.majority for cell in full if cell.majority is not None), None)
    constant = any(cell.degenerate for cell in full)
    reasons = criteria.degenerate_reasons(
        [cell.value for cell in full], constant=constant, majority=majority, statistic=rule.statistic
    )
    return {
        "task": task,
        "metric": full[0].metric,
        "dense": _summary(full),
        "majority": majority,
        "constant": full[0].constant_score,
        "degenerate": list(reasons),
    }


def _record(point: LevelPoint, outcome: CriterionOutcome, full: Sequence[RunScore]) -> dict[str, Any]:
    own = point.cells
    known = {cell.seed for cell in full}
    unpaired = sorted({cell.seed for cell in own} - known)
    return {
        "task": point.task,
        "group": point.group,
        "sparsity": point.sparsity,
        "exact_sparsity": sorted({cell.sparsity for cell in own}),
        "tickets": sorted({str(cell.ticket_id) for cell in own}),
        **_summary(own),
        "constant": any(cell.degenerate for cell in own),
        "share_above_chance": _share_above_chance(own, full),
        **_compared(_difference(own, full)),
        "unpaired_seeds": unpaired,
        **{key: value for key, value in asdict(outcome).items() if key != "criterion"},
        "n": len(own),
        "n_judged": outcome.n,
    }


def _share_above_chance(own: Sequence[RunScore], full: Sequence[RunScore]) -> float | None:
    """Return which part of the full model's distance from chance the mean score of a ticket has.

    None if the full model is not above chance by more than the standard deviation of its seeds.
    """
    chance, scores = full[0].constant_score, [cell.value for cell in full]
    dense, noise = statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else 0.0
    if chance is None or dense - chance <= noise:
        return None
    return (statistics.fmean(cell.value for cell in own) - chance) / (dense - chance)


def _compared(found: Estimate | None) -> dict[str, Any]:
    """Return the mean difference from the full model with its interval, whatever the criterion."""
    if found is None:
        nothing = "the full model has no run with a seed of the ticket"
        return {"difference": None, "interval": None, "p": None, "levels": None, "no_interval": nothing}
    return {"difference": found.mean, **found.facts()}


def _highest(
    pair: tuple[str, str],
    judged: Sequence[tuple[LevelPoint, CriterionOutcome]],
    full: Sequence[RunScore],
    rule: Rule,
    *,
    report: Seeds,
) -> dict[str, Any]:
    """Return the highest winning sparsity of a task and group, and its scores on the seeds to report."""
    own = {point.sparsity: (point, outcome) for point, outcome in judged if (point.task, point.group) == pair}
    found = criteria.highest_winning({sparsity: outcome.wins for sparsity, (_, outcome) in own.items()})
    result: dict[str, Any] = {
        "task": pair[0],
        "group": pair[1],
        "highest": found.largest,
        "unbroken": found.unbroken,
        "undecided": list(found.undecided),
        "at_highest": None,
        "reported": None,
    }
    if found.largest is not None:
        point, _ = own[found.largest]
        result["at_highest"] = _summary(point.cells)
        if report is not None:
            subnetwork, other = _chosen(point, full, report)
            outcome = rule.judge(subnetwork, other)
            result["reported"] = {"wins": outcome.wins, **_summary(subnetwork), "dense": _summary(other)}
    return result


def _fine_tuned_on(task: str, full: Sequence[RunScore], points: Sequence[LevelPoint]) -> dict[str, list[RunScore]]:
    """Return all runs on a task by group; the group of the full model is called `dense`."""
    groups = {"dense": list(full)}
    for point in points:
        if point.task == task:
            groups.setdefault(point.group, []).extend(point.cells)
    return groups
