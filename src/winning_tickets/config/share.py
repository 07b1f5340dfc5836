"""The configurations of ticket sharing (one encoder for several tasks) and of the search for a super ticket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Annotated, Any, Literal, Self

from pydantic import model_validator

from winning_tickets.config.levels import PercentLevels, Unit, WithLevels
from winning_tickets.config.profiles import Profile, tuned_rate
from winning_tickets.config.settings import (
    ASCENDING,
    GROUPING_MEANING,
    PROFILE_MEANING,
    Count,
    Open,
    Share,
    Size,
    as_percent,
    in_order_of,
    setting,
)
from winning_tickets.config.transfer import (
    DROPOUT_MEANING,
    FILES,
    MODEL,
    RATE_MEANING,
    SMART,
    USUAL_PATIENCE,
    Dropout,
    Smart,
    TransferConfig,
    transfer_profile,
)
from winning_tickets.runs.errors import UsageError, unknown

AUTO = "auto"
NONE = "none"
USUAL_LEVEL = 30.0  # percent of the heads and FFNs that the tickets of `auto` prune if no level is given

_PAPER_RATE = 5e-5
_TUNED: dict[str, Any] = {
    "epochs": 5.0,
    "optimizer": "adamw",
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "strict": True,
    "best_by": "task",
    "dropout": 0.0,
    "group_by_length": True,
}
# Super Tickets, appendix A.2.1: 512 tokens. It stops early with a patience that is not stated, so all epochs are
# trained, as in the released code, and the best one is reported.
_PAPER = _TUNED | {
    "learning_rate": _PAPER_RATE,
    "optimizer": "adamax-mtdnn",
    "max_length": 512,
    "best_by": "average",
    "dropout": "model",
    "group_by_length": False,
}
# Not strict: momentum and weight decay also change weights outside the ticket of a batch.
_CODE = _TUNED | {
    "learning_rate": _PAPER_RATE,
    "optimizer": "adamax-mtdnn",
    "max_length": 512,
    "strict": False,
    "dropout": "model",
    "group_by_length": False,
}
_VALUES: dict[Profile, dict[str, Any]] = {"tuned": _TUNED, "paper": _PAPER, "code": _CODE}
_DROPOUT: dict[Profile, dict[str, float]] = {
    "paper": {"mnli": 0.3, "cola": 0.05},  # Super Tickets, appendix A
    "code": {"mnli": 0.2, "cola": 0.05},
}
_USUAL_DROPOUT = 0.1
# A fine-tuning on one task alone: Super Tickets, section 5.2 and appendix A.1.2. The released code evaluates as the
# paper does, not as that of TAMT, which the profile `code` of a transfer follows.
_ALONE_PAPER: dict[str, Any] = {"epochs": 6.0, "eval_steps": "epoch"}
_LIKE_THE_PAPER = ("best_includes_final", "best_above_zero", "best_by", "padding")


def _alone(profile: Profile, task: str | None) -> dict[str, Any]:
    """Return the values of a profile for a fine-tuning on one task alone."""
    if profile == "tuned":
        return {}
    values, paper = {"profile": profile} | _ALONE_PAPER, transfer_profile("paper", task)
    if profile == "code":
        values |= {name: paper[name] for name in (*_LIKE_THE_PAPER, *(["mnli_dev"] if task == "mnli" else []))}
    return values


SINGLE_TASK_FIELDS = (
    *("seeds", "train_size", "batch_size", "optimizer", "warmup_ratio", "weight_decay", "dropout", "max_length"),
    *("smart", "group_by_length", "allow_other_weights"),
)
"""Settings that the fine-tuning on a single task takes over from the sharing."""
OWN_FILES = {"train_file": "file", "validation_file": "file", "label_column": "column", "metric": "metric"}
"""Settings of the user's own files that may have a value for each task, and a word for such a value."""

_model = partial(setting, panel=MODEL)
_files = partial(setting, panel=FILES)
_tickets = partial(setting, panel="Tickets")
_tune = partial(setting, panel="Training")


class ShareConfig(WithLevels):
    """Configuration of ticket sharing (Super Tickets, section 4): one encoder for several tasks, once for each seed.

    A choice that is None takes the value of the profile, a number that is None the default of the task.
    """

    tasks: tuple[str, ...] = _model(..., "Tasks that share an encoder, such as rte,mrpc,cola.", everyday=True)
    model: str | None = _model(
        None, "Hub id, local folder or builtin:minilm. By default the base model of the tickets.", everyday=True
    )
    revision: str | None = _model(None, "Hub revision of the model.")
    layers: Count | None = _model(None, "Number of layers to keep, from the first. By default all.")
    tickets: Literal["auto"] | dict[str, str] | None = _tickets(
        None,
        "Ticket folders in the order of --tasks, or task=DIR,task=DIR; none, for multi-task training without tickets "
        "(MT-DNN); or auto, which fine-tunes on each task and prunes the least important units to --level. By default "
        "the tickets that the task file names.",
        everyday=True,
    )
    level: dict[str, float] | None = _tickets(
        None,
        "Percent of the heads and FFNs that --tickets auto prunes: 30%, or task=10%,task=30%. 0% means no ticket.",
        everyday=True,
    )
    task_file: str | None = _model(None, "YAML that defines the tasks of your own files.")
    train_file: dict[str, str] | None = _files(
        None,
        "Your own training files as task=FILE; repeat the option or use commas. --tasks may be left out then.",
        everyday=True,
    )
    validation_file: dict[str, str] | None = _files(None, "The validation files, in the same way.", everyday=True)
    text_columns: tuple[str, ...] | None = _files(None, "One or two text columns of all your files, such as a,b.")
    label_column: dict[str, str] | None = _files(
        None, "Label column of your files, one for all or as task=COLUMN. By default label."
    )
    metric: dict[str, str] | None = _files(None, "Primary metric of your files, one for all or as task=METRIC.")
    drop_unlabelled: bool = _files(False, "Leave out rows of your files without a label, instead of refusing them.")
    data_dir: str | None = _model(
        None,
        "Folder with the tasks' data: a GLUE download (CoLA/ ...), or a copy of the hub's repository.",
        everyday=True,
    )
    profile: Profile = _tune("tuned", PROFILE_MEANING, everyday=True)
    seeds: tuple[int, ...] = _tune(
        (0,),
        "Seeds of the heads, the data order and dropout, such as 0,1,2; one run for each. --tickets auto uses "
        "the first.",
        option="--seeds --seed",
        everyday=True,
    )
    train_size: Size | None = _model(
        None,
        "N examples or P% of each training set. With one seed, larger subsets contain smaller ones.",
        everyday=True,
    )
    epochs: Open[float] = _tune(
        None, "Passes over the training sets; --mixing decides the batches of a pass.", gt=0, everyday=True
    )
    steps: int | None = _tune(None, "Optimizer steps, instead of --epochs.", ge=1, everyday=True)
    batch_size: int | None = _tune(None, "Examples per step.", ge=1, everyday=True)
    learning_rate: float | None = _tune(None, RATE_MEANING, gt=0, everyday=True)
    optimizer: Open[Literal["adamw", "adamax", "adamax-mtdnn"]] = _tune(
        None, "Optimizer: adamw, adamax, or adamax-mtdnn (without bias correction, as in the paper)."
    )
    warmup_ratio: Open[Share] = _tune(None, "Fraction of the steps with linear warm-up.", ge=0, le=1)
    weight_decay: Open[float] = _tune(None, "Weight decay of matrices. Biases and norms never decay.", ge=0)
    max_grad_norm: float = _tune(1.0, "Norm that gradients are clipped to.", gt=0)
    dropout: Dropout = _tune(None, DROPOUT_MEANING)
    dropout_p: dict[str, float] | None = _tune(
        None, "Dropout before the heads: 0.1, or task=0.05. By default that of the task file, the profile or the model."
    )
    group_by_length: Open[bool] = _tune(None, GROUPING_MEANING)
    mixing: Literal["proportional", "annealed", "ratio", "round-robin"] = _tune(
        "proportional", "Order of the tasks' batches: proportional, annealed, ratio or round-robin."
    )
    main_task: str | None = _tune(None, "Main task of --mixing ratio. By default the first task.")
    ratio: float | None = _tune(
        None, "Batches of all other tasks together for each batch of the main task (--mixing ratio)."
    )
    max_length: int | None = _tune(
        None,
        "Maximum tokens of an example. By default that of the profile (paper and code: 512) or of the task.",
        ge=1,
        everyday=True,
    )
    early_stopping: bool = _tune(
        False, f"Stop early, with a --patience of {USUAL_PATIENCE} if none is given.", option="--early-stopping"
    )
    patience: int | None = _tune(
        None,
        "Stop after this many epochs in a row whose average of the tasks' primary metrics is worse than the best one. "
        "An equal average is not worse, and a training never stops during the warm-up.",
        ge=1,
    )
    best_by: Open[Literal["task", "average"]] = _tune(
        None,
        "Evaluation that is reported as the best: of each task its own (task), or for all tasks that with the best "
        "average of their primary metrics (average), as for one model.",
    )
    strict: Open[bool] = _tune(
        None,
        "Update only the weights in the ticket of the task of a step (Super Tickets, Algorithm 1). Otherwise momentum "
        "and weight decay change other weights too, as in the released code.",
    )
    single_epochs: float | None = _tickets(
        None,
        "Epochs of the single-task fine-tuning of --tickets auto and --fine-tune. By default 6 (paper and code) or the "
        "task's own.",
        gt=0,
    )
    single_learning_rate: float | None = _tickets(
        None,
        "Peak learning rate of the single-task fine-tuning. By default --learning-rate, or that of the profile.",
        gt=0,
    )
    fine_tune: bool = _tickets(
        False, "Afterwards fine-tune the shared model on each task alone, with the mask of its ticket.", everyday=True
    )
    smart: Smart | None = setting(None, "Adversarial regularization of every training.", SMART)
    save_model: bool = _tune(True, "Save the shared model of each seed.", everyday=True)
    allow_other_weights: bool = _model(False, "Use tickets on weights they were not made for.")

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, values: Any) -> Any:
        """Convert values that are given in the order of the tasks, or with their names, to dicts by task."""
        if not isinstance(values, dict):
            return values
        given = values.get("tasks", () if values.get("train_file") else None)
        if not isinstance(given, str | list | tuple):
            return values
        own = [_named(part) for part in _listed(values.get("train_file") or ())]
        tasks = tuple(map(str, _listed(given) or [task for task, _ in own if task]))
        values = values | {"tasks": tasks}
        repeated = [task for place, task in enumerate(tasks) if task in tasks[:place]]
        if repeated:
            raise UsageError(f"--tasks names {repeated[0]} twice; two tasks cannot have one name.")
        tickets = values.get("tickets")
        if tickets == NONE:
            values["tickets"] = {}
        elif tickets is not None and tickets != AUTO:
            folders = by_task("--tickets", tickets, tasks, "folder")
            values["tickets"] = {task: str(path) for task, path in folders.items() if str(path) != NONE}
        if values.get("dropout_p") is not None:
            values["dropout_p"] = by_task("--dropout-p", values["dropout_p"], tasks, "number", one_for_all=True) or None
        for field, what in ({"level": "level"} | OWN_FILES).items():
            if values.get(field) is not None:
                one_for_all = field not in ("train_file", "validation_file")
                values[field] = by_task(cls.option_of(field), values[field], tasks, what, one_for_all=one_for_all)
        if values.get("level") is not None:
            values["level"] = {task: as_percent(level) for task, level in values["level"].items()}
        return values

    def resolved(self) -> Self:
        """Return this configuration with the values of its profile where a choice is None."""
        stopping = {"patience": USUAL_PATIENCE} if self.early_stopping else {}
        return self.filled(type(self), _VALUES[self.profile] | stopping)

    def peak_rate(self, width: int, steps: int) -> float:
        """Return the peak learning rate for an encoder with this hidden size, trained for so many steps."""
        given = self.resolved().learning_rate
        return max(_PAPER_RATE, tuned_rate(width, steps)) if given is None else given

    def level_of(self, task: str) -> float:
        """Return the percentage of units that the ticket of a task prunes under `auto`."""
        return USUAL_LEVEL if self.level is None else self.level[task]

    def dropout_of(self, task: str, own: float | None) -> float | None:
        """Return the dropout before the head of a task, whose task file says `own`; None means that of the model."""
        given = (self.dropout_p or {}).get(task, own)
        if given is not None or self.profile == "tuned":
            return given
        return _DROPOUT[self.profile].get(task, _USUAL_DROPOUT)

    def alone(self, target: str, task: str, head_dropout: float | None) -> TransferConfig:
        """Return the settings of fine-tuning on one task alone, from the base model or the shared model."""
        if task in (self.train_file or {}):
            data: dict[str, Any] = {field: (getattr(self, field) or {}).get(task) for field in OWN_FILES}
            data |= {"task_name": task, "text_columns": self.text_columns, "drop_unlabelled": self.drop_unlabelled}
            data |= {"label_column": data["label_column"] or "label"}
        else:
            data = {"task": task, "task_file": self.task_file, "data_dir": self.data_dir}
        own = {"epochs": self.single_epochs, "learning_rate": self.single_learning_rate or self.learning_rate}
        own["head_dropout"] = head_dropout
        return TransferConfig(
            target=target,
            save_model=True,
            **data,
            **{field: getattr(self, field) for field in SINGLE_TASK_FIELDS},
            **_alone(self.profile, task) | {field: value for field, value in own.items() if value is not None},
        )


def by_task(option: str, value: Any, tasks: Sequence[str], what: str, *, one_for_all: bool = False) -> dict[str, Any]:
    """Return values by task from a mapping, from `a,b` or a list in the order of the tasks, or from `rte=a,mrpc=b`."""
    # Messages use `option` as the name of the option and `what` as that of one value. With `one_for_all` a single value
    # applies to all tasks.
    found = list(value.items()) if isinstance(value, Mapping) else [_named(part) for part in _listed(value)]
    named = [(task, part) for task, part in found if task is not None]
    if not named and one_for_all and len(found) == 1:
        return dict.fromkeys(tasks, found[0][1])
    if not named and len(found) == len(tasks):
        return {task: part for task, (_, part) in zip(tasks, found, strict=True)}
    if len(named) < len(found):
        raise UsageError(
            f"{option} gives {len(found)} {what}(s) for {len(tasks)} tasks ({', '.join(tasks)}); give one for each, in "
            f"their order, or by name: {next(iter(tasks), 'rte')}={what.upper()},..."
        )
    values: dict[str, Any] = {}
    for task, part in named:
        if task not in tasks:
            raise unknown("task", str(task), tasks, f"{option} names it; the tasks are those of --tasks.")
        if task in values:
            raise UsageError(f"{option} names {task} twice; give it one {what}.")
        values[task] = part
    return values


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [f"{task}={part}" for task, part in value.items()]
    if isinstance(value, list | tuple):
        return list(value)
    return [part.strip() for part in str(value).split(",") if part.strip()]


def _named(part: Any) -> tuple[str | None, Any]:
    """Split `rte=DIR` into ("rte", "DIR"); a = after a slash belongs to a path."""
    name, sign, rest = str(part).partition("=")
    return (name.strip(), rest.strip()) if sign and "/" not in name else (None, part)


Selection = Literal["winning", "random", "losing"]
SELECTIONS: tuple[Selection, ...] = ("winning", "random", "losing")
LEVELS = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)  # the eight levels of the paper's figures

# Super Tickets, section 5.2 and appendix A.1.2; the weight decay is that of the released code.
_SUPER_GRID: dict[str, Any] = {"learning_rates": (5e-5, 1e-4, 2e-4), "batch_sizes": (8, 16, 32)}
_SUPER_PAPER: dict[str, Any] = {
    "optimizer": "adamax-mtdnn",
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "max_length": 512,
}
SELECT_ON = 0.1

_super = partial(setting, panel="Tickets")
_grid = partial(setting, panel="Grid")


class SuperConfig(PercentLevels):
    """Configuration of the search for the best ticket of heads and FFNs for a task (Super Tickets, sections 3, 5)."""

    fine_tuning: TransferConfig = setting(
        ...,
        "Fine-tuning of the full model and of every ticket. Its target is the model, and its select_on the part of the "
        "dev set on which settings, the best evaluation and the super ticket are chosen.",
        "Fine-tuning",
    )
    level: Annotated[tuple[float, ...], ASCENDING] = _super(
        LEVELS, "Percents of the units that tickets prune.", everyday=True
    )
    units: tuple[Unit, ...] = _super(
        ("heads", "ffns"), "Units that --level prunes: any of heads, ffns, neurons and layers.", everyday=True
    )
    selections: Annotated[tuple[Selection, ...], in_order_of(SELECTIONS)] = _super(
        SELECTIONS, "Kinds of tickets to fine-tune: any of winning, random and losing.", everyday=True
    )
    importance: Literal["sample", "token", "batch", "released"] | None = _super(
        None,
        "Unit over which a gradient is summed before its absolute value is taken: sample (Super Tickets, eq. 3), token "
        "or batch; or as in the released code (released).",
    )
    importance_train_size: Size | None = _super(
        None, "N examples or P% of the training set to compute importances on. By default all."
    )
    importance_from: str | None = _super(
        None,
        "A transfer with --save-model. By default the full model is fine-tuned to compute importances.",
        everyday=True,
    )
    min_heads_per_layer: int | None = _super(None, "Smallest number of heads that every layer keeps.", ge=0)
    recover: int = _super(
        0,
        "Optimizer steps in which the encoder of each ticket learns to follow the dense one on the task's texts, "
        "before it is fine-tuned.",
        ge=0,
        everyday=True,
    )
    learning_rates: tuple[float, ...] | None = _grid(
        None, "Peak learning rates to try.", option="--learning-rates --learning-rate", everyday=True
    )
    batch_sizes: tuple[int, ...] | None = _grid(
        None, "Batch sizes to try.", option="--batch-sizes --batch-size", everyday=True
    )
    profile: Profile = _grid(
        "tuned",
        "Source of the settings that are not given. The profiles paper and code also try the paper's grid: 3 learning "
        "rates and 3 batch sizes.",
        everyday=True,
    )

    def resolved(self) -> SuperConfig:
        """Return this configuration with the values of its profile where a choice is None."""
        values: dict[str, Any] = {"select_on": SELECT_ON}
        grid: dict[str, Any] = dict.fromkeys(_SUPER_GRID, ())
        if self.profile != "tuned":
            grid, task = _SUPER_GRID, self.fine_tuning.task
            values |= _SUPER_PAPER | _alone(self.profile, task)
            values["head_dropout"] = _DROPOUT[self.profile].get(str(task), _USUAL_DROPOUT)
        own = {name: value for name, value in grid.items() if getattr(self, name) is None}
        given = self.fine_tuning.model_fields_set | ({"epochs"} if self.fine_tuning.steps is not None else set())
        open_ = {name: value for name, value in values.items() if name not in given}
        return self.model_copy(update=own | {"fine_tuning": self.fine_tuning.model_copy(update=open_)})

    def identity(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """Return the fields of a run's identity; examples were once selected by their place, and now by their texts."""
        return super().identity(exclude_defaults=exclude_defaults) | {"selected": "by content"}

    def grid(self) -> Iterator[tuple[str, TransferConfig]]:
        """Yield a folder name and the fine-tuning for each setting to try; the configuration must be resolved."""
        rates = self.learning_rates or (None,)
        sizes = self.batch_sizes or (None,)
        for rate, size in product(rates, sizes):
            values = {"learning_rate": rate, "batch_size": size}
            chosen = {name: value for name, value in values.items() if value is not None}
            name = "_".join(f"{word}-{value:g}" for word, value in (("lr", rate), ("batch", size)) if value is not None)
            yield name or "task-settings", self.fine_tuning.model_copy(update=chosen)
