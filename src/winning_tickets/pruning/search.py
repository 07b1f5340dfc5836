"""Search for tickets: from a pre-trained model, and data if the method needs some, to ticket folders."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from winning_tickets.config import Runtime, SearchConfig
from winning_tickets.config.mask_training import MaskTraining, ScoreTraining
from winning_tickets.config.search import TeacherSearch, TextSearch, WeightSearch
from winning_tickets.config.structured import GateTraining, UnitSearch
from winning_tickets.config.weight_training import ImpSearch, SourceSearch
from winning_tickets.data.segments import check_countable, parse_segments
from winning_tickets.data.tasks import TASKS
from winning_tickets.models.structure import count_units
from winning_tickets.pruning.memory import check_memory
from winning_tickets.pruning.preparation import PreparedSearch, prepare_search
from winning_tickets.pruning.sharded import check_matrices, check_sharding
from winning_tickets.runs import distributed
from winning_tickets.runs.directory import RunDirectory, execution_of, is_trusted
from winning_tickets.runs.errors import TicketsWarning, UsageError, listed, problems_of, refuse, unknown
from winning_tickets.tickets.selection import count_true
from winning_tickets.tickets.ticket import Ticket
from winning_tickets.training.objectives.terms import check_negatives

logger = logging.getLogger(__name__)


def search(config: SearchConfig, out: Path | str, runtime: Runtime | None = None, *, force: bool = False) -> Ticket:
    """Find a ticket of one sparsity and save it in `out`, which is then the ticket's folder; see `api.verbs.search`."""
    (ticket,) = _find_tickets(config, out, runtime, force=force, single=True).values()
    return ticket


def search_all(
    config: SearchConfig, out: Path | str, runtime: Runtime | None = None, *, force: bool = False
) -> dict[Any, Ticket]:
    """Find the tickets of all sparsity levels in one search; see `api.verbs.search_all`.

    Mask training starts each from the scores of the last. Several tickets are saved as `out/sparsity-0.60/` and so on,
    a single one as `out` itself.
    """
    return _find_tickets(config, out, runtime, force=force, single=False)


@distributed.together()
def _find_tickets(
    config: SearchConfig, out: Path | str, runtime: Runtime | None, *, force: bool, single: bool
) -> dict[Any, Ticket]:
    check_search(config)
    if single and len(config.rungs) > 1:
        found = f"{len(config.rungs)} {'levels' if isinstance(config, UnitSearch) else 'sparsities'}"
        raise UsageError(f"search finds one ticket and was given {found}; use search_all.")
    runtime = runtime or Runtime()
    check_execution(config, runtime)
    if not is_trusted():  # a model with code of its own cannot be outlined
        check_memory(config.resolved(), runtime)
    prepared = prepare_search(config, runtime)
    if isinstance(config, ImpSearch) and config.advice_on_rounds is not None:
        logger.info(config.advice_on_rounds)
    if runtime.shard:
        check_matrices(prepared.plm, prepared.shapes)
    settings = prepared.config.model_dump(mode="json")
    with RunDirectory.claim(Path(out), "search", prepared.run_id, settings, force=force) as run:
        finished = run.status == "done"
        if not finished:
            find = resolve_name(config.finder)
            if config.together:
                find(prepared, run, runtime)
            else:
                distributed.on_main(lambda: find(prepared, run, runtime))
        tickets = {level: Ticket.from_pretrained(prepared.folder(run, level)) for level in prepared.config.rungs}
        if not finished:
            run.finish(summarize_search(tickets, prepared, run))
            if isinstance(prepared.config, WeightSearch) and prepared.config.ranking == "global":
                _warn_of_empty_matrices(tickets[max(tickets)])
    return tickets


def _warn_of_empty_matrices(ticket: Ticket) -> None:
    """Warn if a matrix is nearly empty, as can happen if the weights of all matrices are ranked together."""
    by_matrix = ticket.sparsity_by_matrix()
    least = (1 - ticket.sparsity) / 100
    empty = [name for name, sparsity in by_matrix.items() if 1 - sparsity < least]
    if empty:
        warnings.warn(
            f"the ticket at {100 * ticket.sparsity:.0f} % sparsity keeps less than {least:.2%} of {len(empty)} of "
            f"{len(by_matrix)} matrices: {listed(empty)}. Rank in each matrix (--ranking matrix), or take the numbers "
            "of kept weights from another ticket (--like).",
            TicketsWarning,
            stacklevel=2,
        )


def summarize_search(tickets: dict[Any, Ticket], prepared: PreparedSearch[Any], run: RunDirectory) -> dict[str, Any]:
    """Return the result that is stored and printed."""
    config = prepared.config
    common = {"verb": "search", "run_id": prepared.run_id, "method": config.method, "scope": config.scope}
    saved = {"saved_at": list(config.save_at) if isinstance(config, ScoreTraining) else []}
    if len(tickets) == 1:
        (ticket,) = tickets.values()
        return common | _facts(ticket, prepared) | saved
    facts: list[dict[str, Any]] = []
    previous: Ticket | None = None
    for level, ticket in tickets.items():
        inside = None if previous is None else kept_inside(ticket, previous)
        folder = prepared.folder(run, level)
        about = {"folder": folder.name, "kept_inside_previous": inside} | execution_of(folder)
        facts.append(_facts(ticket, prepared) | about)
        previous = ticket
    return (
        common
        | {
            "rungs": facts,
            "nested": all(one["kept_inside_previous"] in (None, 1.0) for one in facts),
            # Every structured ticket has a training of its own, whose steps are among its facts.
            "steps": None if isinstance(config, UnitSearch) else facts[-1]["steps"],
            "steps_of_separate_searches": config.steps * len(tickets) if isinstance(config, MaskTraining) else None,
        }
        | saved
    )


def kept_inside(inner: Ticket, outer: Ticket) -> float:
    """Return the fraction of the weights kept by `inner` that `outer` keeps too; 1 if they are nested."""
    both = sum(count_true(mask & outer.masks[name]) for name, mask in inner.masks.items())
    return both / max(1, inner.total - inner.pruned)


def _facts(ticket: Ticket, prepared: PreparedSearch[Any]) -> dict[str, Any]:
    units = {} if ticket.structure is None else {"units": count_units(ticket.gates, ticket.structure)}
    return units | {
        "ticket_id": ticket.id,
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "pruned_share_of_all_parameters": ticket.pruned / prepared.all_parameters,
        "steps": ticket.info.step,
    }


def check_search(config: SearchConfig) -> None:
    """Refuse settings that cannot work together, before anything is loaded; name all problems at once, one per line."""
    problems = config.problems()
    if isinstance(config, TextSearch):
        problems += _text_problems(config)
    if isinstance(config, SourceSearch):
        if "task" in config.known_terms and not config.tasks and config.train_file is None:
            tasks = ", ".join(TASKS)
            problems.append(f"The objective task needs --task ({tasks}; several with commas), or --train-file.")
        problems += [str(unknown("task", name, TASKS)) for name in config.tasks if name not in TASKS]
    if isinstance(config, TeacherSearch) and "contrastive" in config.known_terms:
        filled = config.resolved()
        problems += problems_of(lambda: check_negatives(filled.segments, filled.batch_tokens))
        if distributed.world_size() > 1:
            problems.append(
                "The contrastive objective compares all segments of a batch, and each of several processes has some of "
                "them; search in one process, or with another objective."
            )
    refuse(problems)


def _text_problems(config: TextSearch) -> list[str]:
    found = [] if config.segments is None else problems_of(lambda: parse_segments(config.segments))
    if config.train_size is not None:
        found += problems_of(lambda: check_countable(config.resolved().segments) if config.reads_corpus else None)
    return found


def check_execution(config: SearchConfig, runtime: Runtime) -> None:
    """Refuse ways of running a search that its method does not have."""
    if runtime.shard:
        check_sharding(config.resolved(), runtime)
    if runtime.torch_compile and isinstance(config, GateTraining):
        raise UsageError("--compile is for masks of weights: gates are hooks, which change from level to level.")
    whole = {"--compile": runtime.torch_compile, "--gradient-checkpointing": runtime.gradient_checkpointing}
    if isinstance(config, MaskTraining) and config.block_wise and any(whole.values()):
        option = next(name for name, given in whole.items() if given)
        raise UsageError(f"{option} is for whole models, and --block-wise runs a part of one; leave one of them out.")
