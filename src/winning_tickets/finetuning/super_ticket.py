"""The super ticket of a task: tickets of every level fine-tuned beside the full model, and the best one named.

Super Tickets (Liang et al. 2021), sections 3.2, 5 and Figure 4. Each stage is a run of its own, so that a stopped
search goes on where it was and finished runs are never done again.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from winning_tickets.analysis.report.figures import PhasePoint, phase_figure
from winning_tickets.config import Level, Runtime, SearchConfig, SuperConfig, TransferConfig
from winning_tickets.finetuning.evaluation_plan import EvaluationPlan
from winning_tickets.finetuning.seeds import statistics_of
from winning_tickets.finetuning.setup import check as check_transfer
from winning_tickets.finetuning.setup import prepare
from winning_tickets.finetuning.transfer import transfer
from winning_tickets.pruning.checks import check as check_search
from winning_tickets.pruning.search import search_all
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import UsageError
from winning_tickets.runs.files import read_json
from winning_tickets.runs.identity import run_id
from winning_tickets.runs.provenance import versions
from winning_tickets.runs.statistics import TIE, paired
from winning_tickets.tickets.ticket import Ticket

FIGURE = "phases"
SUPER_TICKET = "super-ticket"
PARTS = {"selection": "best_selection", "rest": "best_rest", "whole": "best"}
"""Parts of the dev set, and what a transfer calls the best evaluation's metrics on them."""


@dataclass(frozen=True)
class Runs:
    """The fine-tunings of the full model, or of the tickets of one level.

    Attributes:
        folders: names of runs under the search's folder, one, or one for each seed's ticket.
        results: their results.
        settings: name of the settings in the grid.
    """

    folders: tuple[str, ...]
    results: tuple[dict[str, Any], ...]
    settings: str

    @property
    def metric(self) -> str:
        """The primary metric."""
        return str(self.results[0]["primary_metric"])

    def scores(self, part: str) -> dict[int, float]:
        """The primary metric of the best evaluation by seed, on `selection`, `rest` or the `whole` dev set."""
        return {
            seed: value
            for result in self.results
            for seed, value in zip(result["seeds"], result["metrics"][self.metric][PARTS[part]]["values"], strict=True)
        }

    def _statistics(self, part: str) -> dict[str, Any]:
        scores = self.scores(part)
        return statistics_of(list(scores.values())) | {"seeds": list(scores)}

    def facts(self) -> dict[str, Any]:
        """What is stored of them."""
        return {
            "settings": self.settings,
            "learning_rate": self.results[0]["learning_rate"],
            "batch_size": self.results[0]["batch_size"],
            "runs": list(self.folders),
            **{part: self._statistics(part) for part in PARTS},
        }


@distributed.together()
def super_ticket(
    config: SuperConfig, out: Path | str, runtime: Runtime | None = None, force: bool = False
) -> dict[str, Any]:
    """Find the super ticket of a task, with all that the phase transition needs.

    The full model is fine-tuned; importances are taken from it; tickets of every level and selection are fine-tuned
    from the pre-trained weights, with every seed and every setting of the grid. Settings, evaluations and the super
    ticket are chosen on a part of the dev set (`select_on`), and reported on the rest and on the whole.

    Args:
        config: model, task, levels, selections, seeds and grid.
        out: a directory that is absent or empty, or holds this very search.
        runtime: device, precision and checkpoints.
        force: replace another search of ours in `out`.

    Returns:
        The stored `result.json`: scores by selection, level and seed, paired tests against the full model and between
        selections, and which ticket is the super ticket; it lies in `out/super-ticket`.

    Raises:
        UsageError: impossible settings, missing files, no part of the dev set to choose on, a foreign `out`.
        ContentError: unusable data or model.
        TrainingError: a fine-tuning failed; what was finished is kept.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    runtime = runtime or Runtime()
    config = config.resolved()
    check(config)
    prepared = prepare(config.fine_tuning, runtime)
    slug = f"super-{prepared.task.name}"
    identity = run_id(config, slug, base=prepared.base, data=prepared.data.fingerprint)
    run = RunDirectory.claim(Path(out), "super", identity, config.model_dump(mode="json"), force=force)
    if run.status == "done":
        return run.result()
    full = _best_settings(config, run.path, "full", (config.fine_tuning.target,), runtime)
    tickets = _tickets(config, run.path, full.settings, runtime)
    found = {
        selection: {
            level: _best_settings(config, run.path, f"{selection}/{_folder(config, level)}", by_seed, runtime)
            for level, by_seed in levels.items()
        }
        for selection, levels in tickets.items()
    }
    result = _result(config, identity, prepared.plan, full, found, tickets)
    distributed.on_main(lambda: _keep_super_ticket(result, tickets, run.path))
    distributed.on_main(lambda: _draw(result, run.path / FIGURE))
    run.finish(result)
    return run.result()


def check(config: SuperConfig) -> None:
    """Refuse what cannot work before anything is loaded; all problems at once.

    Args:
        config: resolved.

    Raises:
        UsageError: one line for each problem.
    """
    problems = []
    if not config.selections or "winning" not in config.selections:
        problems.append("--selections must name winning, which the super ticket is one of; random and losing may join.")
    if not 0 < config.fine_tuning.select_on < 1:
        problems.append(
            f"--select-on {config.fine_tuning.select_on:g}: the super ticket needs a part of the dev set to be chosen "
            "on, and the rest to be reported on; give a share such as 0.1."
        )
    for field in ("learning_rates", "batch_sizes"):
        values = getattr(config, field)
        if len(set(values)) < len(values) or any(value <= 0 for value in values):
            problems.append(f"--{field.replace('_', '-')} must name different numbers above 0.")
    if config.importance_from is not None and not Path(config.importance_from).expanduser().is_dir():
        problems.append(
            f"--importance-from: there is no folder {config.importance_from}; give a search --method importance, or a "
            "transfer with its model."
        )
    try:
        check_transfer(config.fine_tuning)
    except UsageError as error:
        problems.append(str(error))
    try:
        check_search(_search(config, "winning", Path("fine-tuned"), 0))
    except UsageError as error:
        problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))


def trainings(config: SuperConfig) -> int:
    """How many fine-tunings a resolved configuration asks for."""
    points = 1 + len(config.level) * len(config.selections)
    return points * len(list(config.grid())) * len(config.fine_tuning.seeds) + (config.importance_from is None)


def _best_settings(config: SuperConfig, folder: Path, name: str, targets: tuple[str, ...], runtime: Runtime) -> Runs:
    """Fine-tune with all settings of the grid, and take those with the best mean on the selection.

    Args:
        config: resolved.
        folder: of the whole search.
        name: where the runs lie in it.
        targets: a model or ticket for all seeds, or a ticket for each.
        runtime: device, precision and checkpoints.
    """
    best, highest = None, float("-inf")
    for settings, fine_tuning in config.grid():
        seeds = fine_tuning.seeds
        groups = [seeds] if len(targets) == 1 else [(seed,) for seed in seeds]
        names = [f"{name}/{settings}"] if len(targets) == 1 else [f"{name}/{settings}/ticket-{seed}" for seed in seeds]
        results = tuple(
            transfer(
                fine_tuning.model_copy(update={"target": target, "seeds": group, **_held_by(target, fine_tuning)}),
                folder / where,
                runtime,
            )
            for target, group, where in zip(targets, groups, names, strict=True)
        )
        runs = Runs(tuple(names), results, settings)
        mean = statistics.fmean(runs.scores("selection").values())
        if mean > highest + TIE:
            best, highest = runs, mean
    assert best is not None
    return best


def _held_by(target: str, fine_tuning: TransferConfig) -> dict[str, Any]:
    """A ticket knows its model, of which it may say less than the user did."""
    if target == fine_tuning.target:
        return {}
    return {"base": fine_tuning.target, "layers": None, "revision": None}


def _tickets(
    config: SuperConfig, folder: Path, settings: str, runtime: Runtime
) -> dict[str, dict[float, tuple[str, ...]]]:
    """The tickets by selection and level: one folder, or for random tickets one for each seed."""
    source = folder / "fine-tuned"
    if config.importance_from is not None:
        source = Path(config.importance_from)
    else:
        fine_tuning = dict(config.grid())[settings]
        single = {"seeds": fine_tuning.seeds[:1], "save_model": True}
        transfer(fine_tuning.model_copy(update=single), source, runtime)
    found: dict[str, dict[float, tuple[str, ...]]] = {}
    winning = folder / "tickets" / "winning"
    for selection in config.selections:
        where = source if selection == "winning" else winning
        folders = []
        for seed in config.fine_tuning.seeds if selection == "random" else config.fine_tuning.seeds[:1]:
            out = folder / "tickets" / (f"random-{seed}" if selection == "random" else selection)
            search_all(_search(config, selection, where, seed), out, runtime)
            folders.append(out)
        found[selection] = {level: tuple(str(_rung(out, config, level)) for out in folders) for level in config.level}
    return found


def _rung(out: Path, config: SuperConfig, level: float) -> Path:
    return out if len(config.level) == 1 else out / _folder(config, level)


def _folder(config: SuperConfig, level: float) -> str:
    return Level(config.units, level).folder


def _search(config: SuperConfig, selection: str, source: Path, seed: int) -> SearchConfig:
    """The search of the tickets of one selection; random ones have a seed, and need no importance."""
    fine_tuning = config.fine_tuning
    fields: dict[str, Any] = {"model": fine_tuning.target, "method": "importance", "selection": selection}
    fields |= {"level": config.level, "units": config.units, "min_heads_per_layer": config.min_heads_per_layer}
    fields |= {"layers": fine_tuning.layers, "revision": fine_tuning.revision, "profile": config.profile}
    if selection == "random":
        return SearchConfig.of(**fields, seed=seed)
    fields |= {"importance_from": str(source), "importance": config.importance}
    if selection == "winning":
        fields |= {"train_size": config.importance_train_size, "data_dir": fine_tuning.data_dir}
    return SearchConfig.of(**fields)


def _result(
    config: SuperConfig,
    identity: str,
    plan: EvaluationPlan,
    full: Runs,
    found: Mapping[str, Mapping[float, Runs]],
    tickets: Mapping[str, Mapping[float, tuple[str, ...]]],
) -> dict[str, Any]:
    selections: dict[str, dict[str, Any]] = {}
    for selection, levels in found.items():
        selections[selection] = {}
        for level, runs in levels.items():
            others = {"full": full} | {name: found[name][level] for name in ("random", "losing") if name in found}
            tests = {name: _test(runs, other) for name, other in others.items() if name != selection}
            if selection != "winning":
                tests = {"full": tests["full"]}
            facts = _ticket_facts(tickets[selection][level], config)
            selections[selection][f"{level:g}"] = runs.facts() | facts | {"against": tests}
    level = _super_level(found["winning"])
    return {
        "verb": "super",
        "run_id": identity,
        "model": config.fine_tuning.target,
        "task": plan.task.name,
        "metric": plan.primary,
        "seeds": list(config.fine_tuning.seeds),
        "select_on": config.fine_tuning.select_on,
        "levels": list(config.level),
        "full": full.facts() | {"weight_remaining": 1.0},
        "selections": selections,
        "super_ticket": {"level": level, "folder": SUPER_TICKET} | selections["winning"][f"{level:g}"],
        "trainings": trainings(config),
        "versions": versions(),
    }


def _super_level(winning: Mapping[float, Runs]) -> float:
    """The level whose winning ticket has the best mean on the selection; of equals the smaller model (section 3.2)."""
    best, highest = None, float("-inf")
    for level, runs in sorted(winning.items()):
        mean = statistics.fmean(runs.scores("selection").values())
        if mean >= highest - TIE:
            best, highest = level, max(mean, highest)
    assert best is not None
    return best


def _ticket_facts(folders: tuple[str, ...], config: SuperConfig) -> dict[str, Any]:
    """What the tickets of one level keep, on average: random ones differ by seed where units overlap."""
    stored = [_stored(Path(folder), config) for folder in folders]
    return {
        "ticket_ids": [result["ticket_id"] for result in stored],
        "units": stored[0]["units"],
        "sparsity": statistics.fmean(result["sparsity"] for result in stored),
        "weight_remaining": 1.0 - statistics.fmean(result["pruned_share_of_all_parameters"] for result in stored),
    }


def _stored(folder: Path, config: SuperConfig) -> dict[str, Any]:
    """What the search said of the ticket in a folder: its own result, or a rung of that of the folder above."""
    if len(config.level) == 1:
        return dict(read_json(folder / "result.json", "result"))
    rungs = read_json(folder.parent / "result.json", "result")["rungs"]
    return next(dict(rung) for rung in rungs if rung["folder"] == folder.name)


def _test(runs: Runs, other: Runs) -> dict[str, Any]:
    """Paired by seed, on the part of the dev set that nothing was chosen on, and on the whole."""
    return {part: asdict(paired(runs.scores(part), other.scores(part))) for part in ("rest", "whole")}


def _keep_super_ticket(
    result: dict[str, Any], tickets: Mapping[str, Mapping[float, tuple[str, ...]]], folder: Path
) -> None:
    (source,) = tickets["winning"][result["super_ticket"]["level"]]
    if not (folder / SUPER_TICKET).exists():  # a search that was stopped between this and its result left one
        Ticket.from_pretrained(source).save_pretrained(folder / SUPER_TICKET)


def _draw(result: dict[str, Any], path: Path) -> None:
    def points(levels: Mapping[str, Any]) -> Iterator[PhasePoint]:
        for facts in levels.values():
            yield PhasePoint(facts["weight_remaining"], tuple(facts["rest"]["values"]))

    phase_figure(
        {selection: list(points(levels)) for selection, levels in result["selections"].items()},
        next(points({"full": result["full"]})),
        result["metric"],
        path,
        title=f"{result['task']}: {result['model']}",
    )
