"""Refusing impossible searches before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from winning_tickets.config import METHOD_NAMES, SCOPES, SearchConfig, check_sparsity, parse_objective
from winning_tickets.errors import UsageError, unknown
from winning_tickets.objectives import check_negatives


def check(config: SearchConfig) -> None:
    """Refuse what cannot work before anything is loaded; all problems at once.

    Raises:
        UsageError: one line for each problem.
    """
    problems: list[str] = []

    def attempt(test: Callable[[], Any]) -> Any:
        try:
            return test()
        except UsageError as error:
            problems.append(str(error))
            return None

    for sparsity in config.sparsities:
        attempt(partial(check_sparsity, sparsity))
    if config.method not in METHOD_NAMES:
        problems.append(str(unknown("method", config.method, METHOD_NAMES)))
    terms = attempt(partial(parse_objective, config.objective)) or {}
    if config.scope is not None and config.scope not in SCOPES:
        problems.append(str(unknown("scope", config.scope, SCOPES)))
    if config.needs.corpus and config.corpus is None:
        problems.append(
            f"--method {config.method} needs --corpus: pydocs, wikitext-103, task:NAME, a text file or a folder."
        )
    if config.needs.mask_training:
        filled = config.resolved()
        problems += _check_training(filled)
        if "attention" in terms:
            attempt(partial(_check_distributions, filled))
        if "contrastive" in terms:
            attempt(partial(check_negatives, str(filled.segments), int(filled.batch_tokens or 0)))
    if problems:
        raise UsageError("\n".join(problems))


def _check_distributions(config: SearchConfig) -> None:
    if config.student_dropout or config.teacher_dropout:
        raise UsageError(
            "The attention objective compares distributions, and dropout strikes out parts of them: set "
            "student_dropout: 0 and teacher_dropout: false in a --config file, or use --profile tuned."
        )


def _check_training(config: SearchConfig) -> list[str]:
    problems = []
    if config.steps < 1:
        problems.append(f"--steps {config.steps} is impossible; at least 1.")
    if config.batch_tokens is not None and config.batch_tokens < 1:
        problems.append(f"--batch-tokens {config.batch_tokens} is impossible; at least 1.")
    beyond = [step for step in config.save_at if not 1 <= step <= config.total_steps]
    if beyond:
        problems.append(f"--save-at {beyond[0]} lies outside the search of {config.total_steps} steps.")
    if config.rung_steps is not None and config.rung_steps < 1:
        problems.append(f"--rung-steps {config.rung_steps} is impossible; at least 1.")
    return problems
