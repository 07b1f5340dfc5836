"""The scale `miniature`: the scale `paper` of a study, made small by rules that are the same for all studies.

Methods, profile, epochs, early stopping, ranking and all axes stay the same. A tiny model replaces the paper's model,
and a few examples of each task replace its data. There are fewer steps, smaller batches and shorter texts, and learning
rates are higher.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from winning_tickets.config import EvaluateConfig, SearchConfig, Settings, ShareConfig, SuperConfig, TransferConfig
from winning_tickets.config.mask_training import MaskTraining, ScoreTraining
from winning_tickets.config.search import TextSearch
from winning_tickets.config.settings import parse_size
from winning_tickets.config.weight_training import ImpSearch
from winning_tickets.data.records import Task
from winning_tickets.data.tasks import MLM, TASKS

MINIATURE = "miniature"
CUT = "tiny:cut:"  # prefix of a data folder of which only a few examples of each task are read
STEPS, RATE = 200, 40  # divisor of the steps of a search, and factor of the learning rates
BATCH, LENGTH, LEAST_BATCH = 4, 4, 4  # divisors of the batch size and of the tokens of a text; smallest batch
STEP_TOKENS, TEXT_STEPS, SEGMENTS = 16, 500, 2_000  # divisors: tokens of a step; steps and segments of rounds over text
EXAMPLES, EVAL_STEPS = 125, 5  # divisor of the examples of a subset; steps between evaluations
SEEDS, EVALUATED_TOKENS = 3, 2_000
MINIATURE_NOTE = (
    f"searches have 1/{STEPS} of the paper's steps (rounds over text alone 1/{TEXT_STEPS}), batches 1/{BATCH} of its "
    f"examples, texts 1/{LENGTH} of its tokens; learning rates are {RATE} times, those of masks {STEPS} times as high"
)


def miniature_parameters(paper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the scale `miniature`, made from those of the scale `paper`."""
    smaller = {name: change(paper[name]) for name, change in _PARAMETERS.items() if paper.get(name) is not None}
    return {**paper, **smaller, **{name: made for name, made in _DATA.items() if name in paper}}


def cut_folder(folder: Any) -> Any:
    """Return a data folder of the user with the prefix `CUT`, so that only a few examples of each task are read."""
    return f"{CUT}{folder}" if isinstance(folder, str) and not folder.startswith("tiny:") else folder


def miniature_settings(settings: Settings) -> Settings:
    """Return the settings of a run with smaller batches, shorter texts and higher rates."""
    change = next((change for kind, change in _SETTINGS.items() if isinstance(settings, kind)), None)
    return settings if change is None else settings.model_copy(update=change(settings))


def _model(name: str) -> str:
    """Return the tiny model that is used in place of a model of the papers."""
    if "roberta" in name:
        return "tiny:roberta-pretrained"
    return "tiny:bert-deep" if "large" in name else "tiny:bert-pretrained" if "bert" in name else name


def _fewer(steps: int, share: int = STEPS) -> int:
    return max(1, round(steps / share))


def _shorter_rounds(axis: Mapping[int, Mapping[str, int]]) -> dict[int, dict[str, int]]:
    """Return the axis of round lengths with shorter rounds; labels are total steps, and equal lengths are merged."""
    rounds = {_fewer(own["round_steps"]): steps // own["round_steps"] for steps, own in axis.items()}
    return {count * steps: {"round_steps": steps} for steps, count in rounds.items()}


_DATA = {"corpus": "tiny:articles", "data_dir": "tiny:glue-more"}
_PARAMETERS: dict[str, Callable[[Any], Any]] = {
    "model": _model,
    "other_model": _model,
    "models": lambda models: {label: _model(name) for label, name in models.items()},
    "seeds": lambda seeds: seeds[:SEEDS],
    "search_seeds": lambda seeds: seeds[:SEEDS],
    "levels": lambda levels: levels[1::3],
    "search_steps": lambda steps: {sparsity: _fewer(count) for sparsity, count in steps.items()},
    "trained_steps": _fewer,
    "save_at": lambda steps: sorted({_fewer(step) for step in steps}),
    "round_steps": _fewer,
    "imp_steps": _shorter_rounds,
    "text_steps": lambda steps: _fewer(steps, TEXT_STEPS),
    "mlm_round_steps": lambda steps: _fewer(steps, TEXT_STEPS),
}
"""Changes to parameters of recipes that name models, label axes or agree with such labels; other parameters stay."""


def _shorter(segments: str) -> str:
    return re.sub(r"\d+", lambda found: str(int(found.group()) // LENGTH), segments)


def _subset(size: str | None, share: int = EXAMPLES) -> str | None:
    """Return a smaller size of a training subset; p % become 10 * sqrt(p) %, because 1 % would be no example."""
    if size is None:
        return None
    number, percent = parse_size(size)
    return f"{10 * math.sqrt(number):.3g}%" if percent else str(max(1, int(number) // share))


def _rate(rate: float, times: int = RATE) -> float:
    return float(f"{times * rate:.6g}")


def _batch(size: int) -> int:
    return max(LEAST_BATCH, size // BATCH)


def _task(name: str | None) -> Task:
    return MLM if name == MLM.name else TASKS.get(str(name)) or TASKS["rte"]


def _trained(settings: TransferConfig | ShareConfig, task: Task) -> dict[str, Any]:
    rates = settings.learning_rate or task.fixed_rate
    values = {
        "batch_size": _batch(settings.batch_size or task.batch_size),
        "learning_rate": tuple(map(_rate, rates)) if isinstance(rates, tuple) else _rate(rates),
        "train_size": _subset(settings.train_size),
    }
    length = (settings.max_length or task.max_length) // LENGTH
    return values if task.doc_stride else values | {"max_length": length}


def _transfer(settings: TransferConfig) -> dict[str, Any]:
    task = _task(settings.task)
    own = settings.patience is not None or settings.eval_steps is not None
    measured = {"max_tokens": EVALUATED_TOKENS} if task is MLM else {}
    return _trained(settings, task) | measured | ({} if own else {"eval_steps": EVAL_STEPS})


def _super(settings: SuperConfig) -> dict[str, Any]:
    config = settings.resolved()
    length = (config.fine_tuning.max_length or 512) // LENGTH
    changed = {"max_length": length, "train_size": _subset(config.fine_tuning.train_size)}
    return {
        "fine_tuning": settings.fine_tuning.model_copy(update=changed),
        "learning_rates": tuple(map(_rate, _ends(config.learning_rates or (2e-5,)))),
        "batch_sizes": tuple(map(_batch, _ends(config.batch_sizes or (32,)))),
    }


def _ends(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the first and the last of a grid's values."""
    return tuple(dict.fromkeys((values[0], values[-1])))


def _search(settings: SearchConfig) -> dict[str, Any]:
    config = settings.resolved()
    values: dict[str, Any] = {}
    if isinstance(config, TextSearch) and config.reads_corpus:
        values |= {"batch_tokens": config.batch_tokens // STEP_TOKENS, "segments": _shorter(config.segments)}
    if isinstance(config, ScoreTraining):
        values["learning_rate"] = _rate(config.learning_rate, STEPS)
    if isinstance(config, MaskTraining):
        values |= {
            "head_learning_rate": _rate(config.head_learning_rate),
            "reselect_steps": _fewer(config.reselect_steps),
        }
    if not isinstance(config, ImpSearch):
        return values
    tasks = [_task(name) for name in config.tasks]
    usual = 5e-5 if config.reads_corpus or not tasks else tasks[0].fixed_rate
    values["learning_rate"] = _rate(config.learning_rate or usual)
    if config.round_examples is not None:
        values["round_examples"] = _fewer(config.round_examples, SEGMENTS)
    if config.train_size is not None:
        values["train_size"] = _subset(config.train_size, EXAMPLES if tasks else SEGMENTS)
    if tasks:
        values["batch_size"] = _batch(config.batch_size or min(task.batch_size for task in tasks))
    if tasks and not any(task.doc_stride for task in tasks):
        values["max_length"] = (config.max_length or max(task.max_length for task in tasks)) // LENGTH
    return values


def _evaluate(settings: EvaluateConfig) -> dict[str, Any]:
    tokens = min(settings.max_tokens or EVALUATED_TOKENS, EVALUATED_TOKENS)
    return {"segments": _shorter(settings.segments), "max_tokens": tokens}


_SETTINGS: dict[type[Settings], Callable[[Any], dict[str, Any]]] = {
    TransferConfig: _transfer,
    SuperConfig: _super,
    ShareConfig: lambda settings: _trained(settings.resolved(), _task(None)),
    SearchConfig: _search,
    EvaluateConfig: _evaluate,
}
