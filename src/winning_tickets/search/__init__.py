"""METHODS and `search`: a pre-trained model (and a corpus) -> a ticket in a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from winning_tickets.config import METHOD_NAMES, OBJECTIVE_NAMES, Runtime, SearchConfig
from winning_tickets.errors import UsageError, unknown
from winning_tickets.plm import SCOPES
from winning_tickets.rundir import RunDirectory
from winning_tickets.search import magnitude, mask_training, random
from winning_tickets.search.base import Prepared, prepare
from winning_tickets.selection import check_sparsity
from winning_tickets.ticket import Ticket

METHODS: dict[str, Callable[[Prepared, RunDirectory, Runtime], Ticket]] = {
    "random": random.find,
    "magnitude": magnitude.find,
    "mask-training": mask_training.find,
}


def search(config: SearchConfig, out: Path | str, runtime: Runtime | None = None, force: bool = False) -> Ticket:
    """Find a ticket and save it in `out`, which is then the ticket's folder.

    A finished search of the same settings is opened again, an unfinished one goes on where it was.

    Args:
        config: what to search for.
        out: a directory that is absent or empty, or holds this very run.
        runtime: device, precision and checkpoints.
        force: replace another run of ours in `out`.

    Raises:
        UsageError: impossible settings, unknown names, missing model or corpus, a foreign `out`.
        ContentError: the model or corpus is not usable.
        TrainingError: NaN loss or full disk while training.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
    """
    runtime = runtime or Runtime()
    check(config)
    prepared = prepare(config, runtime)
    run = RunDirectory.claim(Path(out), "search", prepared.run_id, prepared.config.model_dump(mode="json"), force=force)
    if run.status == "done":
        return Ticket.from_pretrained(run.path)
    ticket = METHODS[config.method](prepared, run, runtime)
    ticket.save_pretrained(run.path)
    run.finish(summary(ticket, prepared))
    return ticket


def check(config: SearchConfig) -> None:
    """Refuse what cannot work before anything is loaded; all problems at once.

    Raises:
        UsageError: one line for each problem.
    """
    problems: list[str] = []

    def attempt(test: Callable[[], Any]) -> None:
        try:
            test()
        except UsageError as error:
            problems.append(str(error))

    attempt(lambda: check_sparsity(config.sparsity))
    if config.method not in METHOD_NAMES:
        problems.append(str(unknown("method", config.method, METHOD_NAMES)))
    if config.objective not in OBJECTIVE_NAMES:
        problems.append(str(unknown("objective", config.objective, OBJECTIVE_NAMES)))
    if config.scope is not None and config.scope not in SCOPES:
        problems.append(str(unknown("scope", config.scope, SCOPES)))
    if config.method == "mask-training":
        problems += _check_training(config)
    if problems:
        raise UsageError("\n".join(problems))


def _check_training(config: SearchConfig) -> list[str]:
    problems = []
    if config.corpus is None:
        problems.append(
            "--method mask-training needs --corpus: pydocs, wikitext-103, task:NAME, a text file or a folder."
        )
    if config.steps < 1:
        problems.append(f"--steps {config.steps} is impossible; at least 1.")
    if config.batch_tokens is not None and config.batch_tokens < 1:
        problems.append(f"--batch-tokens {config.batch_tokens} is impossible; at least 1.")
    beyond = [step for step in config.save_at if not 1 <= step <= config.steps]
    if beyond:
        problems.append(f"--save-at {beyond[0]} lies outside the search of {config.steps} steps.")
    return problems


def summary(ticket: Ticket, prepared: Prepared) -> dict[str, Any]:
    """The result that is stored and printed."""
    share = ticket.pruned / prepared.all_parameters
    return {
        "verb": "search",
        "run_id": prepared.run_id,
        "ticket_id": ticket.id,
        "method": ticket.info.method,
        "scope": ticket.info.scope,
        "sparsity": ticket.sparsity,
        "pruned": ticket.pruned,
        "total": ticket.total,
        "pruned_share_of_all_parameters": share,
        "steps": ticket.info.step,
        "saved_at": [step for step in prepared.config.save_at],
    }
