"""Refusing impossible searches for tickets of heads, FFNs, neurons and layers before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from winning_tickets.config import COUNT_FIELDS, METHOD_NEEDS, SearchConfig, StructuredSettings
from winning_tickets.config.structured import UNIT_FIELDS
from winning_tickets.errors import UsageError

_OPTIONS = {field: f"--{unit}" for unit, field in COUNT_FIELDS.items()} | {"prune_layers": "--whole-layers"}
_OF_WEIGHTS = (
    *("sparsity", "ranking", "rung_steps", "head_learning_rate", "train_embeddings"),
    *("rank_by", "reselect_steps", "cadence", "threshold", "count_rounding"),
)
_OF_IMPORTANCE = ("selection", "importance_from", "keep_token_importance")


def structured_problems(config: SearchConfig, terms: Mapping[str, float]) -> list[str]:
    """What is wrong with levels, counts and the loss of importances; nothing for other methods without them.

    Args:
        config: of the search.
        terms: of its objective, empty where it is no sum of known ones.
    """
    if not config.needs.structured:
        given = [field for field in StructuredSettings.model_fields if field in config.model_fields_set]
        return [f"--method {config.method} knows no {_option(f)}; it goes with {_methods(f)}." for f in given]
    problems = []
    try:
        _ = config.levels
    except UsageError as error:
        problems.append(str(error))
    if config.needs.gates:
        return problems + _gate_problems(config)
    for field, way in (("sparsity", "follows from --level or the counts"), ("ranking", "is over all layers")):
        if field in config.model_fields_set:
            problems.append(f"--{field} does not go with --method {config.method}, where it {way}; leave it out.")
    if config.scope != "encoder":
        problems.append(f"--scope {config.scope} does not go with --method {config.method}, which prunes the encoder.")
    return problems + _loss_problems(config, terms)


def _methods(field: str) -> str:
    able = [f"--method {name}" for name, needs in METHOD_NEEDS.items() if needs.structured]
    if field in UNIT_FIELDS:
        return " or ".join([*able, "mask-training"])
    with_units = [] if field in _OF_IMPORTANCE else ["mask-training with --level or counts"]
    return " or ".join([*able, *with_units])


def _gate_problems(config: SearchConfig) -> list[str]:
    """What is for masks of weights, or for importance alone, where gates are trained."""
    given = config.model_fields_set
    what = _option(next(field for field in UNIT_FIELDS if field in given and getattr(config, field)))
    if config.pattern is not None:
        return [f"--pattern {config.pattern} prunes weights, and {what} whole units; give one of them."]
    problems = [
        f"{_option(field)} is about masks of weights, and with {what} gates are trained; leave it out."
        for field in _OF_WEIGHTS
        if field in given
    ]
    problems += [
        f"{_option(field)} goes with {_methods(field)}; gates that are trained know no such choice."
        for field in _OF_IMPORTANCE
        if field in given
    ]
    if config.scope != "encoder":
        problems.append(f"--scope {config.scope} does not go with {what}, which prunes the encoder; leave it out.")
    if config.profile != "tuned":
        problems.append(
            f"--profile {config.profile} is a recipe for masks of weights, and none of the papers trains gates; leave "
            "it out."
        )
    if config.score_init == "activation":
        problems.append("--score-init activation is about weights; for gates give rank, plateau or random.")
    return problems


def _option(field: str) -> str:
    return _OPTIONS.get(field, f"--{field.replace('_', '-')}")


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
    if config.steps < 1:
        return [f"--steps {config.steps} is impossible; at least 1 batch."]
    return []
