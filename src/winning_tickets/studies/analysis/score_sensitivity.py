"""The dependence of fine-tuning on its seed and its settings (Super Tickets, Tables 5, 6 and 8)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from winning_tickets.report.effects import paired_effect
from winning_tickets.report.result import resulting
from winning_tickets.runs.errors import ContentError
from winning_tickets.runs.statistics import TIE, deviation
from winning_tickets.studies.analysis import results
from winning_tickets.studies.analysis.report.save import REPORTS
from winning_tickets.studies.analysis.results import Runs, RunScore, Score

VARIED = ("learning_rate", "batch_size", "steps")
"""The fields that make up a setting; runs that differ in other fields cannot be compared."""
_SAME = ("train_examples", "max_length", "data_hash")

Setting = tuple[Any, ...]
Group = dict[Setting, dict[int, RunScore]]


@resulting(views=REPORTS)
def sensitivity(runs: Runs, *, score: Score = "final", metric: str | None = None) -> dict[str, Any]:
    """Return the scores of one task over seeds, learning rates and batch sizes, for tickets and dense models.

    A transfer is given as its folder or as the result that `transfer` returned.

    All deviations have ddof=1 and are None for a single value.
    """
    cells = results.read_runs(runs, score, metric)
    _check(cells)
    groups = _groups(cells)
    # Tickets are compared with the dense model of the pre-trained weights, or else with the only dense model.
    dense = [name for name in groups if name == "dense" or name.startswith("dense from ")]
    baseline = "dense" if "dense" in dense else dense[0] if len(dense) == 1 else None
    return {
        "kind": "sensitivity",
        "task": cells[0].task,
        "metric": cells[0].metric,
        "model": cells[0].model,
        "score": score,
        "baseline": baseline,
        "settings": [
            {"group": name, **_named(setting), **_summary(by_seed)}
            for name, group in groups.items()
            for setting, by_seed in group.items()
        ],
        "groups": [_group(name, group) for name, group in groups.items()],
        "differences": [
            {"group": name, **_named(setting), **_difference(by_seed, groups[baseline][setting])}
            for name, group in groups.items()
            if baseline is not None and name != baseline
            for setting, by_seed in group.items()
            if by_seed.keys() & groups[baseline].get(setting, {}).keys()
        ],
    }


def _check(cells: Sequence[RunScore]) -> None:
    first = cells[0]
    results.check_comparable(cells)
    for cell in cells:
        lacking = [name for name in VARIED if name not in cell.settings]
        if lacking:
            raise ContentError(f"{cell.path} lacks its {lacking[0]}; wait until all seeds of the run are done.")
        if cell.task != first.task:
            raise ContentError(
                f"{first.path} is of the task {first.task} and {cell.path} of {cell.task}; analyse each task by itself."
            )
        if cell.base_hash != first.base_hash:
            raise ContentError(
                f"{first.path} starts from the weights of {first.model}, {cell.path} from other ones, those of "
                f"{cell.model}; analyse each model by itself."
            )
        for name in _SAME:
            if cell.settings.get(name) != first.settings.get(name):
                values = " and ".join(f"{one.settings.get(name)} in {one.path}" for one in (first, cell))
                raise ContentError(f"The runs differ in {name}: {values}; leave one of them out.")


def _groups(cells: Sequence[RunScore]) -> dict[str, Group]:
    """Return cells by group, setting and seed; groups and seeds are in the order of the runs, settings are sorted."""
    labels = _labels(cells)
    found: dict[str, dict[Setting, list[RunScore]]] = {}
    for cell, label in zip(cells, labels, strict=True):
        setting = tuple(cell.settings[name] for name in VARIED)
        found.setdefault(label, {}).setdefault(setting, []).append(cell)
    return {
        name: {
            setting: results.index_once(own, lambda cell: cell.seed, f"The runs of {name} with one setting")
            for setting, own in sorted(group.items())
        }
        for name, group in found.items()
    }


def _labels(cells: Sequence[RunScore]) -> list[str]:
    """Return the group of each run: `dense`, or the search of the tickets (with any seed) and their sparsity."""
    tickets = results.group_labels([cell for cell in cells if cell.ticket_id is not None])
    found = []
    for cell, sparsity in zip(cells, results.grid_sparsities(cells), strict=True):
        if cell.ticket_id is not None:
            found.append(f"{tickets[results.group_key(cell)]}, {100 * sparsity:g} %")
        else:
            start = "" if cell.start_from == "pretrained" else f" from {Path(cell.start_from).name}"
            found.append(f"dense{start}")
    return found


def _named(setting: Setting) -> dict[str, Any]:
    return dict(zip(VARIED, setting, strict=True))


def _summary(by_seed: Mapping[int, RunScore]) -> dict[str, Any]:
    values = [cell.value for cell in by_seed.values()]
    return {
        "mean": statistics.fmean(values),
        "std": deviation(values),
        "best": max(values),
        "min": min(values),
        "n": len(values),
        "seeds": list(by_seed),
        "values": values,
        "degenerate": any(cell.degenerate for cell in by_seed.values()),
    }


def _group(name: str, group: Group) -> dict[str, Any]:
    means = {setting: statistics.fmean(cell.value for cell in by_seed.values()) for setting, by_seed in group.items()}
    common = [seed for seed in next(iter(group.values())) if all(seed in by_seed for by_seed in group.values())]
    by_seed = [statistics.fmean(group[setting][seed].value for setting in group) for seed in common]
    best = max(means, key=lambda setting: means[setting])
    return {
        "group": name,
        "settings": len(group),
        "seeds": common,
        "mean": statistics.fmean(means.values()),
        "over_seeds": deviation(by_seed),
        "over_settings": deviation(list(means.values())),
        "range": max(means.values()) - min(means.values()),
        "best_setting": _named(best),
        "best_mean": means[best],
        "tickets": list(dict.fromkeys(cell.ticket_id for one in group.values() for cell in one.values())),
    }


def _difference(own: Mapping[int, RunScore], dense: Mapping[int, RunScore]) -> dict[str, Any]:
    """Return the mean difference of runs paired by seed, with its 95 % interval."""
    first, second = ({seed: cell.value for seed, cell in one.items()} for one in (own, dense))
    found = paired_effect(first, second)
    differences = [value - second[seed] for seed, value in first.items() if seed in second]
    return {
        "difference": found.mean,
        **found.facts(),
        "wins": sum(value > TIE for value in differences),
        "losses": sum(value < -TIE for value in differences),
        "n": len(differences),
    }
