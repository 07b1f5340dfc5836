"""Refusing impossible searches before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from winning_tickets.config import (
    METHOD_NAMES,
    PRETRAINED,
    SCOPES,
    Pattern,
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


def structured_problems(config: SearchConfig, terms: Mapping[str, float]) -> list[str]:
    """Problems of levels, counts, gates and the loss of importances; none for tickets of single weights."""
    if not config.needs.structured:
        return []
    problems = []
    try:
        _ = config.levels
    except UsageError as error:
        problems.append(str(error))
    if config.scope != "encoder":
        problems.append(f"--scope {config.scope} does not go with tickets of whole units, which prune the encoder.")
    if not config.needs.gates:
        return problems + _loss_problems(config, terms)
    if config.profile != "tuned":
        problems.append(
            f"--profile {config.profile} is a recipe for masks of weights, and none of the papers trains gates; leave "
            "it out."
        )
    if config.score_init == "activation":
        problems.append("--score-init activation is about weights; for gates give rank, plateau or random.")
    return problems


def _loss_problems(config: SearchConfig, terms: Mapping[str, float]) -> list[str]:
    if not terms:
        return []
    if len(terms) > 1:
        return [f"Importance is about one loss, mlm, kd or task, and the objective is {config.objective}."]
    if "task" in terms and config.importance_from is None:
        return [
            "Importance for a task needs a model fine-tuned on it: tickets transfer --save-model, then "
            "--importance-from RUN."
        ]
    if "task" not in terms and config.importance_from is not None:
        return [
            f"--objective {config.objective} contradicts --importance-from, which says what importances are about; "
            "give one of them."
        ]
    if "task" not in terms and config.corpus is None:
        return [
            f"Importance by {config.objective} needs --corpus: pydocs, wikitext-103, task:NAME, a text file or a "
            "folder. For that of a task give --importance-from RUN."
        ]
    return []


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

    if config.method not in METHOD_NAMES:
        problems.append(str(unknown("method", config.method, METHOD_NAMES)))
    problems += config.unread()
    terms = attempt(lambda: config.terms) or {}
    if config.needs.sources:
        problems += _check_sources(config, terms)
    if config.scope is not None and config.scope not in SCOPES:
        problems.append(str(unknown("scope", config.scope, SCOPES)))
    if config.pattern is not None and config.needs.patterns:
        problems += _check_pattern(config, config.pattern)
    problems += _check_controls(config)
    if config.segments is not None:
        attempt(partial(parse_segments, config.segments))
    if config.train_size is not None:
        attempt(partial(parse_size, config.train_size))
    if config.needs.corpus and config.corpus is None:
        problems.append(
            f"--method {config.method} needs --corpus: pydocs, wikitext-103, task:NAME, a text file or a folder."
        )
    problems += structured_problems(config, terms)
    if config.needs.mask_training:
        filled = config.resolved()
        problems += _check_training(filled)
        if config.ranking == "row" and (filled.reselect_steps or 1) > 1:
            problems.append(_no_thresholds("--ranking row", filled))
        if "attention" in terms:
            attempt(partial(_check_distributions, filled))
        if "contrastive" in terms:
            attempt(partial(check_negatives, str(filled.segments), int(filled.batch_tokens or 0)))
            problems += _check_single()
    if problems:
        raise UsageError("\n".join(problems))


def _check_single() -> list[str]:
    if distributed.count() == 1:
        return []
    return [
        "The contrastive objective compares all segments of a batch, and each of several processes has some of them; "
        "search in one process, or with another objective."
    ]


def _check_controls(config: SearchConfig) -> list[str]:
    problems = []
    if config.like is not None and config.needs.like:
        written = ("ranking", "pattern" if config.pattern is not None else "sparsity")  # a pattern writes its sparsity
        given = [field for field in written if field in config.model_fields_set]
        problems += [
            f"--{field} contradicts --like, which takes the counts of each matrix from a ticket; leave it out."
            for field in given
        ]
    if config.weights_from != PRETRAINED and config.needs.other_weights:
        try:
            parse_start(config.weights_from)
        except UsageError as error:
            problems.append(f"--weights-from: {error}")
    return problems


def _check_pattern(config: SearchConfig, text: str) -> list[str]:
    """What a pattern contradicts: it has groups, counts and a sparsity of its own."""
    try:
        pattern = Pattern.parse(text)
    except UsageError as error:
        return [str(error)]
    problems = []
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
    filled = config.resolved()
    if "embeddings" in str(filled.scope):
        problems.append(
            f"--scope {filled.scope} has word embeddings, and --pattern {text} is for matrices that multiply their "
            "input; use encoder or encoder+pooler."
        )
    if config.needs.mask_training and (filled.reselect_steps or 1) > 1:
        problems.append(_no_thresholds(f"--pattern {text}", filled))
    return problems


def _no_thresholds(option: str, filled: SearchConfig) -> str:
    return (
        f"{option} selects anew at every step, and reselect_steps is {filled.reselect_steps} (profile "
        f"{filled.profile}); use another profile, or set reselect_steps: 1 in a --config file."
    )


def _check_sources(config: SearchConfig, terms: Mapping[str, float]) -> list[str]:
    problems = []
    named = bool(config.tasks) or config.train_file is not None
    if "mlm" in terms and config.corpus is None:
        problems.append("The objective mlm needs --corpus: pydocs, wikitext-103, task:NAME, a text file or a folder.")
    if "task" in terms and not named:
        problems.append(f"The objective task needs --task ({', '.join(TASKS)}; several with commas), or --train-file.")
    if terms and "task" not in terms and named:
        problems.append(f"The objective {config.objective} uses no task; write task, or mlm+task, or leave --task out.")
    problems += [str(unknown("task", name, TASKS)) for name in config.tasks if name not in TASKS]
    return problems + (_check_rounds(config, terms) if config.method == "imp" else [])


def _check_rounds(config: SearchConfig, terms: Mapping[str, float]) -> list[str]:
    problems = []
    given = [f for f in ("round_steps", "round_epochs", "round_examples") if getattr(config, f) is not None]
    if len(given) > 1:
        options = " and ".join(f"--{field.replace('_', '-')}" for field in given)
        problems.append(f"{options} contradict each other; give one of them.")
    if not given and "mlm" in terms:
        problems.append("--method imp on text needs the length of a round: --round-steps, -epochs or -examples.")
    filled = config.resolved()
    if filled.prune_first and len(config.sparsities) == 1:
        problems.append("prune_first with one sparsity trains nothing; that is --method magnitude.")
    try:
        policy = parse_rewind(str(filled.rewind))
        step = policy.step(config.round_steps or 0)
        if policy.kind == "step" and config.round_steps is not None and step is not None and step > config.round_steps:
            problems.append(
                f"--rewind {config.rewind} lies behind the first round, which has {config.round_steps} steps."
            )
    except UsageError as error:
        problems.append(str(error))
    return problems


def _check_distributions(config: SearchConfig) -> None:
    if config.student_dropout or config.teacher_dropout:
        raise UsageError(
            "The attention objective compares distributions, and dropout strikes out parts of them: set "
            "student_dropout: 0 and teacher_dropout: false in a --config file, or use --profile tuned."
        )


def _check_training(config: SearchConfig) -> list[str]:
    beyond = [step for step in config.save_at if not 1 <= step <= config.total_steps]
    return [f"--save-at {beyond[0]} is outside the search of {config.total_steps} steps."] if beyond else []
