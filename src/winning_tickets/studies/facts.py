"""Settings of planned trainings, resolved with their profiles and tasks, in the words of the contracts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winning_tickets.config import PRETRAINED, EvaluateConfig, SearchConfig, ShareConfig, SuperConfig, TransferConfig
from winning_tickets.config.mask_training import MaskTraining
from winning_tickets.config.profiles import MODEL_DROPOUT
from winning_tickets.config.search import CountedSearch, WeightSearch
from winning_tickets.config.structured import ImportanceSearch, UnitSearch
from winning_tickets.config.weight_training import ImpSearch
from winning_tickets.data.records import Task
from winning_tickets.data.tasks import TASKS, TEXT_TASKS
from winning_tickets.studies.expressions import is_reference
from winning_tickets.studies.references import Run, target_id

Facts = dict[str, Any]
BY_SIZE = "by width and steps"  # a learning rate that the profile `tuned` computes
MODELS = "the model"  # what a training starts from, if it is no earlier run
_CLIP = 1.0  # norm of the gradients of every fine-tuning
_USUAL = Task("", (), (), ("accuracy",))


def facts_of(run: Run, runs: Mapping[str, Run]) -> list[Facts]:
    """Return the settings of a run, once for each task that it trains on; none for a run that trains nothing.

    `verb`, `method`, `objective`, `starts_from` and `task` say which kind of training it is.
    """
    settings = run.settings
    known = {"verb": run.verb, "model": model_of(run, runs)}
    if isinstance(settings, TransferConfig):
        own = known | {"starts_from": _start(settings.target, runs), "seed": _plain(settings.seeds)}
        own |= {"weights": _weights(settings.start_from)} | _same_fine_tuning(settings, run.config)
        found = runs.get(target_id(settings.settings_from or ""))
        grid = {} if found is None else facts_of(found, runs)[0]
        return [own | {name: grid[name] for name in ("learning_rate", "batch_size") if name in grid}]
    if isinstance(settings, SuperConfig):
        return [known | _super_ticket(settings)]
    if isinstance(settings, ShareConfig):
        return [known | _sharing(settings, task) for task in settings.tasks]
    if isinstance(settings, SearchConfig):
        return [known | found for found in _search(settings)]
    return [known | _loss(settings)] if isinstance(settings, EvaluateConfig) else []


def model_of(run: Run, runs: Mapping[str, Run]) -> str:
    """Return the pre-trained model that a run starts from; references to other runs are followed."""
    fields = run.config.get("fine_tuning", {}) | run.config
    name = str(fields.get("model") or fields.get("target") or next(iter((fields.get("tickets") or {}).values()), ""))
    return model_of(runs[target_id(name)], runs) if is_reference(name) and target_id(name) in runs else name


def _start(target: str, runs: Mapping[str, Run]) -> str:
    found = runs.get(target_id(target)) if is_reference(target) else None
    return MODELS if found is None else found.verb


def _weights(start_from: str) -> str:
    return start_from.partition("/")[2] if is_reference(start_from) else start_from


_OF_ONE_RUN = ("target", "seeds", "start_from", "settings_from")
_fine_tunings: dict[str, Facts] = {}


def _same_fine_tuning(settings: TransferConfig, config: Mapping[str, Any]) -> Facts:
    """Return the settings of a fine-tuning; those that differ in their target and seeds only are resolved once."""
    key = repr([item for item in config.items() if item[0] not in _OF_ONE_RUN])
    if key not in _fine_tunings:
        _fine_tunings[key] = _fine_tuning(settings)
    return _fine_tunings[key]


def _plain(values: tuple[Any, ...]) -> Any:
    """Return the only value of a grid, or all of its values."""
    return values[0] if len(values) == 1 else values


def _fine_tuning(given: TransferConfig) -> Facts:
    found = [_one_fine_tuning(candidate) for candidate in given.candidates().values()]
    return found[0] | {field: _plain(tuple(one[field] for one in found)) for field in given.chosen_fields}


def _one_fine_tuning(given: TransferConfig) -> Facts:
    config = given.resolved()
    task = (TASKS | TEXT_TASKS).get(str(config.task), _USUAL)
    is_text = config.task in TEXT_TASKS
    facts: Facts = {
        "task": config.task,
        "train_size": config.train_size or "all",
        "optimizer": config.optimizer,
        "learning_rate": config.learning_rate or (BY_SIZE if config.profile == "tuned" else task.fixed_rate),
        "batch_size": config.batch_size or task.batch_size,
        "max_length": config.max_length or task.max_length,
        "epochs": None if config.steps else float(config.epochs or task.epochs),
        "steps": config.steps,
        "warmup_ratio": config.warmup_ratio,
        "weight_decay": config.weight_decay,
        "clip": _CLIP,
        "dropout": config.dropout,
        "head_dropout": _head_dropout(config.head_dropout, task),
        "batches": _batches(by_length=config.group_by_length),
        "evaluations": _evaluations(config.eval_steps, config.patience, task),
        "patience": config.patience,
        "selection": config.select_on,
        "best_of": "all" if config.best_includes_final else "all but the last",
    }
    if config.task == "mnli":
        facts["primary_split"] = config.mnli_dev
    return facts | ({"corpus": config.corpus} if is_text else {})


def _evaluations(eval_steps: int | str | None, patience: int | None, task: Task) -> str | int:
    if eval_steps is None:
        return "epoch" if patience else task.eval_steps
    return eval_steps


def _head_dropout(given: float | None, task: Task) -> float | str:
    own = task.head_dropout if given is None else given
    return "model" if own is None else own


def _batches(*, by_length: bool) -> str:
    return "similar lengths" if by_length else "random"


def _super_ticket(given: SuperConfig) -> Facts:
    config = given.resolved()
    facts = _fine_tuning(config.fine_tuning)
    return facts | {
        "seed": _plain(config.fine_tuning.seeds),
        "weights": _weights(config.fine_tuning.start_from),
        "learning_rate": _plain(config.learning_rates or (facts["learning_rate"],)),
        "batch_size": _plain(config.batch_sizes or (facts["batch_size"],)),
        "level": config.level,
        "units": config.units,
        "tickets": config.selections,
        **_importance(ImportanceSearch(model="", level=(10.0,), profile=config.profile), config),
    }


def _importance(given: UnitSearch, over: SuperConfig | None = None) -> Facts:
    config = given.resolved()
    first = config if over is None else over
    heads = first.min_heads_per_layer
    return {
        "importance": first.importance or config.importance,
        "min_heads_per_layer": config.min_heads_per_layer if heads is None else heads,
    }


def _sharing(given: ShareConfig, name: str) -> Facts:
    config, task = given.resolved(), TASKS.get(name, _USUAL)
    head = config.dropout_of(name, task.head_dropout)
    return {
        "task": name,
        "seed": _plain(config.seeds),
        "train_size": config.train_size or "all",
        "tickets": "none" if not config.tickets else "each task",
        "optimizer": config.optimizer,
        "learning_rate": config.learning_rate or BY_SIZE,
        "batch_size": config.batch_size or task.batch_size,
        "max_length": config.max_length or task.max_length,
        "epochs": None if config.steps else float(config.epochs),
        "steps": config.steps,
        "warmup_ratio": config.warmup_ratio,
        "weight_decay": config.weight_decay,
        "clip": config.max_grad_norm,
        "dropout": config.dropout,
        "head_dropout": "model" if head is None else head,
        "batches": _batches(by_length=config.group_by_length),
        "mixing": config.mixing,
        "patience": config.patience,
        "best_by": config.best_by,
        "only_own_tickets": config.strict,
    }


def _search(given: SearchConfig) -> list[Facts]:
    config = given.resolved()
    facts: Facts = {"method": config.method, "seed": config.seed}
    if isinstance(config, UnitSearch):
        return [
            facts | {"level": _plain(config.level), "units": config.units or ("heads", "ffns")} | _importance(config)
        ]
    assert isinstance(config, WeightSearch)
    facts |= {
        "sparsity": _plain(config.sparsities),
        "scope": config.scope,
        "ranking": config.ranking,
        "counts": config.count_rounding,
    }
    if isinstance(config, ImpSearch):
        return [facts | found for found in _iterative(config)]
    if isinstance(config, MaskTraining):
        return [facts | _mask_training(config)]
    like = isinstance(config, CountedSearch) and config.like is not None
    return [facts | {"weights": getattr(config, "weights_from", PRETRAINED), "like": like}]


def _mask_training(config: MaskTraining) -> Facts:
    """Return the settings of training masks; those of the MLM head are only there with the MLM loss."""
    passes = f"{config.schedule_passes} passes over the corpus" if config.schedule_passes else "steps of the search"
    with_head = {"head_learning_rate": config.head_learning_rate} if "mlm" in config.terms else {}
    with_teacher = {"teacher_dropout": config.teacher_dropout} if "kd" in config.terms else {}
    return {
        "objective": config.objective,
        "corpus": config.corpus,
        "segments": config.segments,
        "batch_tokens": config.batch_tokens,
        "steps": config.first_steps,
        "optimizer": config.optimizer,
        "learning_rate": config.learning_rate,
        "decay": passes if config.schedule_steps is None else f"{config.schedule_steps} steps",
        "warmup_steps": config.warmup_steps,
        "weight_decay": config.weight_decay,
        "clip": config.clip,
        "dropout": "model" if config.student_dropout == MODEL_DROPOUT else config.student_dropout,
        "score_init": config.score_init,
        "alpha": config.alpha,
        "phi": config.phi,
        "rank_by": config.rank_by,
        "threshold": config.threshold,
        "reselect_steps": config.reselect_steps,
        "masked": config.mlm_probability if "mlm" in config.terms else config.kd_masked_tokens,
        **with_head,
        **with_teacher,
    }


def _iterative(config: ImpSearch) -> list[Facts]:
    """Return the settings of iterative pruning, once for each task, and once if it learns from text."""
    horizon = "all rounds" if config.rate_horizon == "total" else "each round"
    facts: Facts = {
        "objective": config.objective,
        "train_size": config.train_size or "all",
        "optimizer": "adamw",
        "warmup_steps": config.warmup_steps,
        "weight_decay": config.weight_decay,
        "clip": config.max_grad_norm,
        "dropout": "model",
        "decay": _decay(config, horizon),
        "prune_first": config.prune_first,
        "rewind": config.rewind,
        "rewind_scope": config.rewind_scope,
    }
    found = []
    for name in config.tasks:
        task = TASKS.get(name, _USUAL)
        found.append(
            facts
            | {
                "task": name,
                "round": _round(config, f"{task.epochs} epochs"),
                "learning_rate": config.learning_rate or (5e-5 if config.text_terms else task.fixed_rate),
                "batch_size": config.batch_size or task.batch_size,
                "max_length": config.max_length or task.max_length,
                "batches": _batches(by_length=config.group_by_length),
            }
        )
    if config.text_terms:
        text = {"corpus": config.corpus, "segments": config.segments, "batch_tokens": config.batch_tokens}
        rate = {"learning_rate": config.learning_rate or 5e-5, "masked": config.mlm_probability}
        found.append(facts | {"task": "+".join(config.text_terms), "round": _round(config, "1 epochs")} | text | rate)
    return found


def _decay(config: ImpSearch, horizon: str) -> str:
    again = " in each round" if config.rate_horizon == "round" else ""
    if config.schedule_steps is not None:
        return f"{config.schedule_steps} steps{again}"
    return f"{config.schedule_passes} passes over the corpus{again}" if config.schedule_passes else horizon


def _round(config: ImpSearch, own: str) -> str:
    if config.round_steps is not None:
        return f"{config.round_steps} {'step' if config.round_steps == 1 else 'steps'}"
    if config.round_examples is not None:
        return f"{config.round_examples} examples"
    return own if config.round_epochs is None else f"{config.round_epochs:g} epochs"


def _loss(config: EvaluateConfig) -> Facts:
    return {
        "objective": config.objectives,
        "corpus": config.corpus,
        "segments": config.segments,
        "mlm_head": config.mlm_head,
        "kd_loss": config.kd_loss,
        "max_tokens": config.max_tokens,
    }
