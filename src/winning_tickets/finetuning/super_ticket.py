"""The super ticket of a task: tickets of every level and the full model are fine-tuned, and the best ticket is named.

Super Tickets (Liang et al. 2021), sections 3.2, 5 and Figure 4. Each stage is a run of its own, so that a stopped
search resumes and finished runs are skipped.
"""

from __future__ import annotations

import copy
import shutil
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from winning_tickets.config import PRETRAINED, Level, Runtime, SuperConfig, TransferConfig
from winning_tickets.config.levels import written_levels
from winning_tickets.config.shrink import ShrinkConfig
from winning_tickets.config.structured import ImportanceSearch
from winning_tickets.finetuning.evaluation import EvaluationPlan
from winning_tickets.finetuning.recovery import recover
from winning_tickets.finetuning.seeds import statistics_of
from winning_tickets.finetuning.setup import PreparedTransfer, prepare_transfer
from winning_tickets.finetuning.setup import check_transfer as check_transfer
from winning_tickets.finetuning.shrink_source import example_batches
from winning_tickets.finetuning.transfer import transfer
from winning_tickets.models.device import choose_device
from winning_tickets.models.loading import load_plm, resolve_model
from winning_tickets.models.removal import remove_closed_
from winning_tickets.models.structure import structure_of
from winning_tickets.models.weights import StateInfo, save_state
from winning_tickets.pruning.importance import unit_counts
from winning_tickets.pruning.search import check_search, search_all
from winning_tickets.report.effects import paired_effect
from winning_tickets.report.figures import PhasePoint, phase_figure
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory
from winning_tickets.runs.errors import problems_of, refuse
from winning_tickets.runs.identity import run_id
from winning_tickets.runs.provenance import versions
from winning_tickets.runs.results import FineTuning, FoundTicket, SearchResult, find_result, read_result
from winning_tickets.runs.statistics import best_of
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.distillation import Distillation

FIGURE = "phases"
SUPER_TICKET = "super-ticket"
PARTS = {"selection": "best_selection", "rest": "best", "whole": "best_whole"}
"""Parts of the dev set, and the key in a transfer's metrics of the best evaluation on each."""


@dataclass(frozen=True)
class Runs:
    """The fine-tunings of the full model, or of the tickets of one level: one run, or one run per seed's ticket."""

    # `folders` are relative to the folder of the search, and `settings` is the name of the settings in the grid.

    folders: tuple[str, ...]
    results: tuple[dict[str, Any], ...]
    settings: str
    stopped_early: int = 0  # fine-tunings that stopped early, with all settings that were tried

    def scores(self, part: str) -> dict[int, float]:
        """Return, by seed, the primary metric of the best evaluation, on `selection`, `rest` or the `whole` dev set."""
        found: dict[int, float] = {}
        for result in self.results:
            best = result["metrics"][result["primary_metric"]][PARTS[part]]
            found |= zip(result["seeds"], best["values"], strict=True)
        return found

    @property
    def mean(self) -> float:
        """The mean score on the selection, by which settings and levels are chosen."""
        return statistics.fmean(self.scores("selection").values())

    @property
    def degenerate(self) -> bool:
        """True if any fine-tuning ended no better than one constant answer for all examples."""
        return any(result["degenerate"] for result in self.results)

    def _statistics(self, metric: str, key: str) -> dict[str, Any]:
        values = [value for result in self.results for value in result["metrics"][metric][key]["values"]]
        return statistics_of(values)

    def facts(self) -> dict[str, Any]:
        """Return the settings, folders and scores of the runs, as they are stored."""
        scores = {part: self.scores(part) for part in PARTS}
        metrics = {
            name: {part: self._statistics(name, key) for part, key in PARTS.items()}
            for name in self.results[0]["metrics"]
        }
        return {
            "settings": self.settings,
            "learning_rate": self.results[0]["learning_rate"],
            "batch_size": self.results[0]["batch_size"],
            "runs": list(self.folders),
            "degenerate": self.degenerate,
            "metrics": metrics,
            **{part: statistics_of(list(by.values())) | {"seeds": list(by)} for part, by in scores.items()},
        }


@distributed.together()
def super_ticket(
    config: SuperConfig, out: Path | str, runtime: Runtime | None = None, *, force: bool = False
) -> dict[str, Any]:
    """Find the super ticket of a task (Super Tickets, sections 3.2 and 5); see `api.verbs.super_ticket`.

    The full model is fine-tuned and gives the importances. Tickets of every level and selection are then fine-tuned
    from the pre-trained weights, with every seed and every setting of the grid. Settings, evaluations and the super
    ticket are chosen on a part of the dev set (`select_on`), and reported on the rest and on the whole.
    """
    runtime = runtime or Runtime()
    config = config.resolved()
    check_super_ticket(config)
    prepared = prepare_transfer(config.fine_tuning, runtime)
    slug = f"super-{prepared.task.name}"
    identity = run_id(config, slug, base=prepared.base, data=prepared.data.fingerprint)
    with RunDirectory.claim(Path(out), "super", identity, config.model_dump(mode="json"), force=force) as run:
        if run.status == "done":
            return run.result()
        # Levels that this model does not have are refused before anything is trained.
        structure = structure_of(prepared.load(config.fine_tuning.seeds[0]))
        unit_counts(_search(config, "random", run.path, 0).resolved(), structure)
        # The full model comes first: the importances are computed with a model fine-tuned by its best settings.
        full = _best_settings(config, prepared, run.path, "full", targets=(config.fine_tuning.target,), runtime=runtime)
        tickets = _tickets(config, run.path, full.settings, runtime)
        found = {
            selection: {
                level: _best_settings(
                    config,
                    prepared,
                    run.path,
                    f"{selection}/{_folder(config, level)}",
                    targets=by_seed,
                    runtime=runtime,
                )
                for level, by_seed in levels.items()
            }
            for selection, levels in tickets.items()
        }
        # The result is stored last: it marks the search as done.
        result = _result(config, identity, prepared.plan, full, found=found, tickets=tickets)
        level = result["super_ticket"]["level"]
        result["warnings"] = [
            *prepared.data.remarks,
            *_warnings(_source(config, run.path), full, found["winning"], level),
        ]
        chosen_on = sum(len(chosen.split) for chosen, _ in prepared.selection.values())
        if chosen_on < _FEW:
            result["warnings"].append(
                f"Settings, evaluations and the super ticket were chosen on {chosen_on} examples of the dev set, where "
                f"one example is {1 / chosen_on:.1%}; give a larger dev set or a larger --select-on."
            )
        distributed.on_main(lambda: _keep(result, tickets, run.path))
        run.finish(result)
        return run.result()


def check_super_ticket(config: SuperConfig) -> None:
    """Refuse settings that contradict each other, with all problems at once, before anything is loaded."""
    config = config.resolved()
    problems = []
    if "winning" not in config.selections:
        problems.append("--selections must name winning, which the super ticket is one of; random and losing may join.")
    if not config.fine_tuning.select_on:
        problems.append(
            "--select-on 0: the super ticket needs a part of the dev set to be chosen on, and the rest to be reported "
            "on; give a fraction such as 0.1."
        )
    for field in ("learning_rates", "batch_sizes"):
        values = getattr(config, field) or ()
        if len(set(values)) < len(values) or any(value <= 0 for value in values):
            problems.append(f"{config.option_of(field)} must name different numbers above 0.")
    if config.importance_from is not None and not Path(config.importance_from).expanduser().is_dir():
        problems.append(
            f"--importance-from: there is no folder {config.importance_from}; give a search --method importance, or a "
            "transfer with its model."
        )
    if config.recover and config.fine_tuning.start_from != PRETRAINED:
        problems.append("--recover makes the weights that fine-tuning starts from; leave --start-from out.")
    if config.recover and distributed.world_size() > 1:
        problems.append("--recover runs in one process; start the search without a launcher, or leave --recover out.")
    if Path(config.fine_tuning.target).expanduser().is_dir():
        problems += problems_of(lambda: resolve_model(config.fine_tuning.target))
    problems += problems_of(lambda: check_transfer(config.fine_tuning))
    problems += problems_of(lambda: check_search(_search(config, "winning", Path("fine-tuned"), 0)))
    refuse(problems)


def count_trainings(config: SuperConfig) -> int:
    """Return the number of fine-tunings of a resolved configuration."""
    points = 1 + len(config.level) * len(config.selections)
    return points * len(list(config.grid())) * len(config.fine_tuning.seeds) + (config.importance_from is None)


def _best_settings(
    config: SuperConfig,
    prepared: PreparedTransfer,
    folder: Path,
    name: str,
    *,
    targets: tuple[str, ...],
    runtime: Runtime,
) -> Runs:
    """Fine-tune with all settings of the grid in `folder/name`; return the runs with the best mean on the selection."""
    # `targets` is one model or ticket for all seeds, or a ticket for each seed.
    tried: dict[str, Runs] = {}
    recovers = config.recover and targets != (config.fine_tuning.target,)
    starts = {target: _recovered(config, prepared, target, folder, runtime=runtime) for target in targets if recovers}
    for settings, fine_tuning in config.grid():
        seeds = fine_tuning.seeds
        groups = [seeds] if len(targets) == 1 else [(seed,) for seed in seeds]
        names = [f"{name}/{settings}"] if len(targets) == 1 else [f"{name}/{settings}/ticket-{seed}" for seed in seeds]
        results = tuple(
            transfer(
                _fine_tuning_of(fine_tuning, target).model_copy(
                    update={"seeds": group, "start_from": starts.get(target, fine_tuning.start_from)}
                ),
                folder / where,
                runtime,
            )
            for target, group, where in zip(targets, groups, names, strict=True)
        )
        tried[settings] = Runs(tuple(names), results, settings)
    stopped = sum(result["stopped_early"] for runs in tried.values() for result in runs.results)
    best = best_of({settings: runs.mean for settings, runs in tried.items()})
    return replace(tried[best], stopped_early=stopped)


def _fine_tuning_of(fine_tuning: TransferConfig, target: str) -> TransferConfig:
    """Return the fine-tuning of a ticket, which has its own layers and revision; its base model may have been moved."""
    if target == fine_tuning.target:
        return fine_tuning
    ticket = {"target": target, "base": fine_tuning.target, "layers": None, "revision": None}
    return fine_tuning.model_copy(update=ticket)


def _recovered(config: SuperConfig, prepared: PreparedTransfer, path: str, folder: Path, *, runtime: Runtime) -> str:
    """Train the encoder of a ticket to follow the dense encoder; return the saved state for fine-tuning."""
    ticket = Ticket.from_pretrained(path)
    state = folder / "recovered" / f"{ticket.id}.safetensors"
    run = RunDirectory(state.with_suffix(""), "unfinished", ticket.id)
    if not state.is_file():
        _recover(config, prepared, ticket, run, runtime=runtime, state=state)
    shutil.rmtree(run.scratch, ignore_errors=True)  # a kill may have come right after the state was saved
    return str(state)


def _recover(
    config: SuperConfig, prepared: PreparedTransfer, ticket: Ticket, run: RunDirectory, *, runtime: Runtime, state: Path
) -> None:
    fine_tuning = config.fine_tuning
    plm = load_plm(fine_tuning.target, revision=fine_tuning.revision, layers=fine_tuning.layers)
    structure, seed = structure_of(plm), fine_tuning.seeds[0]
    dense = copy.deepcopy(plm.model).to(choose_device(runtime.device)).eval().requires_grad_(False)
    every = range(len(structure.layers))
    objective = Distillation({"states": 1.0, "pooled": 1.0}, plm.architecture, dense, every)
    settings = ShrinkConfig.of(model=fine_tuning.target, steps=config.recover, seed=seed)
    encoded = prepared.encode(plm, prepared.data.train)
    batches, held_out = example_batches(plm, encoded, settings.batch_tokens, seed)
    removed = remove_closed_(plm.encoder, structure, ticket.gates)
    recover(settings, plm, objective, batches, held_out=held_out, run=run, runtime=runtime)
    removed.write_back_(dense, plm.model)  # the teacher has done its work
    info = StateInfo(base_hash=prepared.base, what="recovery of a ticket", step=config.recover, seed=seed)
    save_state(state, dense.base_model, info=info, pooler=plm.has_pooler)


def _tickets(
    config: SuperConfig, folder: Path, settings: str, runtime: Runtime
) -> dict[str, dict[float, tuple[str, ...]]]:
    """Return the tickets by selection and level: one folder, or one for each seed if they are random."""
    # Importances come from the full model, fine-tuned with its best settings.
    source = _source(config, folder)
    if config.importance_from is None:
        fine_tuning = dict(config.grid())[settings]
        single = {"seeds": fine_tuning.seeds[:1], "save_model": True}
        transfer(fine_tuning.model_copy(update=single), source, runtime)
    # The winning search stores the importances, which losing tickets reuse; random ones need none.
    found: dict[str, dict[float, tuple[str, ...]]] = {}
    winning = folder / "tickets" / "winning"
    for selection in config.selections:
        where = source if selection == "winning" else winning
        folders = []
        for seed in config.fine_tuning.seeds if selection == "random" else config.fine_tuning.seeds[:1]:
            out = folder / "tickets" / (f"random-{seed}" if selection == "random" else selection)
            search_all(_search(config, selection, where, seed), out, runtime)
            folders.append(out)
        found[selection] = {
            level: tuple(str(out if len(config.level) == 1 else out / _folder(config, level)) for out in folders)
            for level in config.level
        }
    return found


def _source(config: SuperConfig, folder: Path) -> Path:
    """Return the run whose model the importances are computed for."""
    return Path(config.importance_from or folder / "fine-tuned").expanduser()


_FEW = 50  # number of examples below which a choice among many models is mostly chance
_NO_BETTER = "no better than one answer for all examples"


def _warnings(source: Path, full: Runs, winning: Mapping[float, Runs], level: float) -> list[str]:
    """Return warnings about results that depend on models that learned nothing."""
    found = []
    stored = find_result(source, FineTuning)
    if stored is not None and stored.degenerate:
        found.append(
            f"The importances are of a model that is {_NO_BETTER} ({source.name}), so they say nothing of the task."
        )
    flagged = ["the full model"] if full.degenerate else []
    flagged += [f"the tickets of level {level:g} %"] if winning[level].degenerate else []
    if flagged:
        found.append(f"The super ticket was chosen among scores that are {_NO_BETTER}: {' and '.join(flagged)}.")
    return found


def _folder(config: SuperConfig, level: float) -> str:
    return Level(config.units, level).folder


def _search(config: SuperConfig, selection: str, source: Path, seed: int) -> ImportanceSearch:
    fine_tuning = config.fine_tuning
    fields: dict[str, Any] = {"model": fine_tuning.target, "selection": selection}
    fields |= {
        "level": written_levels(config.level),
        "units": config.units,
        "min_heads_per_layer": config.min_heads_per_layer,
    }
    fields |= {"layers": fine_tuning.layers, "revision": fine_tuning.revision, "profile": config.profile}
    if selection == "random":
        return ImportanceSearch.of(**fields, seed=seed)
    fields |= {"importance_from": str(source), "importance": config.importance}
    if selection == "winning":
        fields |= {"train_size": config.importance_train_size, "data_dir": fine_tuning.data_dir}
    return ImportanceSearch.of(**fields)


def _result(
    config: SuperConfig,
    identity: str,
    plan: EvaluationPlan,
    full: Runs,
    *,
    found: Mapping[str, Mapping[float, Runs]],
    tickets: Mapping[str, Mapping[float, tuple[str, ...]]],
) -> dict[str, Any]:
    selections: dict[str, dict[str, Any]] = {}
    for selection, levels in found.items():
        selections[selection] = {}
        for level, runs in levels.items():
            # Winning tickets are compared with all others, other tickets only with the full model.
            others = {"full": full}
            if selection == "winning":
                others |= {name: found[name][level] for name in ("random", "losing") if name in found}
            # Nothing was chosen on the rest of the dev set, so the differences on it are unbiased.
            tests = {
                name: {part: _difference(runs, other, part) for part in ("rest", "whole")}
                for name, other in others.items()
            }
            facts = _ticket_facts(tickets[selection][level], config)
            selections[selection][f"{level:g}"] = runs.facts() | facts | {"against": tests}
    # The best level; of equal levels the one with the smaller model (section 3.2).
    level = best_of(
        {candidate: found["winning"][candidate].mean for candidate in sorted(found["winning"], reverse=True)}
    )
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
        "trainings": count_trainings(config),
        "stopped_early": full.stopped_early + sum(runs.stopped_early for by in found.values() for runs in by.values()),
        "versions": versions(),
    }


def _difference(runs: Runs, other: Runs, part: str) -> dict[str, Any]:
    """Return the mean difference on a part of the dev set, paired by seed, with its interval and what to know of it."""
    found = paired_effect(runs.scores(part), other.scores(part))
    sides = {"ticket": runs, "other": other}
    return {
        "mean": found.mean,
        "n": found.n,
        **found.facts(),
        "degenerate": [name for name, side in sides.items() if side.degenerate],
        "learning_rates": {name: side.results[0]["learning_rate"] for name, side in sides.items()},
    }


def _ticket_facts(folders: tuple[str, ...], config: SuperConfig) -> dict[str, Any]:
    """Return the average sizes of the tickets of one level: random tickets differ by seed where units overlap."""
    stored = [_stored(Path(folder), config) for folder in folders]
    return {
        "ticket_ids": [ticket.ticket_id for ticket in stored],
        "units": stored[0].units,
        "sparsity": statistics.fmean(ticket.sparsity for ticket in stored),
        "weight_remaining": 1.0 - statistics.fmean(ticket.pruned_share_of_all_parameters for ticket in stored),
    }


def _stored(folder: Path, config: SuperConfig) -> FoundTicket:
    """Return the search's result for the ticket in a folder: its own file, or an entry of the parent folder's file."""
    if len(config.level) == 1:
        return read_result(folder, SearchResult).tickets[0]
    return next(one for one in read_result(folder.parent, SearchResult).tickets if one.folder == folder.name)


def _keep(result: dict[str, Any], tickets: Mapping[str, Mapping[float, tuple[str, ...]]], folder: Path) -> None:
    """Save the super ticket, and the figure of the phase transition."""
    (source,) = tickets["winning"][result["super_ticket"]["level"]]
    Ticket.from_pretrained(source).save_pretrained(folder / SUPER_TICKET)

    def point(facts: Mapping[str, Any]) -> PhasePoint:
        return PhasePoint(facts["weight_remaining"], tuple(facts["rest"]["values"]))

    points = {selection: list(map(point, levels.values())) for selection, levels in result["selections"].items()}
    title = f"{result['task']}: {result['model']}"
    phase_figure(points, point(result["full"]), result["metric"], folder / FIGURE, title=title)
