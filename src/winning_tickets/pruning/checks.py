"""Refusing impossible searches before anything is loaded; the settings themselves check ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from winning_tickets.config import (
    METHOD_NAMES,
    PRETRAINED,
    SCOPES,
    Pattern,
    ResolvedSearch,
    SearchConfig,
    parse_rewind,
    parse_start,
)
from winning_tickets.data.encode import parse_size
from winning_tickets.data.segments import parse_segments
from winning_tickets.data.tasks import TASKS
from winning_tickets.runs import distributed
from winning_tickets.runs.errors import UsageError, unknown
from winning_tickets.training.objectives.terms import check_negatives

_TEXTS = "pydocs, wikitext-103, task:NAME, a text file or a folder."


def check(config: SearchConfig) -> None:
    """Refuse what cannot work; all problems at once.

    Raises:
        UsageError: one line for each problem.
    """
    problems: list[str] = []

    def attempt(test: Callable[..., Any], *values: Any) -> Any:
        try:
            return test(*values)
        except UsageError as error:
            problems.append(str(error))
            return None

    needs = config.needs
    if config.method not in METHOD_NAMES:
        problems.append(str(unknown("method", config.method, METHOD_NAMES)))
    problems += config.unread()
    terms = attempt(lambda: config.terms) or {}
    if needs.sources:
        problems += _source_problems(config, terms)
    if config.scope is not None and config.scope not in SCOPES:
        problems.append(str(unknown("scope", config.scope, SCOPES)))
    if config.pattern is not None and needs.patterns:
        attempt(_check_pattern, config, config.pattern)
    if config.like is not None and needs.like:
        written = ("ranking", "pattern" if config.pattern is not None else "sparsity")  # a pattern writes its sparsity
        problems += [
            f"--{field} contradicts --like, which takes the counts of each matrix from a ticket; leave it out."
            for field in written
            if field in config.model_fields_set
        ]
    if config.weights_from != PRETRAINED and needs.other_weights:
        attempt(_check_weights, config.weights_from)
    if config.segments is not None:
        attempt(parse_segments, config.segments)
    if config.train_size is not None:
        attempt(parse_size, config.train_size)
    if needs.corpus and config.corpus is None:
        problems.append(f"--method {config.method} needs --corpus: {_TEXTS}")
    if needs.structured:
        attempt(lambda: config.levels)
        problems += _unit_problems(config, terms)
    if needs.mask_training:
        filled = config.resolved()
        beyond = [step for step in config.save_at if not 1 <= step <= filled.total_steps]
        if beyond:
            problems.append(f"--save-at {beyond[0]} is outside the search of {filled.total_steps} steps.")
        if config.ranking == "row" and filled.reselect_steps > 1:
            problems.append(_no_thresholds("--ranking row", filled))
        if "attention" in terms and (filled.student_dropout or filled.teacher_dropout):
            problems.append(
                "The attention objective compares distributions, and dropout removes parts of them: give "
                "--student-dropout 0 and --no-teacher-dropout, or use --profile tuned."
            )
        if "contrastive" in terms:
            attempt(check_negatives, filled.segments, filled.batch_tokens)
            if distributed.count() > 1:
                problems.append(
                    "The contrastive objective compares all segments of a batch, and each of several processes has "
                    "some of them; search in one process, or with another objective."
                )
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))


def _check_weights(text: str) -> None:
    try:
        parse_start(text)
    except UsageError as error:
        raise UsageError(f"--weights-from: {error}") from error


def _check_pattern(config: SearchConfig, text: str) -> None:
    """Refuse what contradicts a pattern, which has groups, counts and a sparsity of its own."""
    pattern, filled, problems = Pattern.parse(text), config.resolved(), []
    if config.sparsities != (pattern.sparsity,):
        found = ",".join(map(str, config.sparsities))
        problems.append(
            f"--sparsity {found} contradicts --pattern {text}, which removes {pattern.sparsity:.4g} of each group; "
            "leave --sparsity out."
        )
    if config.ranking != "matrix":
        problems.append(
            f"--ranking {config.ranking} contradicts --pattern {text}, whose groups are {pattern.of} consecutive "
            "weights; leave --ranking out."
        )
    if "embeddings" in filled.scope:
        problems.append(
            f"--scope {filled.scope} has word embeddings, and --pattern {text} is for matrices that multiply their "
            "input; use encoder or encoder+pooler."
        )
    if config.needs.mask_training and filled.reselect_steps > 1:
        problems.append(_no_thresholds(f"--pattern {text}", filled))
    if problems:
        raise UsageError("\n".join(problems))


def _no_thresholds(option: str, filled: ResolvedSearch) -> str:
    return (
        f"{option} selects anew at every step, and reselect_steps is {filled.reselect_steps} (profile "
        f"{filled.profile}); use another profile, or give --reselect-steps 1."
    )


def _unit_problems(config: SearchConfig, terms: Mapping[str, float]) -> list[str]:
    """Problems of gates, or of the loss that importances are about."""
    problems = []
    if config.scope != "encoder":
        problems.append(f"--scope {config.scope} does not go with tickets of whole units, which prune the encoder.")
    if config.needs.gates:
        if config.profile != "tuned":
            problems.append(
                f"--profile {config.profile} is a recipe for masks of weights, and none of the papers trains gates; "
                "leave it out."
            )
        if config.score_init == "activation":
            problems.append("--score-init activation is about weights; for gates give rank, plateau or random.")
    elif len(terms) > 1:
        problems.append(f"Importance is about one loss, mlm, kd or task, and the objective is {config.objective}.")
    elif "task" in terms and config.importance_from is None:
        problems.append(
            "Importance for a task needs a model fine-tuned on it: tickets transfer --save-model, then "
            "--importance-from RUN."
        )
    elif terms and "task" not in terms and config.importance_from is not None:
        problems.append(
            f"--objective {config.objective} contradicts --importance-from, which says what importances are about; "
            "give one of them."
        )
    elif terms and "task" not in terms and config.corpus is None:
        problems.append(
            f"Importance by {config.objective} needs --corpus: {_TEXTS[:-1]}. For that of a task give "
            "--importance-from RUN."
        )
    return problems


def _source_problems(config: SearchConfig, terms: Mapping[str, float]) -> list[str]:
    """Problems of text, tasks and rounds."""
    problems = []
    named = bool(config.tasks) or config.train_file is not None
    if "mlm" in terms and config.corpus is None:
        problems.append(f"The objective mlm needs --corpus: {_TEXTS}")
    if "task" in terms and not named:
        problems.append(f"The objective task needs --task ({', '.join(TASKS)}; several with commas), or --train-file.")
    if terms and "task" not in terms and named:
        problems.append(f"The objective {config.objective} uses no task; write task, or mlm+task, or leave --task out.")
    problems += [str(unknown("task", name, TASKS)) for name in config.tasks if name not in TASKS]
    if config.method != "imp":
        return problems
    lengths = [f for f in ("round_steps", "round_epochs", "round_examples") if getattr(config, f) is not None]
    if len(lengths) > 1:
        options = " and ".join(map(config.option_of, lengths))
        problems.append(f"{options} contradict each other; give one of them.")
    if not lengths and "mlm" in terms:
        problems.append("--method imp on text needs the length of a round: --round-steps, -epochs or -examples.")
    filled = config.resolved()
    if filled.prune_first and len(config.sparsities) == 1:
        problems.append("prune_first with one sparsity trains nothing; that is --method magnitude.")
    try:
        policy = parse_rewind(filled.rewind)
    except UsageError as error:
        return [*problems, str(error)]
    if policy.kind == "step" and config.round_steps is not None and policy.amount > config.round_steps:
        problems.append(f"--rewind {config.rewind} is after the first round, which has {config.round_steps} steps.")
    return problems
